"""Aligned baselines: IG and AP between the same two activations, on every task.

The study returns tidy frames; `report/aligned-baselines.qmd` shows them.
"""

import os
from dataclasses import dataclass

import numpy as np
import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import (
    Estimate,
    average_correlation,
    correlation_of_means,
    mean_over_prompts,
)
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.forward import KINDS
from analysis.metrics import logit_diff, prob_diff
from analysis.studies.cache import cached_scores
from analysis.tasks import TASKS, PromptPairs, load_task

PROMPTS = int(os.environ.get("ANALYSIS_PROMPTS", 100))
PER_PROMPT, OF_MEANS = "per prompt", "of the means"
UNITS = {logit_diff: "logits", prob_diff: "probability"}


@dataclass(frozen=True)
class AlignedBaselines:
    """The study's results.

    metrics: task, prompt, run (clean or corrupted), metric.
    scores: task, kind, layer, component, ap, ig: means over prompts in the metric's units.
    agreement: task, kind, statistic, and the estimate's mean, sd, low, high.
    gaps: task, kind, the largest |completeness gap| of any layer and prompt, relative to the
        largest |total effect|.
    """

    prompts: dict[str, int]
    metrics: pl.DataFrame
    scores: pl.DataFrame
    agreement: pl.DataFrame
    gaps: pl.DataFrame

    def estimate(self, task: str, kind: str, statistic: str) -> Estimate:
        """One estimate of the agreement table."""
        row = self.agreement.row(
            by_predicate=(pl.col("task") == task)
            & (pl.col("kind") == kind)
            & (pl.col("statistic") == statistic),
            named=True,
        )
        return Estimate(*(row[name] for name in Estimate._fields))

    def strongest(self, task: str, kind: str, method: str) -> dict:
        """The component with the largest |mean score|, and its share of the mean total effect."""
        rows = self.scores.filter(pl.col("task") == task, pl.col("kind") == kind)
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

    def scores_of(self, task: str) -> pl.DataFrame:
        """One task's mean scores."""
        return self.scores.filter(pl.col("task") == task)

    def labels(self, task: str) -> dict[str, str]:
        """The correlation of the means of each kind, as a chart's label."""
        return {kind: f"r = {self.estimate(task, kind, OF_MEANS)}" for kind in KINDS}

    def unit(self, task: str) -> str:
        """The metric's unit."""
        return UNITS[TASKS[task].metric]

    def finding(self, task: str) -> str:
        """What was found on a task, in two sentences of Markdown."""
        heads, neurons = (self.estimate(task, kind, OF_MEANS) for kind in KINDS)
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
        lowest = {
            kind: min((self.estimate(task, kind, OF_MEANS) for task in self.prompts), key=_mean)
            for kind in KINDS
        }
        return (
            "Between the same two activations IG and AP give correlated scores on all "
            f"{len(self.prompts)} tasks: Pearson's r of the prompt-averaged scores is at least "
            f"{lowest['heads']} for heads and {lowest['neurons']} for neurons (the lowest task's "
            "value with its interval)."
        )

    def table(self) -> pl.DataFrame:
        """The agreement, a row a task and kind."""
        return pl.DataFrame(
            [
                {
                    "task": task,
                    "kind": kind,
                    "prompts": self.prompts[task],
                    "mean r over prompts": str(self.estimate(task, kind, PER_PROMPT)),
                    "sd": f"{self.estimate(task, kind, PER_PROMPT).sd:.2f}",
                    "r of the means": str(self.estimate(task, kind, OF_MEANS)),
                }
                for task in self.prompts
                for kind in KINDS
            ]
        )


def _mean(estimate: Estimate) -> float:
    return estimate.mean


def aligned_baselines(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> AlignedBaselines:
    """IG and AP of every head and neuron, noising with `baseline="source"`, on n prompts a task."""
    results = [_one_task(model, task, n, seed, progress) for task in TASKS]
    return AlignedBaselines(
        prompts={task: len(pairs) for task, (pairs, _, _) in zip(TASKS, results, strict=True)},
        metrics=pl.concat(_metrics(ap) for _, ap, _ in results),
        scores=pl.concat(_mean_scores(ap, ig) for _, ap, ig in results),
        agreement=pl.concat(_agreement(ap, ig, seed) for _, ap, ig in results),
        gaps=pl.concat(_gaps(ig) for _, _, ig in results),
    )


def _one_task(
    model: TransformerBridge, task: str, n: int, seed: int, progress: bool | None
) -> tuple[PromptPairs, Scores, Scores]:
    pairs = load_task(task, model, n=n, seed=seed)
    ap = cached_scores(activation_patching, model, pairs, progress=progress)
    ig = cached_scores(integrated_gradients, model, pairs, progress=progress)
    return pairs, ap, ig


def _metrics(scores: Scores) -> pl.DataFrame:
    runs = {"clean": scores.base, "corrupted": scores.source}
    return pl.concat(
        pl.DataFrame({"prompt": scores.prompts.numpy(), "metric": metric.numpy()}).select(
            pl.lit(scores.task).alias("task"), "prompt", pl.lit(run).alias("run"), "metric"
        )
        for run, metric in runs.items()
    )


def _mean_scores(ap: Scores, ig: Scores) -> pl.DataFrame:
    frames = []
    for kind in KINDS:
        first, second = (scores.of(kind).mean(dim=0).numpy() for scores in (ap, ig))
        layers, components = np.indices(first.shape)
        columns = {"layer": layers, "component": components, "ap": first, "ig": second}
        frames.append(
            pl.DataFrame({name: values.ravel() for name, values in columns.items()}).select(
                pl.lit(ap.task).alias("task"), pl.lit(kind).alias("kind"), pl.all()
            )
        )
    return pl.concat(frames)


def _agreement(ap: Scores, ig: Scores, seed: int) -> pl.DataFrame:
    statistics = {PER_PROMPT: average_correlation, OF_MEANS: correlation_of_means}
    return pl.DataFrame(
        [
            {"task": ap.task, "kind": kind, "statistic": name}
            | statistic(ap.of(kind), ig.of(kind), seed=seed)._asdict()
            for kind in KINDS
            for name, statistic in statistics.items()
        ]
    )


def _gaps(ig: Scores) -> pl.DataFrame:
    gaps = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}
    largest = ig.total.abs().max()
    return pl.DataFrame(
        [
            {"task": ig.task, "kind": kind, "gap": float(gap.abs().max() / largest)}
            for kind, gap in gaps.items()
        ]
    )
