"""Does it matter? What the components on which IG and AP agree or differ do together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import (
    MIB_SHARES,
    Exclusive,
    activation_differences,
    area_to_one,
    area_under,
    faithfulness,
    largest,
    matched_sets,
    multi_ablated_performance,
    random_sets,
)
from analysis.agreement import Estimate, mean_over_prompts
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.forward import KINDS
from analysis.models import fingerprint
from analysis.studies.cache import cached_frame, cached_scores
from analysis.tasks import TASKS, PromptPairs, load_task

SIZES = {"heads": (2, 4, 8), "neurons": (10, 50, 200)}
VALUES = ("source", "mean")
DRAWS = 20
RESAMPLES = 2000


@dataclass(frozen=True)
class Consequences:
    """What sets of components do, noising.

    sets: task, kind, values (what replaces an activation), k, set, size, keep (whether the set or
        the others of its kind are ablated), and the estimate of the metric's change as a share of
        the mean total effect. Of drawn sets it is the mean over draws of each prompt's change.
    curves: task, kind, method, share (of components kept), faithfulness.
    areas: task, kind, method, area (CPR or CMD of MIB), and its estimate.
    """

    sets: pl.DataFrame
    curves: pl.DataFrame
    areas: pl.DataFrame


def consequences(
    model: TransformerBridge, n: int, seed: int = 0, progress: bool | None = None
) -> Consequences:
    """All sets, curves and areas of every task; the scores are those of the aligned baselines."""
    frames: dict[str, list[pl.DataFrame]] = {"sets": [], "curves": [], "areas": []}
    weights = fingerprint(model)
    for task in TASKS:
        pairs = load_task(task, model, n=n, seed=seed)
        ap, ig = (
            cached_scores(method, model, pairs, direction="noising", progress=progress)
            for method in (activation_patching, integrated_gradients)
        )
        depends = (weights, pairs.fingerprint(), ap, ig, seed)
        frames["sets"].append(
            cached_frame(f"sets-{task}", lambda a=(model, pairs, ap, ig, seed): _sets(*a), *depends)
        )
        kept = cached_frame(
            f"kept-{task}", lambda a=(model, pairs, ap, ig, seed): _kept(*a), *depends
        )
        frames["curves"].append(_curves(kept))
        frames["areas"].append(_areas(kept, seed))
    return Consequences(**{name: pl.concat(parts) for name, parts in frames.items()})


def named_sets(
    ig: Float[np.ndarray, "layer component"],
    ap: Float[np.ndarray, "layer component"],
    differences: Float[np.ndarray, "layer component"],
    k: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Sets (set, layer, component) by name: the top k of each method, and how they divide.

    `random` draws as many components as either method has to itself, among those that neither
    names; `matched` draws them with the differences of IG's own ones.
    """
    top = Exclusive(largest(ig, k), largest(ap, k))
    union = top.first | top.second
    own = int(top.first_only.sum())
    found = {
        "IG": top.first[None],
        "AP": top.second[None],
        "shared": top.shared[None],
        "IG only": top.first_only[None],
        "AP only": top.second_only[None],
    }
    if own and own <= (~union).sum():
        found["random"] = random_sets(union, own, DRAWS, seed)
        found["matched"] = matched_sets(top.first_only, union, differences, DRAWS, seed=seed)
    return {name: sets for name, sets in found.items() if sets[0].any()}


def _sets(
    model: TransformerBridge, pairs: PromptPairs, ap: Scores, ig: Scores, seed: int
) -> pl.DataFrame:
    rows = []
    for kind in KINDS:
        first, second = (scores.of(kind).mean(dim=0).numpy() for scores in (ig, ap))
        differences = activation_differences(model, pairs, kind)
        for k in SIZES[kind]:
            if k >= first.size:
                continue
            named = named_sets(first, second, differences, k, seed)
            for values, keep, name, change in _changes(model, pairs, kind, named, ap):
                estimate = mean_over_prompts(change, seed)
                size = int(named[name][0].sum())
                place = {"task": pairs.task, "kind": kind, "values": values, "k": k}
                rows.append(place | {"set": name, "size": size, "keep": keep} | estimate._asdict())
    return pl.DataFrame(rows)


def _changes(
    model: TransformerBridge,
    pairs: PromptPairs,
    kind: str,
    named: dict[str, np.ndarray],
    ap: Scores,
) -> Iterator[tuple[str, bool, str, Float[np.ndarray, " prompt"]]]:
    """The metric's change by each set, as a share of the mean total effect."""
    total = float(ap.total.mean())
    together = np.concatenate(list(named.values()))
    ends = np.cumsum([len(sets) for sets in named.values()])[:-1]
    for values in VALUES:
        nothing = np.zeros((1, *together.shape[1:]), dtype=bool)
        base = multi_ablated_performance(model, pairs, nothing, kind, baseline=values).numpy()
        for keep in (False, True):
            metric = multi_ablated_performance(
                model, pairs, together, kind, baseline=values, keep=keep
            ).numpy()
            for name, rows in zip(named, np.split(metric, ends), strict=True):
                yield values, keep, name, (rows.mean(axis=0) - base[0]) / total


def _kept(
    model: TransformerBridge, pairs: PromptPairs, ap: Scores, ig: Scores, seed: int
) -> pl.DataFrame:
    """The metric of each prompt with a share of the components kept: MIB's circuits."""
    random = np.random.default_rng(seed)
    frames = []
    for kind in KINDS:
        by_method = {
            "IG": ig.of(kind).mean(dim=0).numpy(),
            "AP": ap.of(kind).mean(dim=0).numpy(),
            "‖Δa‖": activation_differences(model, pairs, kind),
            "random": random.random(ap.of(kind).shape[1:]),
        }
        for method, scores in by_method.items():
            sets = np.stack([largest(scores, round(s * scores.size)) for s in MIB_SHARES])
            metric = multi_ablated_performance(model, pairs, sets, kind, keep=True).numpy()
            shares, prompts = np.indices(metric.shape)
            frames.append(
                pl.DataFrame(
                    {
                        "share": np.array(MIB_SHARES)[shares].ravel(),
                        "prompt": prompts.ravel(),
                        "metric": metric.ravel(),
                    }
                ).select(
                    pl.lit(pairs.task).alias("task"),
                    pl.lit(kind).alias("kind"),
                    pl.lit(method).alias("method"),
                    pl.all(),
                )
            )
    return pl.concat(frames)


def _circuits(
    kept: pl.DataFrame,
) -> Iterator[tuple[dict[str, str], Float[np.ndarray, "share prompt"]]]:
    keys = ["task", "kind", "method"]
    for key, rows in kept.group_by(keys, maintain_order=True):
        metric = rows.sort("share", "prompt")["metric"].to_numpy().reshape(len(MIB_SHARES), -1)
        yield dict(zip(keys, map(str, key), strict=True)), metric


def _faithful(metric: Float[np.ndarray, "share *batch"]) -> Float[np.ndarray, "share *batch"]:
    """The first share is the empty circuit, the last the whole model."""
    return faithfulness(metric, metric[:1], metric[-1:])


def _curves(kept: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame(
        [
            place | {"share": share, "faithfulness": float(value)}
            for place, metric in _circuits(kept)
            for share, value in zip(MIB_SHARES, _faithful(metric.mean(axis=1)), strict=True)
        ]
    )


def _areas(kept: pl.DataFrame, seed: int) -> pl.DataFrame:
    """CPR and CMD with percentile bootstrap intervals over prompts."""
    random = np.random.default_rng(seed)
    rows = []
    for place, metric in _circuits(kept):
        count = metric.shape[1]
        drawn = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
        for name, area in (("CPR", area_under), ("CMD", area_to_one)):
            whole = float(area(_faithful(metric.mean(axis=1))))
            values = area(_faithful(metric @ drawn.T))
            low, high = np.quantile(values, (0.025, 0.975))
            estimate = Estimate(whole, float(np.std(values, ddof=1)), float(low), float(high))
            rows.append(place | {"area": name} | estimate._asdict())
    return pl.DataFrame(rows)
