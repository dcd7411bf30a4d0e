"""What components change in later components."""

import math

import altair as alt
import polars as pl

from analysis.charts.frames import by, chart_of, draws
from analysis.charts.page import offers_data
from analysis.charts.theme import BLUE, GREY, VERMILION, Layered, estimate, number

MOST_LINES = 1_000
MOST_CELLS = 1_200  # of a heatmap's panel: 48 heads either way fill the page's width
_WIDTH, _HIGHEST = 560, 720
_SOURCE, _TARGET = ("layer", "component"), ("later_layer", "later_component")
_EFFECTS = (*_SOURCE, *_TARGET, "norm", "relative", "projection")


@offers_data
@draws(*_EFFECTS)
def plot_graph(effects: pl.DataFrame, threshold: float) -> Layered:
    """Heads in their layers, a line a change; a slider leaves out changes below a threshold.

    Columns layer, component, later_layer, later_component, norm, relative, projection. The slider
    starts at `threshold`; the pointer on a head leaves its own lines alone. Of more than
    `MOST_LINES` changes the largest are there to be drawn, and the slider ends where these do.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_graph
        >>> effects = pl.DataFrame(
        ...     {
        ...         "layer": [0, 0],
        ...         "component": [0, 1],
        ...         "later_layer": [1, 1],
        ...         "later_component": [0, 0],
        ...         "norm": [1.2, 0.1],
        ...         "relative": [0.6, 0.05],
        ...         "projection": [0.5, 0.0],
        ...     }
        ... )
        >>> plot_graph(effects, threshold=0.1).save("graph.html")
    """
    changes = _with_ends(effects)
    heads = _heads_of(changes)
    largest, floor = _largest(changes)
    least = alt.param(
        name="least",
        value=max(threshold, floor),
        bind=alt.binding_range(min=floor, max=1, step=0.01, name="relative changes from "),
    )
    pointed = alt.selection_point(
        name="pointed", fields=["name"], on="pointerover", clear="pointerout", empty=True
    )
    (axis, scale), (rows, heights) = (_whole_numbers(heads[x]) for x in ("component", "layer"))
    column = alt.X("component:Q", title="head", axis=axis, scale=scale)
    row = alt.Y("layer:Q", title="layer", axis=rows, scale=heights)
    lines = (
        chart_of(largest)
        .transform_filter("datum.relative >= least")
        .mark_rule(color=BLUE, strokeCap="round")
        .encode(
            column,
            row,
            alt.X2("later_component:Q"),
            alt.Y2("later_layer:Q"),
            alt.StrokeWidth("relative:Q", scale=alt.Scale(range=[0.5, 7]), legend=None),
            opacity=alt.condition(_OUTSIDE, alt.value(0.04), alt.value(0.6)),
            tooltip=_told(),
        )
    )
    circles = (
        chart_of(heads)
        .mark_circle(size=220, color=VERMILION, opacity=1)
        .encode(column, row, tooltip=["name:N", alt.Tooltip("strongest:N", title="most")])
        .add_params(pointed)
    )
    height = min(90 * heads["layer"].n_unique(), _HIGHEST)
    return alt.layer(lines, circles, width=_WIDTH, height=height).add_params(least)


# A head is pointed at, and the line has neither of its ends there.
_OUTSIDE = (
    "isDefined(pointed.name) && indexof(pointed.name, datum.source) < 0"
    " && indexof(pointed.name, datum.target) < 0"
)


@offers_data
@draws(*_EFFECTS)
def plot_effects(effects: pl.DataFrame) -> alt.Chart:
    """A heatmap of sources and later heads in causal order; columns as those of `plot_graph`.

    Of more than `MOST_CELLS` pairs a cell stands for two layers, and shows the largest change of a
    head of the later by one of the earlier.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.charts import plot_effects
        >>> from analysis.studies.head_to_head import head_changes
        >>> model = load_model("testbed")
        >>> effects = head_changes(model, load_task("ioi", model, n=2))
        >>> plot_effects(effects).save("effects.html")
    """
    return _staircase(effects, "")


def _staircase(effects: pl.DataFrame, title: str) -> alt.Chart:
    changes = _with_ends(effects)
    few = len(changes) <= MOST_CELLS
    cells, unit, most = (
        (_by_heads(changes), "head", "") if few else (_by_layers(changes), "layer", "largest ")
    )
    scale = alt.Scale(scheme="blues", domainMin=0)
    return (
        chart_of(cells)
        .mark_rect()
        .encode(
            alt.X(
                "later_short:O",
                title=f"changed {unit}",
                sort=None,
                axis=alt.Axis(labelAngle=-90),
            ),
            alt.Y("short:O", title=f"patched {unit}", sort=None),
            alt.Color("relative:Q", title=f"{most}relative change", scale=scale),
            tooltip=_told(),
        )
        .properties(width=alt.Step(12), height=alt.Step(12), title=title)
    )


def _by_heads(changes: pl.DataFrame) -> pl.DataFrame:
    """Every pair, named by its ends."""
    return changes.select(
        *_TOLD, short=pl.format("{}.{}", *_SOURCE), later_short=pl.format("{}.{}", *_TARGET)
    )


def _by_layers(changes: pl.DataFrame) -> pl.DataFrame:
    """Of the heads of each two layers the pair with the largest change, named by its layers."""
    layers = {"short": "layer", "later_short": "later_layer"}
    ordered = changes.sort("relative", nulls_last=False, maintain_order=True)
    largest = ordered.group_by(layers.values()).agg(pl.col(_TOLD).last())
    return largest.sort(layers.values()).select(*_TOLD, **layers)


@offers_data
@draws("task", *_EFFECTS)
def plot_tasks(effects: pl.DataFrame) -> alt.ConcatChart:
    """`plot_effects` for each task, two side by side; a column task more.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_tasks
        >>> effects = pl.DataFrame(
        ...     {
        ...         "task": ["ioi", "gender-bias"],
        ...         "layer": 0,
        ...         "component": 0,
        ...         "later_layer": 1,
        ...         "later_component": 0,
        ...         "norm": [1.2, 0.1],
        ...         "relative": [0.6, 0.05],
        ...         "projection": [0.5, 0.0],
        ...     }
        ... )
        >>> plot_tasks(effects).save("tasks.html")
    """
    return alt.concat(*(_staircase(rows, task) for task, rows in by(effects, "task")), columns=2)


@offers_data
@draws("layer", "component", "reached", "later")
def plot_reached(reached: pl.DataFrame) -> alt.Chart:
    """How many later heads each head changes by more than 5 %; columns layer, component, reached,
    later.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_reached
        >>> reached = pl.DataFrame(
        ...     {"layer": [0, 0], "component": [0, 1], "reached": [8, 24], "later": [24, 24]}
        ... )
        >>> plot_reached(reached).save("reached.html")
    """
    heads = reached.select(
        "reached",
        "later",
        name=pl.format("head {}.{}", *_SOURCE),
        short=pl.format("{}.{}", *_SOURCE),
    )
    return (
        chart_of(heads)
        .mark_bar(color=BLUE)
        .encode(
            alt.X("short:O", title="patched head", sort=None, axis=alt.Axis(labelAngle=0)),
            alt.Y("reached:Q", title="later heads changed by more than 5 %"),
            tooltip=["name:N", "reached:Q", "later:Q"],
        )
        .properties(width=_WIDTH, height=160)
    )


@offers_data
@draws("model", "task", "outcome", "effect", "low", "high", "q", "latent")
def plot_latent(tests: pl.DataFrame) -> alt.ConcatChart:
    """Effects with intervals by model and task, a panel an outcome; columns model, task, outcome,
    effect, low, high, q, latent.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_latent
        >>> tests = pl.DataFrame(
        ...     {
        ...         "model": "testbed",
        ...         "task": ["ioi", "gender-bias"],
        ...         "outcome": "norm",
        ...         "effect": [0.2, -0.1],
        ...         "low": [0.1, -0.2],
        ...         "high": [0.3, 0.0],
        ...         "q": [0.01, 0.4],
        ...         "latent": [12, 9],
        ...     }
        ... )
        >>> plot_latent(tests).save("latent.html")
    """
    return alt.concat(*(_effects(rows, outcome) for outcome, rows in by(tests, "outcome")))


def _effects(tests: pl.DataFrame, title: str) -> Layered:
    marks = chart_of(tests.rename({"effect": "mean"})).encode(
        alt.Y("task:N", title=None, sort=None),
        alt.YOffset("model:N", sort=None),
        alt.Color("model:N", title=None, sort=None),
        tooltip=["model:N", "task:N", "latent:Q", *estimate(), number("q", "q")],
    )
    points = marks.mark_point(filled=True, size=45).encode(
        alt.X("mean:Q", title="latent - controls (sd)")
    )
    intervals = marks.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    zero = chart_of(pl.DataFrame({"mean": [0.0]})).mark_rule(color=GREY, strokeDash=[4, 4])
    return alt.layer(
        zero.encode(alt.X("mean:Q")),
        intervals,
        points,
        width=115,
        height=alt.Step(12),
        title=title,
    )


_TOLD = ("relative", "norm", "projection", "change")


def _with_ends(effects: pl.DataFrame) -> pl.DataFrame:
    """The names of both heads, and what the pointer says of a pair; undefined changes are null."""
    percentage = pl.col("relative").map_elements("{:.0%}".format, return_dtype=pl.String)
    return (
        effects.select(_EFFECTS)
        .with_columns(pl.selectors.float().fill_nan(None))
        .with_columns(
            source=pl.format("head {}.{}", *_SOURCE), target=pl.format("head {}.{}", *_TARGET)
        )
        .with_columns(change=pl.format("{} changes {} by {}", "source", "target", percentage))
    )


def _largest(changes: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """The changes that a slider can draw, and the relative change, in hundredths, where it ends."""
    if len(changes) <= MOST_LINES:
        return changes, 0.0
    largest = changes.sort("relative", descending=True, nulls_last=True).head(MOST_LINES)
    lowest = largest["relative"].fill_null(0.0).to_numpy().min()
    return largest, min(math.ceil(100 * lowest) / 100, 1.0)


def _heads_of(changes: pl.DataFrame) -> pl.DataFrame:
    """Every head once, with its name and the head that it changes most."""
    sources = changes.select(*_SOURCE, name="source")
    targets = changes.select(layer="later_layer", component="later_component", name="target")
    most = changes.sort("relative").unique("source", keep="last")
    strongest = most.select(name="source", strongest="change")
    heads = pl.concat([sources, targets]).unique(maintain_order=True)
    return heads.join(strongest, on="name", how="left", maintain_order="left").fill_null("–")


def _whole_numbers(values: pl.Series) -> tuple[alt.Axis, alt.Scale]:
    """An axis with a number for each value, and a scale with room at its ends."""
    numbers = values.unique().sort().to_list()
    axis = alt.Axis(values=numbers, format="d", grid=False, domain=False, ticks=False)
    return axis, alt.Scale(domain=[numbers[0] - 0.3, numbers[-1] + 0.3], nice=False)


def _told() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("change:N", title="effect"),
        number("norm", "norm"),
        number("projection", "projection"),
    ]
