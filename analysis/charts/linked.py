"""Charts of a model's heads that answer to the pointer: what they change, and their scores."""

from collections.abc import Mapping
from copy import copy
from math import ceil
from typing import Any
from warnings import catch_warnings, simplefilter

import altair as alt
import polars as pl

from analysis.charts.forms import cells, keep_extremes, square
from analysis.charts.panels import AXES, PAGE, Sheet, concat, data_of
from analysis.charts.theme import BLUE, VERMILION, Layered

MOST_LINES = 1_000
_SOURCE, _TARGET = ("layer", "component"), ("later_layer", "later_component")
_POINTED = alt.selection_point("pointed", fields=["name"], on="pointerover", clear="pointerout")
# A head is pointed at, and the line has neither of its ends there.
_OUTSIDE = (
    "isDefined(pointed.name) && indexof(pointed.name, datum.source) < 0"
    " && indexof(pointed.name, datum.target) < 0"
)
_METHODS = {"ig": "integrated gradients", "ap": "activation patching"}
_BRUSH = alt.selection_interval(name="chosen")
_CLICK = alt.selection_point(name="clicked", fields=["layer", "component"])
_WIDTH = PAGE / 2 - AXES


def graph(effects: pl.DataFrame, threshold: float) -> alt.ConcatChart:
    """Heads in their layers, a line a change; a slider leaves out changes below a threshold.

    Columns layer, component, later_layer, later_component, relative. The pointer on a head leaves
    its lines alone. Of more than `MOST_LINES` changes the slider reaches the largest ones only.
    """
    changes = Sheet("graph", effects, ("relative",), (*_SOURCE, *_TARGET)).rows
    source, target = (pl.format("head {}.{}", *ends) for ends in (_SOURCE, _TARGET))
    percentage = pl.col("relative").map_elements("{:.0%}".format, return_dtype=pl.String)
    told = pl.format("{} changes {} by {}", source, target, percentage)
    changes = changes.with_columns(source=source, target=target, change=told)
    targets = changes.select(layer="later_layer", component="later_component", name="target")
    heads = pl.concat([changes.select(*_SOURCE, name="source"), targets])
    heads = heads.unique(maintain_order=True)
    largest, floor = changes.sort("relative", descending=True).head(MOST_LINES), 0.0
    if len(changes) > MOST_LINES:
        floor = min(ceil(100 * largest["relative"][-1]) / 100, 1.0)
    slider = alt.binding_range(min=floor, max=1, step=0.01, name="relative changes from ")
    least = alt.param(name="least", value=max(threshold, floor), bind=slider)
    drawn = alt.Chart().transform_filter("datum.relative >= least")
    lines = drawn.mark_rule(color=BLUE, strokeCap="round").encode(
        alt.X2("later_component:Q"),
        alt.Y2("later_layer:Q"),
        alt.StrokeWidth("relative:Q", scale=alt.Scale(range=[0.5, 7]), legend=None),
        opacity=alt.condition(_OUTSIDE, alt.value(0.04), alt.value(0.75)),
        tooltip="change:N",
    )
    circles = alt.Chart(data_of(heads)).mark_circle(size=220, color=VERMILION, opacity=1)
    circles = circles.encode(tooltip="name:N").add_params(_POINTED)
    across, up = _whole(alt.X, heads, "component", "head"), _whole(alt.Y, heads, "layer", "layer")
    height = min(90 * heads["layer"].n_unique(), 720)
    panel = alt.layer(lines, circles, width=PAGE - AXES, height=height).encode(across, up)
    return concat([panel], 1, largest).add_params(least)


def _whole(of: Any, heads: pl.DataFrame, column: str, title: str) -> Any:
    """An axis with a number for each value and room at its ends."""
    numbers = heads[column].unique().sort().to_list()
    axis = alt.Axis(values=numbers, format="d", grid=False, domain=False, ticks=False)
    scale = alt.Scale(domain=[numbers[0] - 0.3, numbers[-1] + 0.3], nice=False)
    return of(f"{column}:Q", title=title, axis=axis, scale=scale)


def scores(frame: pl.DataFrame, notes: Mapping[str, str] | None = None) -> alt.ConcatChart:
    """IG against AP of heads and of neurons, above the heads' IG and AP as heatmaps.

    Columns kind, layer, component, ap, ig of one task. A rectangle over heads, or a click on one,
    chooses them in every view. `notes` has a text for each kind, such as its r.
    """
    titles = _METHODS | {"component": "head", "name": "component"}
    sheet = Sheet("scores", frame, ("ig", "ap"), ("kind", "layer", "component"), titles=titles)
    heads, neurons = (sheet.rows.filter(kind=kind) for kind in ("heads", "neurons"))
    sheet.rows = pl.concat([heads, keep_extremes(neurons, "ap", "ig")])
    kinds = [kind for kind in ("heads", "neurons") if kind in sheet.order("kind")]
    panels = [_points(sheet, kind, (notes or {}).get(kind, "")) for kind in kinds]
    panels += [_cells(sheet, heads, method) for method in _METHODS if len(heads)]
    with catch_warnings():  # Altair tells that a selection in several views is one
        simplefilter("ignore", UserWarning)
        return concat(panels, 2, sheet.rows).resolve_scale(color="independent")


def _points(sheet: Sheet, kind: str, note: str) -> Layered:
    points = alt.Chart().transform_filter(alt.FieldEqualPredicate(field="kind", equal=kind))
    points = points.mark_circle(size=36).encode(
        color=sheet.colour("layer"),
        opacity=_chosen(0.8) if kind == "heads" else alt.value(0.8),
        tooltip=sheet.told("name", *_METHODS),
    )
    points = points.add_params(_BRUSH, _CLICK) if kind == "heads" else points
    panel = square(sheet, points, sheet.rows.filter(kind=kind), "ap", "ig")
    return panel.properties(width=_WIDTH, height=_WIDTH, title=alt.Title(kind, subtitle=note))


def _cells(sheet: Sheet, heads: pl.DataFrame, method: str) -> Layered:
    sheet = copy(sheet)
    sheet.rows = heads
    chart = alt.Chart().transform_filter(alt.FieldEqualPredicate(field="kind", equal="heads"))
    chart = chart.encode(opacity=_chosen(1.0)).add_params(_BRUSH, _CLICK)
    largest = heads.select(pl.max_horizontal(pl.col("ap", "ig").abs().max())).item()
    panel = cells(sheet, chart, "component", "layer", method, (-largest, largest))
    height = min(max(28 * heads["layer"].n_unique(), 80), 2 * _WIDTH)
    return panel.properties(width=_WIDTH, height=height, title=f"heads, {_METHODS[method]}")


def _chosen(opacity: float) -> Any:
    """`opacity` for what is chosen, or for all where nothing is; the others fade."""
    return alt.when(_BRUSH & _CLICK).then(alt.value(opacity)).otherwise(alt.value(0.12))
