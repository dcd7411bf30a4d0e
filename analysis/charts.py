"""Frames to charts, in one theme: colour-blind safe, readable on light and on dark."""

from typing import Any, cast

import altair as alt
import numpy as np
import polars as pl
from IPython.display import Markdown

Layered = alt.LayerChart | alt.FacetChart

# Okabe and Ito's blue and vermilion; the grey keeps its contrast on white and on near-black.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#7f7f7f"
FOUR = [BLUE, VERMILION, "#009E73", "#CC79A7"]  # and their green and purple
KIND_TITLES = {"heads": "attention heads", "neurons": "MLP neurons"}
MOST_POINTS = 300


@alt.theme.register("analysis", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """The one look of every chart."""
    axis = {"labelColor": GREY, "titleColor": GREY, "domainColor": GREY, "tickColor": GREY}
    config: dict[str, Any] = {
        "background": "transparent",
        "config": {
            "view": {"stroke": None},
            "axis": axis | {"gridColor": GREY, "gridOpacity": 0.2, "titleFontWeight": "normal"},
            "legend": {"labelColor": GREY, "titleColor": GREY, "titleFontWeight": "normal"},
            "header": {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 12},
            "title": {"color": GREY, "fontWeight": "normal", "fontSize": 13},
            "range": {"category": [BLUE, VERMILION]},
            "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
        },
    }
    return cast(alt.theme.ThemeConfig, config)


def table(frame: pl.DataFrame) -> Markdown:
    """A frame as a Markdown table, which every format renders natively.

    A column's dashes are as many as its longest cell's letters: where a table is too wide for its
    lines, columns share the width by them.
    """
    texts = ([str(value) for value in row] for row in frame.iter_rows())
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (frame.columns, *texts)]
    dashes = ["-" * max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, dashes)
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))


def percent(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its fractions written as percentages."""
    return written(frame, "{:.2%}")


def written(frame: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """The frame with its fractions written by a pattern such as `{:.2f}`."""
    return frame.with_columns(
        pl.selectors.float().map_elements(pattern.format, return_dtype=pl.String)
    )


def use_svg() -> None:
    """Draws charts as SVG, which every page and the PDF can show without another host."""
    alt.renderers.enable("svg")


def plot_metric(metrics: pl.DataFrame, unit: str) -> alt.Chart:
    """How the metric is distributed over prompts, clean and corrupted; columns run, metric."""
    return (
        alt.Chart(metrics)
        .mark_bar(opacity=0.75)
        .encode(
            alt.X("metric:Q", bin=alt.Bin(maxbins=40), title=f"metric ({unit})"),
            alt.Y("count():Q", title="prompts", stack=None),
            alt.Color("run:N", title=None),
        )
        .properties(width=560, height=150)
    )


def plot_correlation(scores: pl.DataFrame, title: str) -> Layered:
    """IG against AP of one kind with the identity line; columns ap, ig.

    Of more than `MOST_POINTS` components the strongest are drawn, and as many again of the others.
    """
    both = scores.select("ap", "ig").to_numpy()
    low, high = both.min(), both.max()
    identity = (
        alt.Chart(pl.DataFrame({"ap": [low, high], "ig": [low, high]}))
        .mark_line(color=GREY, strokeDash=[4, 4], strokeWidth=1)
        .encode(alt.X("ap:Q"), alt.Y("ig:Q"))
    )
    points = (
        alt.Chart(keep_extremes(scores, MOST_POINTS))
        .mark_circle(color=BLUE, opacity=0.5, size=28)
        .encode(
            alt.X("ap:Q", title="activation patching (metric units)"),
            alt.Y("ig:Q", title="integrated gradients (metric units)"),
        )
    )
    return alt.layer(identity, points, width=250, height=250, title=title)


def plot_correlation_comparison(
    scores: pl.DataFrame, labels: dict[str, str] | None = None
) -> alt.HConcatChart:
    """`plot_correlation` for heads and neurons side by side; `labels` adds a text to each title."""
    return alt.hconcat(
        *(
            plot_correlation(
                scores.filter(pl.col("kind") == kind),
                ", ".join([title, *([labels[kind]] if labels else [])]),
            )
            for kind, title in KIND_TITLES.items()
        )
    )


def plot_attn(scores: pl.DataFrame, column: str, title: str, largest: float) -> alt.Chart:
    """A layer × head heatmap, red below 0 and blue above; columns layer, component, `column`."""
    colours = alt.Scale(scheme="redblue", domain=[-largest, largest], domainMid=0)
    return (
        alt.Chart(scores)
        .mark_rect()
        .encode(
            alt.X("component:O", title="head", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:O", title="layer", sort="descending"),
            alt.Color(f"{column}:Q", scale=colours, title="metric units"),
        )
        .properties(width=250, height=alt.Step(28), title=title)
    )


def plot_attn_comparison(scores: pl.DataFrame) -> alt.HConcatChart:
    """The heads' IG beside their AP on one scale; columns kind, layer, component, ap, ig."""
    heads = scores.filter(pl.col("kind") == "heads")
    largest = float(np.abs(heads.select("ap", "ig").to_numpy()).max())
    titles = {"ig": "integrated gradients", "ap": "activation patching"}
    return alt.hconcat(
        *(plot_attn(heads, column, title, largest) for column, title in titles.items())
    )


def plot_bar_chart(estimates: pl.DataFrame, value: str) -> Layered:
    """Bars with intervals by task and kind; columns task, kind, mean, low, high."""
    bars = alt.Chart(estimates).encode(
        alt.Y("task:N", title=None, sort=None),
        alt.YOffset("kind:N", sort=list(KIND_TITLES)),
    )
    values = bars.mark_bar().encode(
        alt.X("mean:Q", title=value, scale=alt.Scale(domainMax=1)),
        alt.Color("kind:N", title=None, sort=list(KIND_TITLES)),
    )
    intervals = bars.mark_rule(color=GREY, strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    return alt.layer(values, intervals, width=480, height=alt.Step(20))


def plot_overlap(overlaps: pl.DataFrame) -> alt.HConcatChart:
    """Overlap of the top k by k, with intervals and chance; columns task, kind, k, mean, low, high,
    chance.
    """
    return alt.hconcat(
        *(
            _overlap(overlaps.filter(pl.col("kind") == kind), title)
            for kind, title in KIND_TITLES.items()
        )
    )


def _overlap(overlaps: pl.DataFrame, title: str) -> Layered:
    curves = alt.Chart(overlaps).encode(
        alt.X("k:Q", title="k, the size of the top sets", scale=alt.Scale(type="log")),
        alt.Color("task:N", title=None, sort=None, scale=alt.Scale(range=FOUR)),
    )
    share = alt.Y("mean:Q", title="overlap", scale=alt.Scale(domain=[0, 1]))
    chance = curves.mark_line(color=GREY, strokeDash=[4, 4]).encode(
        alt.Y("chance:Q"), color=alt.value(GREY)
    )
    return alt.layer(
        curves.mark_area(opacity=0.2).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        chance,
        curves.mark_line(point=True).encode(share),
        width=230,
        height=200,
        title=title,
    )


def plot_distribution(per_prompt: pl.DataFrame) -> alt.HConcatChart:
    """Each prompt's r, a tick each, with the median; columns task, kind, r."""
    return alt.hconcat(
        *(
            _ticks(per_prompt.filter(pl.col("kind") == kind), title)
            for kind, title in KIND_TITLES.items()
        )
    )


def _ticks(per_prompt: pl.DataFrame, title: str) -> Layered:
    prompts = alt.Chart(per_prompt).encode(alt.Y("task:N", title=None, sort=None))
    every = prompts.mark_tick(color=BLUE, opacity=0.35, thickness=1, size=18).encode(
        alt.X("r:Q", title="Pearson's r of a prompt", scale=alt.Scale(zero=False))
    )
    median = prompts.mark_tick(color=VERMILION, thickness=3, size=22).encode(alt.X("median(r):Q"))
    return alt.layer(every, median, width=220, height=alt.Step(30), title=title)


def keep_extremes(scores: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most `2 * most` rows: the largest by |ap| or |ig|, and an even sample of the others."""
    ordered = scores.sort(
        pl.max_horizontal(pl.col("ap").abs(), pl.col("ig").abs()), descending=True
    )
    others = ordered.slice(most)
    return pl.concat([ordered.head(most), others.gather_every(max(1, -(-len(others) // most)))])


def plot_speedup(layers: pl.DataFrame) -> alt.HConcatChart:
    """Speedup by layer, heads and neurons side by side; columns task, kind, layer, speedup."""
    return alt.hconcat(
        *(
            alt.Chart(layers.filter(pl.col("kind") == kind))
            .mark_line(point=True)
            .encode(
                alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
                alt.Y("speedup:Q", title="times faster", scale=alt.Scale(type="log")),
                alt.Color("task:N", title=None, sort=None, scale=alt.Scale(range=FOUR)),
            )
            .properties(width=230, height=200, title=title)
            for kind, title in KIND_TITLES.items()
        )
    )


def plot_growth(operations: pl.DataFrame) -> alt.HConcatChart:
    """Operations as each size grows, a panel each; columns grows, size, method, operations."""
    return alt.hconcat(
        *(
            alt.Chart(operations.filter(pl.col("grows") == grows))
            .mark_line(point=True)
            .encode(
                alt.X(
                    "size:Q",
                    title=grows,
                    scale=alt.Scale(type="log", nice=False),
                    axis=alt.Axis(tickCount=4, format="~s"),
                ),
                alt.Y(
                    "operations:Q",
                    title="operations",
                    scale=alt.Scale(type="log"),
                    axis=alt.Axis(format=".0e", tickCount=5),
                ),
                alt.Color("method:N", title=None, sort=None, scale=alt.Scale(range=FOUR)),
            )
            .properties(width=170, height=200)
            for grows in operations["grows"].unique(maintain_order=True)
        )
    )
