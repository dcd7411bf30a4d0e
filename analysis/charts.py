"""Frames to charts, in one theme: colour-blind safe, readable on light and on dark."""

import altair as alt
import polars as pl
from IPython.display import Markdown

# Okabe and Ito's blue and vermilion; the grey keeps its contrast on white and on near-black.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#7f7f7f"
KIND_TITLES = {"heads": "attention heads", "neurons": "MLP neurons"}
MOST_POINTS = 300


@alt.theme.register("analysis", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """The one look of every chart."""
    axis = {"labelColor": GREY, "titleColor": GREY, "domainColor": GREY, "tickColor": GREY}
    return {
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


def table(frame: pl.DataFrame) -> Markdown:
    """A frame as a Markdown table, which every format renders natively."""
    rows = [frame.columns, ["---"] * frame.width, *frame.iter_rows()]
    return Markdown("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))


def percent(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its fractions written as percentages."""
    return frame.with_columns(
        pl.selectors.float().map_elements("{:.2%}".format, return_dtype=pl.String)
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


def plot_correlation(scores: pl.DataFrame, title: str) -> alt.LayerChart:
    """IG against AP of one kind with the identity line; columns ap, ig.

    Of more than `MOST_POINTS` components the strongest are drawn, and as many again of the others.
    """
    low = min(scores["ap"].min(), scores["ig"].min())
    high = max(scores["ap"].max(), scores["ig"].max())
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
    return (identity + points).properties(width=250, height=250, title=title)


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
    largest = max(heads["ap"].abs().max(), heads["ig"].abs().max())
    titles = {"ig": "integrated gradients", "ap": "activation patching"}
    return alt.hconcat(
        *(plot_attn(heads, column, title, largest) for column, title in titles.items())
    )


def plot_bar_chart(estimates: pl.DataFrame, value: str) -> alt.LayerChart:
    """Bars with intervals by task and kind; columns task, kind, mean, low, high."""
    bars = alt.Chart(estimates).encode(
        alt.Y("task:N", title=None, sort=None),
        alt.YOffset("kind:N", sort=list(KIND_TITLES)),
    )
    return (
        bars.mark_bar().encode(
            alt.X("mean:Q", title=value, scale=alt.Scale(domainMax=1)),
            alt.Color("kind:N", title=None, sort=list(KIND_TITLES)),
        )
        + bars.mark_rule(color=GREY, strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    ).properties(width=480, height=alt.Step(20))


def keep_extremes(scores: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most `2 * most` rows: the largest by |ap| or |ig|, and an even sample of the others."""
    ordered = scores.sort(
        pl.max_horizontal(pl.col("ap").abs(), pl.col("ig").abs()), descending=True
    )
    others = ordered.slice(most)
    return pl.concat([ordered.head(most), others.gather_every(max(1, -(-len(others) // most)))])
