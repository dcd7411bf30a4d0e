"""Aligned baselines: IG and AP between the same two activations, on every task.

The study returns tidy frames; `report/aligned-baselines.qmd` shows them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import Estimate, mean_over_prompts
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.parts import DIRECTIONS
from analysis.forward import KINDS
from analysis.metrics import Metric, logit_diff, prob_diff
from analysis.studies import comparison
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.comparison import HALVES, OF_MEANS, PER_PROMPT, TOP
from analysis.tasks import TASKS, load_task

PROMPTS = int(os.environ.get("ANALYSIS_PROMPTS", 100))
UNITS: dict[Metric, str] = {logit_diff: "logits", prob_diff: "probability"}


@dataclass(frozen=True)
class AlignedBaselines:
    """The study's results.

    Attributes:
        prompts: how many are behind each task.
        metrics: columns task, prompt, run (clean or corrupted), metric.
        scores: the frame of `mean_scores`, means over prompts.
        agreement: the frame of `analysis.studies.comparison.agreement`, all statistics.
        per_prompt: the frame of `per_prompt`, Pearson's r of each prompt.
        gaps: columns task, direction, kind, gap: IG's largest |completeness gap|, relative to the
            largest |total effect|.
    """

    prompts: dict[str, int]
    metrics: pl.DataFrame
    scores: pl.DataFrame
    agreement: pl.DataFrame
    per_prompt: pl.DataFrame
    gaps: pl.DataFrame

    def estimate(
        self,
        task: str,
        kind: str,
        statistic: str = "Pearson",
        scope: str = OF_MEANS,
        direction: str = "noising",
        k: int = 0,
    ) -> Estimate:
        """One estimate of the agreement."""
        row = self.agreement.row(
            by_predicate=(pl.col("task") == task)
            & (pl.col("direction") == direction)
            & (pl.col("kind") == kind)
            & (pl.col("scope") == scope)
            & (pl.col("statistic") == statistic)
            & (pl.col("k") == k),
            named=True,
        )
        return Estimate(*(row[name] for name in Estimate._fields))

    def strongest(self, task: str, kind: str, method: str) -> dict:
        """The component with the largest |mean score|, and its share of the mean total effect."""
        rows = self.scores_of(task).filter(pl.col("kind") == kind)
        row = rows.sort(pl.col(method).abs(), descending=True).row(0, named=True)
        return row | {"share": row[method] / self.total(task)}

    def total(self, task: str) -> float:
        """The mean total effect, m(corrupted) - m(clean)."""
        return self.mean_metric(task, "corrupted").mean - self.mean_metric(task, "clean").mean

    def mean_metric(self, task: str, run: str) -> Estimate:
        """The metric's mean over prompts on the clean or the corrupted run."""
        return mean_over_prompts(self.metrics_of(task).filter(pl.col("run") == run)["metric"])

    def metrics_of(self, task: str) -> pl.DataFrame:
        """One task's metrics."""
        return self.metrics.filter(pl.col("task") == task)

    def shares(self) -> pl.DataFrame:
        """All tasks' mean scores, noising, as shares of the mean total effect."""
        totals = {task: self.total(task) for task in self.prompts}
        total = pl.col("task").replace_strict(totals, return_dtype=pl.Float64)
        return self.scores.filter(pl.col("direction") == "noising").with_columns(
            pl.col("ap", "ig") / total
        )

    def scores_of(self, task: str, direction: str = "noising") -> pl.DataFrame:
        """One task's mean scores in one direction."""
        return self.scores.filter(pl.col("task") == task, pl.col("direction") == direction)

    def labels(self, task: str, direction: str = "noising") -> dict[str, str]:
        """The correlation of the means of each kind, as a chart's label."""
        return {kind: f"r = {self.estimate(task, kind, direction=direction)}" for kind in KINDS}

    def units(self) -> dict[str, str]:
        """The unit of each task's metric."""
        return {task: UNITS[TASKS[task].metric] for task in self.prompts}

    def finding(self, task: str) -> str:
        """What was found on a task, in two sentences of Markdown."""
        heads, neurons = (self.estimate(task, kind) for kind in KINDS)
        ap, ig = (self.strongest(task, "heads", method) for method in ("ap", "ig"))
        first = f"head {ap['layer']}.{ap['component']}"
        second = f"head {ig['layer']}.{ig['component']}"
        agree = (
            f"Both methods find {first} the strongest, with {ap['share']:.0%} (AP) and "
            f"{ig['share']:.0%} (IG) of the mean total effect"
            if first == second
            else f"AP finds {first} the strongest ({ap['share']:.0%} of the mean total effect), "
            f"IG {second} ({ig['share']:.0%})"
        )
        return (
            f"On {self.prompts[task]} prompts the metric is {self.mean_metric(task, 'clean')} on "
            f"clean and {self.mean_metric(task, 'corrupted')} on corrupted prompts (means). "
            f"{agree}. The prompt-averaged scores of IG and AP correlate at {heads} for heads and "
            f"{neurons} for neurons."
        )

    def summary(self) -> str:
        """The page's claim, in a sentence of Markdown."""
        lowest = {kind: self.lowest(kind) for kind in KINDS}
        return (
            "Between the same two activations IG and AP give correlated scores on all "
            f"{len(self.prompts)} tasks, in both directions: Pearson's r of the prompt-averaged "
            f"scores is at least {lowest['heads']} for heads and {lowest['neurons']} for neurons "
            "(the lowest value with its interval)."
        )

    def lowest(self, kind: str) -> Estimate:
        """The lowest correlation of the means on any task, in either direction."""
        return comparison.lowest(
            self.estimate(task, kind, direction=direction)
            for task in self.prompts
            for direction in DIRECTIONS
        )

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Every task, direction and kind, in the order of the tables."""
        return product(self.prompts, DIRECTIONS, KINDS)

    def correlation_table(self) -> pl.DataFrame:
        """The correlations, a row a task, direction and kind."""
        return self._table(
            lambda cell: {
                "r over prompts": self._at(*cell, "Pearson", PER_PROMPT),
                "r of the means": self._at(*cell, "Pearson"),
                "Spearman's ρ": self._at(*cell, "Spearman"),
                "Kendall's τ": self._at(*cell, "Kendall"),
            }
        )

    def overlap_table(self) -> pl.DataFrame:
        """Overlap of the top components, with what chance would give."""
        return self._table(lambda cell: {f"top {k}": self._overlap(*cell, k) for k in TOP})

    def overlaps(self, direction: str = "noising") -> pl.DataFrame:
        """The overlap of the top k by k: columns task, kind, k, mean, low, high, chance."""
        sizes = self.scores.filter(pl.col("direction") == direction).group_by("task", "kind").len()
        return (
            self.agreement.filter(
                pl.col("direction") == direction,
                pl.col("scope") == OF_MEANS,
                pl.col("statistic") == "overlap",
            )
            .join(sizes, on=["task", "kind"], maintain_order="left")
            .with_columns(chance=pl.col("k") / pl.col("len"))
            .select("task", "kind", "k", "mean", "low", "high", "chance")
        )

    def halves_table(self) -> pl.DataFrame:
        """Each method's stability across halves of the prompts, and IG against AP across them."""
        return self._table(
            lambda cell: {
                name: self._at(*cell, name, HALVES) for name in ("IG", "AP", "IG against AP")
            }
        )

    def appendix_table(self) -> pl.DataFrame:
        """What is left: signs, scale, and r without the negligible components."""
        return self._table(
            lambda cell: {
                "sign agreement": self._at(*cell, "sign agreement"),
                "slope": self._at(*cell, "slope"),
                "concordance": self._at(*cell, "concordance"),
                "r": self._at(*cell, "Pearson", comparison.NOT_NEGLIGIBLE),
                "ρ": self._at(*cell, "Spearman", comparison.NOT_NEGLIGIBLE),
                "Jaccard, top 10": self._at(*cell, "Jaccard", k=10),
            }
        )

    def _table(self, values: Callable[[tuple[str, str, str]], dict[str, str]]) -> pl.DataFrame:
        return pl.DataFrame(
            [
                {"task": task, "direction": direction, "kind": kind}
                | values((task, direction, kind))
                for task, direction, kind in self.cells()
            ]
        )

    def _at(
        self,
        task: str,
        direction: str,
        kind: str,
        statistic: str,
        scope: str = OF_MEANS,
        k: int = 0,
    ) -> str:
        return str(self.estimate(task, kind, statistic, scope, direction, k))

    def _overlap(self, task: str, direction: str, kind: str, k: int) -> str:
        components = self.scores_of(task).filter(pl.col("kind") == kind).height
        if k >= components:
            return "–"
        estimate = self._at(task, direction, kind, "overlap", k=k)
        return f"{estimate}, chance {k / components:.2f}"


def aligned_baselines(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> AlignedBaselines:
    """IG and AP of every head and neuron with `baseline="source"`, on n prompts a task.

    Raises:
        ValueError: as `load_task` does.
    """
    results = [
        _scores(model, task, direction, n, seed, progress)
        for task in tasks
        for direction in DIRECTIONS
    ]
    noising = [(ap, ig) for ap, ig in results if ap.direction == "noising"]
    return AlignedBaselines(
        prompts={ap.task: len(ap.prompts) for ap, _ in noising},
        metrics=pl.concat(comparison.metrics(ap) for ap, _ in noising),
        scores=pl.concat(comparison.mean_scores(ap, ig) for ap, ig in results),
        agreement=pl.concat(_agreement(ap, ig, seed) for ap, ig in results),
        per_prompt=pl.concat(comparison.per_prompt(ap, ig) for ap, ig in results),
        gaps=pl.concat(comparison.gaps(ig) for _, ig in results),
    )


def _scores(
    model: TransformerBridge, task: str, direction: str, n: int, seed: int, progress: bool | None
) -> tuple[Scores, Scores]:
    pairs = load_task(task, model, n=n, seed=seed)
    ap, ig = (
        cached_scores(method, model, pairs, direction=direction, progress=progress)
        for method in (activation_patching, integrated_gradients)
    )
    return ap, ig


def _agreement(ap: Scores, ig: Scores, seed: int) -> pl.DataFrame:
    name = f"agreement-{ap.task}-{ap.direction}"
    return cached_frame(name, lambda: comparison.agreement(ap, ig, seed), ap, ig, seed)
