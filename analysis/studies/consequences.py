"""Do the components on which IG and AP differ matter? Ablated, kept alone, and on other models.

A set that is chosen and tested on the same prompts looks better than it is. So every other prompt
ranks the components, and what they do is measured on the prompts between.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analysis import ablation, agreement, studies
from analysis.ablation import MIB_SHARES, Sets, largest
from analysis.attribution import Scores
from analysis.choices import KINDS, Baseline, Kind
from analysis.sites import FEWEST_FOR_A_MEAN
from analysis.studies import FEW_PROMPTS, PROMPTS, Scored, both_methods, loaded, store, tidy
from analysis.tasks import TASKS, PromptPairs

SIZES = {"heads": (2, 4, 8), "neurons": (10, 50, 200)}
DRAWS, RESAMPLES = 5, 2000
DRAWN = ("random", "matched")
TREATMENTS: dict[str, dict[str, Any]] = {
    "ablated": {},
    "ablated to means": {"baseline": "mean"},
    "kept alone": {"keep": True},
}
COMPARED = (("IG", "AP"), ("IG only", "matched"), ("AP only", "matched"))
AREAS = {"CPR": ablation.area_under, "CMD": ablation.area_to_one}
RANKS = {("Spearman", None): agreement.spearman, ("overlap", 10): agreement.overlap_at(10)}

Row = dict[str, Any]
Rows = Callable[["Ranking", int], Iterator[Row]]
Means = Float[np.ndarray, "layer component"]


def consequences(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """What sets of components do to the metric, as a share of the mean total effect.

    Columns: task, direction, kind, k, treatment, set, size, statistic. The sets are each method's
    top k, what the two share and what only one of them has; `random` draws as many components as
    that from all others, `matched` such as have about the ‖Δa‖ of IG's. A treatment is `ablated`
    (to the source's activations), `ablated to means`, or `kept alone`: all others of the kind
    ablated. The statistic is `change`: 0 is none, 1 as much as the whole source. Of drawn sets it
    is the mean over draws; a set `A - B`, of size 0, is the paired difference of two.
    """
    return _kept("sets", _changes, model, both_methods(model, n, seed, progress, tasks), seed)


def circuits(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """How faithful the circuits are that keep the components with the largest scores.

    Columns: task, direction, kind, method, statistic, share. A circuit takes the other components
    of its kind to the source's activations. The statistics are `faithfulness` at each share of
    components that MIB keeps, and MIB's areas, `CPR` and `CMD`, whose share is null; the method
    `IG - AP` is the paired difference of two areas.
    """
    return _kept("circuits", _circuits, model, both_methods(model, n, seed, progress, tasks), seed)


def across_models(
    names: list[str] | None = None,
    n: int = FEW_PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """How far IG and AP agree on each model: each training seed, and the untrained network.

    Columns: model, task, direction, kind, statistic, k. The statistics are `Pearson`, `Spearman`
    and `overlap` of the k largest, of prompt-averaged scores; all models see the same prompts.
    """
    frames = []
    for name in studies.models_compared() if names is None else names:
        scored = both_methods(loaded(name), n, seed, progress, tasks)
        found = _kept("headline", _agreement, loaded(name), scored, seed)
        frames.append(found.select(pl.lit(name).alias("model"), pl.all()))
    return pl.concat(frames)


def _kept(
    name: str, rows: Rows, model: TransformerBridge, scored: Iterable[Scored], seed: int
) -> pl.DataFrame:
    """The rows of every task and direction, computed once."""

    def of(pairs: PromptPairs, ap: Scores, ig: Scores) -> pl.DataFrame:
        ranking, about = Ranking(model, pairs, ap, ig), {"task": ap.task, "direction": ap.direction}
        facts, file = (model, pairs, ap, ig, seed), "-".join([name, *about.values()])
        return store.frame(file, lambda: tidy(about | row for row in rows(ranking, seed)), *facts)

    return pl.concat(of(*both) for both in scored)


@dataclass(frozen=True)
class Ranking:
    """IG and AP of one task in one direction; every other prompt ranks, the others test."""

    model: TransformerBridge
    pairs: PromptPairs
    ap: Scores
    ig: Scores

    @cached_property
    def tested(self) -> PromptPairs:
        """The prompts that play no part in the ranking."""
        return self.pairs.select(range(1, len(self.pairs), 2))

    def ranked(self, kind: Kind) -> dict[str, Means]:
        """The ranking half's mean scores, and how much each activation differs, ‖Δa‖."""
        half = self.pairs.select(range(0, len(self.pairs), 2))
        return {
            "IG": self.ig.of(kind)[::2].mean(dim=0).numpy(),
            "AP": self.ap.of(kind)[::2].mean(dim=0).numpy(),
            "‖Δa‖": ablation.activation_differences(self.model, half, kind),
        }

    def metric(
        self, sets: Sets, kind: Kind, baseline: Baseline = "source", keep: bool = False
    ) -> Float[np.ndarray, "set prompt"]:
        """The tested prompts' metric when each set is ablated, or kept alone."""
        return ablation.multi_ablated_performance(
            self.model, self.tested, sets, kind, self.ap.direction, baseline, keep
        ).numpy()


def compared_sets(ig: Means, ap: Means, moved: Means, k: int, seed: int = 0) -> dict[str, Sets]:
    """The top k of each method and how they divide, beside random and matched sets.

    `moved` is ‖Δa‖, by which sets are matched. Drawn sets are as large as what only one method
    has, and hold nothing of either method's top k. A set that is empty is left out, and so are
    drawn ones where too few others are left to draw from.
    """
    first, second = largest(ig, k), largest(ap, k)
    masks = {"IG": first, "AP": second, "shared": first & second}
    masks |= {"IG only": first & ~second, "AP only": second & ~first}
    found = {name: mask[None] for name, mask in masks.items() if mask.any()}
    either, only = first | second, masks["IG only"]
    if 0 < only.sum() <= (~either).sum():
        found["random"] = ablation.random_sets(either, int(only.sum()), DRAWS, seed)
        found["matched"] = ablation.matched_sets(only, either, moved, DRAWS, seed=seed)
    return found


def _changes(ranking: Ranking, seed: int) -> Iterator[Row]:
    for kind in KINDS:
        ranked = ranking.ranked(kind)
        for k in (k for k in SIZES[kind] if k < ranked["IG"].size):
            sets = compared_sets(ranked["IG"], ranked["AP"], ranked["‖Δa‖"], k, seed)
            for treatment, changes in _treated(ranking, kind, sets):
                for name, change in changes.items():
                    size = int(sets[name][0].sum()) if name in sets else 0
                    about = {"kind": kind, "k": k, "treatment": treatment, "set": name}
                    found = {"size": size, "statistic": "change", "n": len(change)}
                    yield about | found | {"estimate": agreement.mean_over_prompts(change, seed)}


def _treated(
    ranking: Ranking, kind: Kind, sets: dict[str, Sets]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each prompt's change by each set, as a share of the mean total effect; draws are averaged.

    Drawn sets are only ablated, as they only compare.
    """
    total, longest = float(ranking.ap.total[1::2].mean()), max(map(len, ranking.tested.groups()))
    for treatment, settings in TREATMENTS.items():
        baseline: Baseline = settings.get("baseline", "source")
        if baseline == "mean" and longest < FEWEST_FOR_A_MEAN:
            continue
        used = {name: of for name, of in sets.items() if name not in DRAWN or not settings}
        base = ranking.metric(np.zeros_like(used["IG"]), kind, baseline)[0]
        metric = ranking.metric(np.concatenate([*used.values()]), kind, **settings)
        parts = np.split(metric, np.cumsum([len(masks) for masks in used.values()])[:-1])
        shares = ((part.mean(axis=0) - base) / total for part in parts)
        changes = dict(zip(used, shares, strict=True))
        pairs = [pair for pair in COMPARED if changes.keys() >= {*pair}]
        yield treatment, changes | {f"{a} - {b}": changes[a] - changes[b] for a, b in pairs}


def _circuits(ranking: Ranking, seed: int) -> Iterator[Row]:
    random = np.random.default_rng(seed)
    for kind in KINDS:
        ranked = ranking.ranked(kind)
        ranked["random"] = random.random(ranked["IG"].shape)
        metrics = {}
        for method, scores in ranked.items():
            sets = np.stack([largest(scores, round(s * scores.size)) for s in MIB_SHARES])
            metrics[method] = ranking.metric(sets, kind, keep=True)
        for row in _faithful(metrics, seed):
            yield {"kind": kind, "n": len(ranking.tested)} | row


def _faithful(metrics: dict[str, Float[np.ndarray, "share prompt"]], seed: int) -> Iterator[Row]:
    """Curves, and areas with percentile bootstrap intervals over prompts; methods share resamples.

    The first share is the empty circuit, the last the whole model.
    """
    count = metrics["IG"].shape[1]
    random, whole = np.random.default_rng(seed), np.full(count, 1 / count)
    drawn = random.multinomial(count, whole, RESAMPLES) / count
    means = {name: metric @ np.vstack([whole, drawn]).T for name, metric in metrics.items()}
    curves = {name: ablation.faithfulness(m, m[:1], m[-1:]) for name, m in means.items()}
    for method, curve in curves.items():
        for share, value in zip(MIB_SHARES, curve[:, 0], strict=True):
            about = {"method": method, "statistic": "faithfulness", "share": share}
            yield about | {"estimate": float(value)}
    for name, area in AREAS.items():
        found = {method: np.asarray(area(curve)) for method, curve in curves.items()}
        found["IG - AP"] = found["IG"] - found["AP"]
        for method, values in found.items():
            low, high = np.quantile(values[1:], (0.025, 0.975)) if count > 1 else (None, None)
            about = {"method": method, "statistic": name, "share": None}
            yield about | {"estimate": float(values[0]), "low": low, "high": high}


def _agreement(ranking: Ranking, seed: int) -> Iterator[Row]:
    for kind in KINDS:
        ap, ig = ranking.ap.of(kind), ranking.ig.of(kind)
        found = {("Pearson", None): agreement.correlation_of_means(ap, ig, kind, seed)}
        for (statistic, k), estimate in (found | agreement.of_means(RANKS, ap, ig, seed)).items():
            about = {"kind": kind, "statistic": statistic, "k": k}
            yield about | {"estimate": estimate, "n": len(ap)}
