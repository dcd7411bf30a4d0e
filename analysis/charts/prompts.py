"""How a number of each prompt is distributed: the metric, and how far the methods agree."""

import math

import altair as alt
import numpy as np
import polars as pl

from analysis.charts.frames import by_kind, chart_of, draws, part
from analysis.charts.page import offers_data
from analysis.charts.theme import BLUE, KIND_TITLES, VERMILION, Layered, number

MOST_BINS = 40
MOST_TICKS = 300


@offers_data
@draws("task", "run", "metric")
def plot_metrics(metrics: pl.DataFrame, units: dict[str, str]) -> alt.ConcatChart:
    """How each task's metric is distributed over prompts, clean and corrupted; columns task, run,
    metric. `units` has each task's unit.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_metrics
        >>> metrics = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "run": ["clean", "clean", "corrupted", "corrupted"],
        ...         "metric": [3.1, 2.4, -2.0, -2.9],
        ...     }
        ... )
        >>> plot_metrics(metrics, {"ioi": "logits"}).save("metrics.html")
    """
    return alt.concat(
        *(
            _histogram(part(metrics, task=task), f"metric ({unit})", task)
            for task, unit in units.items()
        ),
        columns=2,
    )


def _histogram(metrics: pl.DataFrame, axis: str, title: str) -> alt.Chart:
    return (
        chart_of(count_in_bins(metrics))
        .mark_bar(opacity=0.75)
        .encode(
            alt.X("metric:Q", bin="binned", title=axis),
            alt.X2("metric_end:Q"),
            alt.Y("prompts:Q", title="prompts", stack=None),
            alt.Color("run:N", title=None),
            tooltip=["run:N", number("metric", "from"), number("metric_end", "to"), "prompts:Q"],
        )
        .properties(width=250, height=110, title=title)
    )


def count_in_bins(metrics: pl.DataFrame) -> pl.DataFrame:
    """How many prompts of a run have a metric in a bin: columns run, metric, metric_end, prompts.

    A bin is from `metric` to below `metric_end`. All have one width, 1, 2 or 5 times a power of
    ten, such that at most `MOST_BINS + 1` hold everything.
    """
    defined = metrics.select("run", pl.col("metric").cast(pl.Float64)).filter(
        pl.col("metric").is_finite()
    )
    width = _bin_width(defined["metric"])
    index = (pl.col("metric") / width).floor()
    counts = defined.group_by("run", index.alias("bin")).agg(prompts=pl.len())
    return counts.sort("run", "bin").select(
        "run",
        (pl.col("bin") * width).alias("metric"),
        ((pl.col("bin") + 1) * width).alias("metric_end"),
        "prompts",
    )


def _bin_width(values: pl.Series) -> float:
    span = float(np.ptp(values.to_numpy())) if len(values) else 0.0
    least = (span or 1.0) / MOST_BINS
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)


@offers_data
@draws("task", "kind", "prompt", "r")
def plot_distribution(per_prompt: pl.DataFrame) -> alt.HConcatChart:
    """Each prompt's r, a tick each, with the median; columns task, kind, prompt, r.

    Of more than `MOST_TICKS` prompts of a task as many are drawn, evenly spaced by rank, the lowest
    and the highest among them; the median is that of all.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_distribution
        >>> per_prompt = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "neurons"] * 2,
        ...         "prompt": [0, 0, 1, 1],
        ...         "r": [0.9, 0.8] * 2,
        ...     }
        ... )
        >>> plot_distribution(per_prompt).save("prompts.html")
    """
    return alt.hconcat(*(_ticks(rows, KIND_TITLES[kind]) for kind, rows in by_kind(per_prompt)))


def _ticks(per_prompt: pl.DataFrame, title: str) -> Layered:
    defined = per_prompt.select("task", "prompt", "r").filter(pl.col("r").is_finite())
    tasks = defined.group_by("task", maintain_order=True)
    shown = tasks.map_groups(lambda rows: keep_ranks(rows, MOST_TICKS))
    medians = tasks.agg(pl.col("r").median())
    task = alt.Y("task:N", title=None, sort=None)
    every = (
        chart_of(shown)
        .mark_tick(color=BLUE, opacity=0.35, thickness=1, size=18)
        .encode(
            task,
            alt.X("r:Q", title="Pearson's r of a prompt", scale=alt.Scale(zero=False)),
            tooltip=["prompt:Q", number("r", "r")],
        )
    )
    median = (
        chart_of(medians)
        .mark_tick(color=VERMILION, thickness=3, size=22)
        .encode(task, alt.X("r:Q"), tooltip=["task:N", number("r", "median")])
    )
    return alt.layer(every, median, width=220, height=alt.Step(30), title=title)


def keep_ranks(per_prompt: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most so many rows, evenly spaced by the rank of their r, the lowest and highest kept."""
    if len(per_prompt) <= most:
        return per_prompt
    ranks = np.linspace(0, len(per_prompt) - 1, most).round().astype(int)
    return per_prompt.sort("r")[ranks]
