"""Two methods' scores of one data set as tidy frames."""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.agreement import (
    Estimate,
    Statistic,
    average,
    concordance,
    correlations,
    jaccard_at,
    kendall,
    of_means,
    overlap_at,
    pearson,
    sign_agreement,
    slope,
    spearman,
    split_halves,
)
from analysis.attribution import Scores
from analysis.forward import KINDS

# What a statistic is of: prompt-averaged scores, all or without the negligible ones, each prompt's
# scores, or the averages over two halves of the prompts.
OF_MEANS, NOT_NEGLIGIBLE, PER_PROMPT, HALVES = (
    "of the means",
    "without negligible",
    "per prompt",
    "across halves",
)
CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TOP = (10, 50, 200)
NEGLIGIBLE = 1e-5
STATISTICS: dict[str, Statistic] = {
    "Pearson": pearson,
    "Spearman": spearman,
    "sign agreement": sign_agreement,
    "slope": slope,
    "concordance": concordance,
}
# A resample of Kendall's τ takes as long as all the others together.
KENDALL_RESAMPLES = 200
# Intervals that leave out zero. One prompt has no interval; polars takes its NaN for the largest.
ABOVE, BELOW = pl.col("low").fill_nan(None) > 0, pl.col("high").fill_nan(None) < 0


def agreement(ap: Scores, ig: Scores, seed: int = 0) -> pl.DataFrame:
    """Every statistic of how far IG agrees with AP.

    Columns: task, direction, kind, scope, statistic, k, and the estimate's mean, sd, low, high.
    `k` is the size of compared top sets, 0 for other statistics. Of a slope AP is the first side:
    1.1 says that IG is a tenth larger.
    """
    rows = [
        {"task": ap.task, "direction": ap.direction, "kind": kind}
        | {"scope": scope, "statistic": name, "k": k}
        | estimate._asdict()
        for kind in KINDS
        for scope, name, k, estimate in _estimates(ap, ig, kind, seed)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _estimates(
    ap: Scores, ig: Scores, kind: str, seed: int
) -> Iterator[tuple[str, str, int, Estimate]]:
    first, second = (scores.of(kind).flatten(1).numpy() for scores in (ap, ig))
    sizes = [k for k in CURVE if k < first.shape[1]]
    tops = {("overlap", k): overlap_at(k) for k in sizes}
    tops |= {("Jaccard", k): jaccard_at(k) for k in sizes if k in TOP}
    everything = {(name, 0): statistic for name, statistic in STATISTICS.items()} | tops
    for (name, k), estimate in of_means(everything, first, second, seed).items():
        yield OF_MEANS, name, k, estimate
    for name, estimate in of_means(
        {"Kendall": kendall}, first, second, seed, KENDALL_RESAMPLES
    ).items():
        yield OF_MEANS, name, 0, estimate
    matter = np.abs(first.mean(axis=0)) >= NEGLIGIBLE * abs(float(ap.total.mean()))
    kept = first[:, matter], second[:, matter]
    for name, estimate in of_means(STATISTICS, *kept, seed).items():
        yield NOT_NEGLIGIBLE, name, 0, estimate
    for name in ("Pearson", "Spearman"):
        yield PER_PROMPT, name, 0, average(STATISTICS[name], first, second, seed)
    for k in sizes:
        yield PER_PROMPT, "overlap", k, average(overlap_at(k), first, second, seed)
    if len(first) > 1:
        halves = split_halves(pearson, ig.of(kind).numpy(), ap.of(kind).numpy(), seed=seed)
        for name, estimate in zip(("IG", "AP", "IG against AP"), halves, strict=True):
            yield HALVES, name, 0, estimate


def per_prompt(ap: Scores, ig: Scores) -> pl.DataFrame:
    """Pearson's r of each prompt: columns task, direction, kind, prompt, r.

    Examples:
        >>> from analysis import (
        ...     activation_patching,
        ...     integrated_gradients,
        ...     load_model,
        ...     load_task,
        ... )
        >>> from analysis.studies.comparison import per_prompt
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)
        >>> ap = activation_patching(model, pairs)
        >>> ig = integrated_gradients(model, pairs)
        >>> per_prompt(ap, ig).select("kind", "prompt").rows()
        [('heads', 0), ('heads', 1), ('neurons', 0), ('neurons', 1)]
    """
    frames = []
    for kind in KINDS:
        r = correlations(ap.of(kind), ig.of(kind))
        values = pl.DataFrame({"prompt": ap.prompts.numpy(), "r": r})
        frames.append(_said_of(ap, kind).join(values, how="cross"))
    return pl.concat(frames)


def mean_scores(ap: Scores, ig: Scores) -> pl.DataFrame:
    """Means over prompts: columns task, direction, kind, layer, component, ap, ig.

    In the metric's units, a row a component; any two methods can be compared.

    Examples:
        >>> from analysis import (
        ...     activation_patching,
        ...     integrated_gradients,
        ...     load_model,
        ...     load_task,
        ... )
        >>> from analysis.studies.comparison import mean_scores
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)
        >>> methods = activation_patching, integrated_gradients
        >>> ap, ig = (method(model, pairs, kinds=("heads",)) for method in methods)
        >>> scores = mean_scores(ap, ig)
        >>> scores.columns
        ['task', 'direction', 'kind', 'layer', 'component', 'ap', 'ig']
        >>> scores.sort("ap").select("kind", "layer", "component").row(0)
        ('heads', 2, 6)
    """
    frames = []
    for kind in KINDS:
        first, second = (scores.of(kind).mean(dim=0).numpy() for scores in (ap, ig))
        frames.append(_said_of(ap, kind).join(_components(first, second), how="cross"))
    return pl.concat(frames)


def metrics(scores: Scores) -> pl.DataFrame:
    """The metric of both runs: columns task, prompt, run, metric; the noising scores' runs."""
    runs = {"clean": scores.base, "corrupted": scores.source}
    return pl.concat(
        pl.DataFrame({"prompt": scores.prompts.numpy(), "metric": metric.numpy()}).select(
            pl.lit(scores.task).alias("task"), "prompt", pl.lit(run).alias("run"), "metric"
        )
        for run, metric in runs.items()
    )


def gaps(ig: Scores) -> pl.DataFrame:
    """The largest |completeness gap| relative to the largest |total effect|, a row a kind."""
    largest = ig.total.abs().max()
    by_kind = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}
    return pl.concat(
        _said_of(ig, kind).with_columns(gap=pl.lit(float(gap.abs().max() / largest)))
        for kind, gap in by_kind.items()
    )


def lowest(estimates: Iterable[Estimate]) -> Estimate:
    """The estimate with the lowest mean; one that is undefined, where there is one.

    Examples:
        >>> from analysis.agreement import Estimate
        >>> from analysis.studies.comparison import lowest
        >>> print(lowest([Estimate(0.9, 0.1, 0.8, 1.0), Estimate(0.5, 0.1, 0.4, 0.6)]).mean)
        0.5
    """
    return min(estimates, key=lambda estimate: (not np.isnan(estimate.mean), estimate.mean))


def wide(
    rows: pl.DataFrame, by: str, keys: list[str], names: tuple[str, ...] | list[str]
) -> pl.DataFrame:
    """Estimates as text, a column for each name in the column `by`; a dash where there is none."""
    text = pl.struct(Estimate._fields).map_elements(
        lambda found: str(Estimate(**found)), return_dtype=pl.String
    )
    texts = rows.with_columns(text=text).pivot(by, index=keys, values="text", maintain_order=True)
    return texts.select(*keys, *(name for name in names if name in texts.columns)).fill_null("–")


def _said_of(scores: Scores, kind: str) -> pl.DataFrame:
    return pl.DataFrame({"task": [scores.task], "direction": [scores.direction], "kind": [kind]})


def _components(ap: NDArray[np.float32], ig: NDArray[np.float32]) -> pl.DataFrame:
    layers, components = np.indices(ap.shape)
    columns = {"layer": layers, "component": components, "ap": ap, "ig": ig}
    return pl.DataFrame({name: values.ravel() for name, values in columns.items()})
