"""Scores of IG and of AP, and how far they agree."""

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis.charts.frames import by_kind, chart_of, draws, part
from analysis.charts.page import offers_data
from analysis.charts.theme import (
    BLUE,
    GREY,
    KIND_TITLES,
    Layered,
    estimate,
    number,
)

MOST_POINTS = 300
_SCORES = ("kind", "layer", "component", "ap", "ig")
_SINGULAR = {"heads": "head", "neurons": "neuron"}


@offers_data
@draws("task", *_SCORES)
def plot_agreement(scores: pl.DataFrame, labels: dict[str, dict[str, str]]) -> alt.VConcatChart:
    """IG against AP, a column a task, heads above neurons; columns task, kind, layer, component,
    ap, ig, these as shares of the mean total effect. `labels` has a text for each task and kind.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_agreement
        >>> scores = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "heads", "neurons", "neurons"],
        ...         "layer": [0, 1, 0, 1],
        ...         "component": [0, 0, 0, 0],
        ...         "ap": [0.5, 0.0, 0.1, -0.1],
        ...         "ig": [0.4, 0.1, 0.1, -0.1],
        ...     }
        ... )
        >>> labels = {"ioi": {"heads": "r = 0.97", "neurons": "r = 1.00"}}
        >>> plot_agreement(scores, labels).save("agreement.html")
    """
    rows = [
        [
            _agreement(part(found, task=task), [f"{task}, {kind}", label[kind]])
            for task, label in labels.items()
        ]
        for kind, found in by_kind(scored(scores))
    ]
    return alt.vconcat(*(alt.hconcat(*row, spacing=12) for row in rows))


def _agreement(scores: pl.DataFrame, title: list[str]) -> Layered:
    share = alt.Axis(format="%", tickCount=4)
    points = (
        chart_of(named(keep_extremes(scores, MOST_POINTS)).select("name", "ap", "ig"))
        .mark_circle(color=BLUE, opacity=0.6, size=22)
        .encode(
            alt.X("ap:Q", title="AP / total effect", axis=share),
            alt.Y("ig:Q", title="IG / total effect", axis=share),
            tooltip=_both_scores(".1%"),
        )
    )
    return alt.layer(
        _identity(scores), points, width=128, height=110, title=alt.Title(title, fontSize=11)
    )


@draws(*_SCORES)
def plot_correlation(scores: pl.DataFrame, title: str, linked: bool = False) -> Layered:
    """IG against AP of one kind with the identity line; columns kind, layer, component, ap, ig.

    Of more than `MOST_POINTS` components the strongest are drawn, and as many again of the others.
    Where it is `linked`, a rectangle drawn over points chooses them in the linked heatmaps too.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_correlation
        >>> scores = pl.DataFrame(
        ...     {
        ...         "kind": "heads",
        ...         "layer": [0, 0],
        ...         "component": [0, 1],
        ...         "ap": [-2.0, 0.1],
        ...         "ig": [-1.8, 0.2],
        ...     }
        ... )
        >>> plot_correlation(scores, "attention heads").save("correlation.html")
    """
    scores = scored(scores)
    place = ("layer", "component") if linked else ()
    points = (
        chart_of(named(keep_extremes(scores, MOST_POINTS)).select("name", *place, "ap", "ig"))
        .mark_circle(color=BLUE, size=28)
        .encode(
            alt.X("ap:Q", title="activation patching (metric units)"),
            alt.Y("ig:Q", title="integrated gradients (metric units)"),
            opacity=_chosen(0.6) if linked else alt.value(0.5),
            tooltip=_both_scores(),
        )
    )
    points = points.add_params(_BRUSHES["points"]) if linked else points
    return alt.layer(_identity(scores), points, width=250, height=250, title=title)


@offers_data
@draws(*_SCORES)
def plot_correlation_comparison(
    scores: pl.DataFrame, labels: dict[str, str] | None = None
) -> alt.HConcatChart:
    """`plot_correlation` for heads and neurons side by side; `labels` adds a text to each title.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_correlation_comparison
        >>> scores = pl.DataFrame(
        ...     {
        ...         "kind": ["heads", "heads", "neurons", "neurons"],
        ...         "layer": [0, 1, 0, 1],
        ...         "component": [0, 0, 0, 0],
        ...         "ap": [-2.0, 0.1, 0.5, -0.3],
        ...         "ig": [-1.8, 0.2, 0.4, -0.3],
        ...     }
        ... )
        >>> labels = {"heads": "r = 0.98", "neurons": "r = 0.99"}
        >>> plot_correlation_comparison(scores, labels).save("correlations.html")
    """
    return _correlations(scores, labels, linked=())


@draws(*_SCORES)
def plot_attn(
    scores: pl.DataFrame, column: str, title: str, largest: float, linked: bool = False
) -> alt.Chart:
    """A layer × head heatmap, red below 0 and blue above; columns kind, layer, component, ap, ig.

    `column` is the one that is drawn, `largest` the size at which the colours end. Where it is
    `linked`, a rectangle drawn over heads chooses them in the linked scatter too.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_attn
        >>> scores = pl.DataFrame(
        ...     {
        ...         "kind": "heads",
        ...         "layer": [0, 0],
        ...         "component": [0, 1],
        ...         "ap": [-2.0, 0.1],
        ...         "ig": [-1.8, 0.2],
        ...     }
        ... )
        >>> plot_attn(scores, "ap", "activation patching", largest=2.0).save("heads.html")
    """
    colours = alt.Scale(scheme="redblue", domain=[-largest, largest], domainMid=0)
    cells = (
        chart_of(named(scored(scores)).select("name", "layer", "component", "ap", "ig"))
        .mark_rect()
        .encode(
            alt.X("component:O", title="head", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:O", title="layer", sort="descending"),
            alt.Color(f"{column}:Q", scale=colours, title="metric units"),
            opacity=_chosen(1.0) if linked else alt.value(1),
            tooltip=_both_scores(),
        )
        .properties(width=250, height=alt.Step(28), title=title)
    )
    return cells.add_params(_BRUSHES[column]) if linked else cells


@offers_data
@draws(*_SCORES)
def plot_attn_comparison(scores: pl.DataFrame) -> alt.HConcatChart:
    """The heads' IG beside their AP on one scale; columns kind, layer, component, ap, ig.

    Examples:
        >>> from analysis import (
        ...     activation_patching,
        ...     integrated_gradients,
        ...     load_model,
        ...     load_task,
        ... )
        >>> from analysis.charts import plot_attn_comparison
        >>> from analysis.studies.comparison import mean_scores
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)
        >>> ap = activation_patching(model, pairs, kinds=("heads",))
        >>> ig = integrated_gradients(model, pairs, kinds=("heads",))
        >>> scores = mean_scores(ap, ig)
        >>> scores.columns
        ['task', 'direction', 'kind', 'layer', 'component', 'ap', 'ig']
        >>> plot_attn_comparison(scores).save("heads.html")
    """
    return _heatmaps(scores, linked=False)


@offers_data
@draws(*_SCORES)
def plot_scores(scores: pl.DataFrame, labels: dict[str, str]) -> alt.VConcatChart:
    """`plot_correlation_comparison` above `plot_attn_comparison`, the heads' charts linked.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_scores
        >>> scores = pl.DataFrame(
        ...     {
        ...         "kind": ["heads", "heads", "neurons", "neurons"],
        ...         "layer": [0, 1, 0, 1],
        ...         "component": [0, 0, 0, 0],
        ...         "ap": [-2.0, 0.1, 0.5, -0.3],
        ...         "ig": [-1.8, 0.2, 0.4, -0.3],
        ...     }
        ... )
        >>> plot_scores(scores, {"heads": "r = 0.98", "neurons": "r = 0.99"}).save("scores.html")
    """
    return alt.vconcat(
        _correlations(scores, labels, linked=("heads",)), _heatmaps(scores, linked=True)
    )


# Heads chosen by a rectangle drawn in the scatter or in a heatmap.
_BRUSHES = {name: alt.selection_interval(name=name) for name in ("points", "ig", "ap")}


def _chosen(opacity: float) -> Any:
    """`opacity` for what is chosen, or for all where nothing is; the others fade."""
    points, ig, ap = _BRUSHES.values()
    return alt.when(points & ig & ap).then(alt.value(opacity)).otherwise(alt.value(0.12))


def _correlations(
    scores: pl.DataFrame, labels: dict[str, str] | None, linked: tuple[str, ...]
) -> alt.HConcatChart:
    return alt.hconcat(
        *(
            plot_correlation(
                rows,
                ", ".join([KIND_TITLES[kind], *([labels[kind]] if labels else [])]),
                kind in linked,
            )
            for kind, rows in by_kind(scored(scores))
        )
    )


def _heatmaps(scores: pl.DataFrame, linked: bool) -> alt.HConcatChart:
    heads = part(scored(scores), kind="heads")
    largest = float(np.abs(heads.select("ap", "ig").to_numpy()).max())
    titles = {"ig": "integrated gradients", "ap": "activation patching"}
    return alt.hconcat(
        *(plot_attn(heads, column, title, largest, linked) for column, title in titles.items())
    )


def _identity(scores: pl.DataFrame) -> alt.Chart:
    """The line on which both methods give the same."""
    both = scores.select("ap", "ig").to_numpy()
    ends = [both.min(), both.max()]
    return (
        chart_of(pl.DataFrame({"ap": ends, "ig": ends}))
        .mark_line(color=GREY, strokeDash=[4, 4], strokeWidth=1)
        .encode(alt.X("ap:Q"), alt.Y("ig:Q"))
    )


def _both_scores(format: str = ".3g") -> list[alt.Tooltip]:
    names = {"ap": "AP", "ig": "IG"}
    return [
        alt.Tooltip("name:N", title="component"),
        *(number(column, title, format) for column, title in names.items()),
    ]


@offers_data
@draws("task", "kind", "mean", "low", "high")
def plot_bar_chart(estimates: pl.DataFrame, value: str) -> Layered:
    """Bars with intervals by task and kind; columns task, kind, mean, low, high.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_bar_chart
        >>> estimates = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "neurons"],
        ...         "mean": [0.98, 0.91],
        ...         "low": 0.9,
        ...         "high": 1.0,
        ...     }
        ... )
        >>> plot_bar_chart(estimates, "Pearson's r").save("agreement.html")
    """
    bars = chart_of(estimates).encode(
        alt.Y("task:N", title=None, sort=None),
        alt.YOffset("kind:N", sort=list(KIND_TITLES)),
    )
    values = bars.mark_bar().encode(
        alt.X("mean:Q", title=value, scale=alt.Scale(domainMax=1)),
        alt.Color("kind:N", title=None, sort=list(KIND_TITLES)),
        tooltip=["task:N", "kind:N", *estimate()],
    )
    intervals = bars.mark_rule(color=GREY, strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    return alt.layer(values, intervals, width=480, height=alt.Step(20))


@offers_data
@draws("task", "kind", "k", "mean", "low", "high", "chance")
def plot_overlap(overlaps: pl.DataFrame) -> alt.HConcatChart:
    """Overlap of the top k by k, with intervals and chance; columns task, kind, k, mean, low, high,
    chance.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_overlap
        >>> overlaps = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "heads", "neurons", "neurons"],
        ...         "k": [1, 10, 1, 10],
        ...         "mean": [1.0, 0.9, 1.0, 0.8],
        ...         "low": [1.0, 0.8, 0.0, 0.6],
        ...         "high": [1.0, 1.0, 1.0, 0.9],
        ...         "chance": [0.03, 0.31, 0.0, 0.0],
        ...     }
        ... )
        >>> plot_overlap(overlaps).save("overlap.html")
    """
    return alt.hconcat(*(_overlap(rows, KIND_TITLES[kind]) for kind, rows in by_kind(overlaps)))


def _overlap(overlaps: pl.DataFrame, title: str) -> Layered:
    curves = chart_of(overlaps).encode(
        alt.X("k:Q", title="k, the size of the top sets", scale=alt.Scale(type="log")),
        alt.Color("task:N", title=None, sort=None),
    )
    share = alt.Y("mean:Q", title="overlap", scale=alt.Scale(domain=[0, 1]))
    chance = curves.mark_line(color=GREY, strokeDash=[4, 4]).encode(
        alt.Y("chance:Q"), color=alt.value(GREY)
    )
    return alt.layer(
        curves.mark_area(opacity=0.2).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        chance,
        curves.mark_line(point=True).encode(share, tooltip=["task:N", "k:Q", *estimate()]),
        width=230,
        height=200,
        title=title,
    )


def named(scores: pl.DataFrame) -> pl.DataFrame:
    """The frame with each component's name, such as `head 2.3` for layer 2's head 3."""
    kind = pl.col("kind").replace_strict(_SINGULAR, return_dtype=pl.String)
    return scores.with_columns(name=pl.format("{} {}.{}", kind, "layer", "component"))


def scored(scores: pl.DataFrame) -> pl.DataFrame:
    """The components that both methods have scored; what was not asked for is NaN."""
    return scores.filter(pl.col("ap").is_finite(), pl.col("ig").is_finite())


def keep_extremes(scores: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most `2 * most` rows: the largest by |ap| or |ig|, and an even sample of the others."""
    ordered = scores.sort(
        pl.max_horizontal(pl.col("ap").abs(), pl.col("ig").abs()), descending=True
    )
    others = ordered.slice(most)
    return pl.concat([ordered.head(most), others.gather_every(max(1, -(-len(others) // most)))])
