"""Does it matter? What the components on which IG and AP agree or differ do together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import Exclusive, largest, matched_sets, random_sets
from analysis.agreement import mean_over_prompts
from analysis.attribution.parts import FEWEST_FOR_A_MEAN
from analysis.forward import KINDS
from analysis.studies.aligned_baselines import PROMPTS
from analysis.studies.cache import cached_frame
from analysis.studies.comparison import ABOVE, BELOW, wide
from analysis.studies.ranking import Ranking, rankings
from analysis.tasks import TASKS

SIZES = {"heads": (2, 4, 8), "neurons": (10, 50, 200)}
DRAWS = 5
DRAWN = ("random", "matched")
COMPARED = (("IG", "AP"), ("IG only", "matched"), ("AP only", "matched"))
# What is done with a set: its activations come from the source or are means, or it alone is kept.
ABLATED, TO_MEANS, KEPT = "ablated", "ablated to means", "kept alone"


@dataclass(frozen=True)
class Consequences:
    """What sets of components do.

    Attributes:
        sets: columns task, direction, kind, k, treatment, set, size, prompts, and the estimate
            (mean, sd, low, high) of the metric's change as a share of the mean total effect: 0
            changes nothing, 1 is as much as the whole source. Of drawn sets it is the mean over
            draws of each prompt's change. A set named `A - B` is the paired difference of two
            sets' changes.
    """

    sets: pl.DataFrame

    def ablation_table(self) -> pl.DataFrame:
        """The change by each ablated set at the middle size, a row a task, direction and kind."""
        shown = ("shared", "IG only", "AP only", "matched", "random")
        rows = self.sets.filter(pl.col("treatment") == ABLATED, pl.col("set").is_in(shown))
        return wide(
            rows.filter(pl.col("k") == _middle()), "set", ["task", "direction", "kind", "k"], shown
        )

    def sets_table(self) -> pl.DataFrame:
        """Every set and treatment."""
        keys = ["task", "direction", "kind", "k", "set", "size"]
        plain = self.sets.filter(~pl.col("set").str.contains(" - "))
        return wide(plain, "treatment", keys, (ABLATED, TO_MEANS, KEPT))

    def shown(self, direction: str) -> pl.DataFrame:
        """What the chart draws: the sets that tell the methods apart, at the middle size."""
        names = ("IG only", "AP only", "matched", "random")
        return self.sets.filter(
            pl.col("direction") == direction,
            pl.col("treatment") == ABLATED,
            pl.col("set").is_in(names),
            pl.col("k") == _middle(),
        )

    def idle(self) -> str:
        """Whether the components that only one method names are idle, in Markdown."""
        return (
            " ".join(self._against_matched(method) for method in ("IG", "AP"))
            + f" The components that both name move it by {self.median('shared'):.0%}, matched "
            f"ones by {self.median('matched'):.1%} (medians)."
        )

    def median(self, *names: str) -> float:
        """The median change of the metric when such sets are ablated; NaN where there are none."""
        ablated = self._ablated(*names)["mean"].to_numpy()
        return float(np.median(ablated)) if len(ablated) else np.nan

    def _ablated(self, *names: str) -> pl.DataFrame:
        return self.sets.filter(pl.col("treatment") == ABLATED, pl.col("set").is_in(names))

    def _against_matched(self, method: str) -> str:
        """How one method's own components fare against components that move as much."""
        own = f"{method} only"
        cases = self._ablated(own).height
        if not cases:
            return f"In no case does {method} name components of its own."
        difference = self._ablated(f"{own} - matched")
        more, less = (difference.filter(side).height for side in (ABOVE, BELOW))
        return (
            f"In {cases} cases {method} names components of its own: ablated together they move "
            f"the metric by {self.median(own):.1%} of the total effect (median), more than matched "
            f"components in {more} of {difference.height} cases and less in {less}."
        )

    def together(self) -> str:
        """Whose sets do more as a whole, over all sizes and kinds, in Markdown."""
        ablated, kept = (self._won(self.sets, name) for name in (ABLATED, KEPT))
        return (
            f"As whole sets of equal size, IG's move the metric further in {ablated[0]} and AP's "
            f"in {ablated[1]} of {ablated[2]} cases, and kept alone IG's keep more of it in "
            f"{kept[0]} and AP's in {kept[1]}."
        )

    def better(self) -> str:
        """Which method's top k matters more when ablated and loses less when kept, by size."""
        return "\n".join(
            f"- top {k} {kind}: {self._better_at(kind, k)}"
            for kind in KINDS
            for k in SIZES[kind]
            if self.sets.filter(pl.col("kind") == kind, pl.col("k") == k).height
        )

    def _better_at(self, kind: str, k: int) -> str:
        found = self.sets.filter(pl.col("kind") == kind, pl.col("k") == k)
        ablated, kept = (self._won(found, name) for name in (ABLATED, KEPT))
        return (
            f"ablated, IG's set moves the metric further in {ablated[0]} and AP's in {ablated[1]} "
            f"of {ablated[2]} cases; kept alone, IG's keeps more of it in {kept[0]} and AP's in "
            f"{kept[1]}"
        )

    def _won(self, sets: pl.DataFrame, treatment: str) -> tuple[int, int, int]:
        """Cases for IG, for AP, and in all; what is kept should change the metric least."""
        found = sets.filter(pl.col("set") == "IG - AP", pl.col("treatment") == treatment)
        above, below = (found.filter(side).height for side in (ABOVE, BELOW))
        ig, ap = (above, below) if treatment == ABLATED else (below, above)
        return ig, ap, found.height


def consequences(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> Consequences:
    """All sets of every task in both directions; the scores are those of the aligned baselines."""
    return Consequences(
        pl.concat(
            cached_frame(
                f"sets-{ranking.ap.task}-{ranking.ap.direction}",
                lambda ranking=ranking: _sets(ranking, seed),
                *(model, ranking.pairs, ranking.ap, ranking.ig, seed),
            )
            for ranking in rankings(model, tasks, n, seed, progress)
        )
    )


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


def _middle() -> pl.Expr:
    """The middle size of each row's kind."""
    return pl.col("kind").replace_strict({kind: sizes[1] for kind, sizes in SIZES.items()})


def _sets(ranking: Ranking, seed: int) -> pl.DataFrame:
    rows = []
    for kind in KINDS:
        ranked = ranking.ranked(kind)
        for k in SIZES[kind]:
            if k >= ranked["IG"].size:
                continue
            named = named_sets(ranked["IG"], ranked["AP"], ranked["‖Δa‖"], k, seed)
            for treatment, changes in _treatments(ranking, kind, named):
                for name, change in changes.items():
                    place = ranking.place | {"kind": kind, "k": k, "treatment": treatment}
                    size = int(named[name][0].sum()) if name in named else 0
                    about = {"set": name, "size": size, "prompts": len(change)}
                    rows.append(place | about | mean_over_prompts(change, seed)._asdict())
    return pl.DataFrame(rows)


def _treatments(
    ranking: Ranking, kind: str, named: dict[str, np.ndarray]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each prompt's change by each set; drawn sets are only ablated, as they only compare."""
    chosen = {name: sets for name, sets in named.items() if name not in DRAWN}
    yield ABLATED, _with_differences(_changes(ranking, kind, named))
    if max(map(len, ranking.tested.groups())) >= FEWEST_FOR_A_MEAN:
        yield TO_MEANS, _changes(ranking, kind, chosen, baseline="mean")
    yield KEPT, _with_differences(_changes(ranking, kind, chosen, keep=True))


def _changes(
    ranking: Ranking,
    kind: str,
    named: dict[str, np.ndarray],
    baseline: str = "source",
    keep: bool = False,
) -> dict[str, Float[np.ndarray, " prompt"]]:
    """The metric's change by each set as a share of the mean total effect; draws are averaged."""
    nothing = np.zeros((1, *next(iter(named.values())).shape[1:]), dtype=bool)
    base = ranking.metric(nothing, kind, baseline)[0]
    metric = ranking.metric(np.concatenate(list(named.values())), kind, baseline, keep)
    ends = np.cumsum([len(sets) for sets in named.values()])[:-1]
    return {
        name: (rows.mean(axis=0) - base) / ranking.total
        for name, rows in zip(named, np.split(metric, ends), strict=True)
    }


def _with_differences(changes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return changes | {
        f"{first} - {second}": changes[first] - changes[second]
        for first, second in COMPARED
        if first in changes and second in changes
    }
