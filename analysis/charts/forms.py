"""The forms that draw any tidy frame: its columns say what stands where, and cut it into panels."""

from typing import Any, Unpack

import altair as alt
import numpy as np
import polars as pl
from polars import DataFrame

from analysis.charts.panels import AXES, PAGE, Column, Panels, Sheet, data_of
from analysis.charts.theme import BLUE, GREY, VERMILION, Layered

MOST_POINTS = 300
_DASHED: Any = {"color": GREY, "strokeDash": [4, 4], "strokeWidth": 1}


def scatter(
    frame: DataFrame, x: str = "ap", y: str = "ig", color: Column = None, **panels: Unpack[Panels]
) -> alt.ConcatChart:
    """Points with the line on which both are the same, in square panels.

    Of more than 2 * `MOST_POINTS` points in a panel the most extreme are drawn, and an even sample
    of the others.
    """
    sheet = Sheet("scatter", frame, (x, y), (color,), **panels)
    sheet.rows = pl.concat(keep_extremes(part, x, y) for _, part in sheet.cut(*sheet.keys))
    look = {"color": sheet.colour(color), "tooltip": sheet.told()}

    def draw(chart: alt.Chart, part: DataFrame, width: float) -> Layered:
        points = chart.mark_circle(size=28, opacity=0.8).encode(**look)
        return square(sheet, points, part, x, y).properties(width=width, height=width)

    return sheet.facet(draw)


def square(sheet: Sheet, points: alt.Chart, rows: DataFrame, x: str, y: str) -> Layered:
    """The points above the identity line, on equal axes that hold all the rows."""
    both = np.concatenate([rows[name].to_numpy() for name in (x, y)]).astype(float)
    room = 0.04 * (np.ptp(both) or 1.0)
    ends = [both.min() - room, both.max() + room]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    across, up = sheet.numbers(alt.X, x).scale(scale), sheet.numbers(alt.Y, y).scale(scale)
    identity = alt.Chart(data_of(DataFrame({x: ends, y: ends}))).mark_line(**_DASHED)
    return alt.layer(identity, points).encode(across, up)


def keep_extremes(rows: DataFrame, x: str, y: str, most: int = MOST_POINTS) -> DataFrame:
    """At most `2 * most` rows: the largest by |x| or |y|, and an even sample of the others."""
    size = pl.max_horizontal(pl.col(x).abs(), pl.col(y).abs())
    ordered = rows.sort(size, descending=True, maintain_order=True)
    others = ordered.slice(most)
    return pl.concat([ordered.head(most), others.gather_every(max(1, -(-len(others) // most)))])


def heatmap(
    frame: DataFrame, x: str, y: str, value: str, text: bool = False, **panels: Unpack[Panels]
) -> alt.ConcatChart:
    """Cells from red through white at 0 to blue, on one scale; `text` writes the values too.

    Layers, and all numbers, count from below.
    """
    sheet = Sheet("heatmap", frame, (value,), (x, y), **panels)
    across, up = len(sheet.order(x)), len(sheet.order(y))
    values = sheet.rows[value].to_numpy()
    ends, largest = (values.min(), values.max()), 48 if text else 26  # pixels of a cell

    def draw(chart: alt.Chart, part: DataFrame, width: float) -> Layered:
        wide = min(largest, width / across)
        high = min(largest, max(wide, 14), PAGE / up)
        panel = cells(sheet, chart, x, y, value, ends, text)
        return panel.properties(width=across * wide, height=up * high)

    return sheet.facet(draw, axes=AXES + sheet.longest(y) - 7, grow=False)


def cells(
    sheet: Sheet, chart: alt.Chart, x: str, y: str, value: str, ends: Any, text: bool = False
) -> Layered:
    """A heatmap's panel, with one scale of colours for what lies between these ends."""
    largest, positive = float(np.abs(ends).max()) or 1.0, ends[0] >= 0
    scale = alt.Scale(scheme="redblue", domain=[-largest, largest], domainMid=0)
    if positive:
        scale = alt.Scale(scheme="blues", domain=[0, largest])
    for of, name, order in ((alt.X, x, "ascending"), (alt.Y, y, "descending")):
        level = of is alt.Y or len(sheet.order(name)) <= 12
        axis = alt.Axis(labelOverlap=True, labelAngle=0 if level else -90)
        order = order if sheet.rows[name].dtype.is_numeric() else sheet.order(name)
        chart = chart.encode(of(f"{name}:O", title=sheet.title(name), sort=order, axis=axis))
    colour = alt.Color(f"{value}:Q", title=sheet.title(value), scale=scale)
    tiles = chart.mark_rect().encode(colour, tooltip=sheet.told())
    if not text:
        return alt.layer(tiles)
    share = f"datum['{value}'] / {largest}"
    dark = f"{share} > 0.6" if positive else f"{share} > 0.79 || {share} < -0.74"
    ink = alt.condition(dark, alt.value("white"), alt.value("black"))
    written = chart.mark_text(fontSize=12).encode(alt.Text(f"{value}:Q", format=".2f"), color=ink)
    return alt.layer(tiles, written)


def lines(
    frame: DataFrame,
    x: str,
    y: str,
    color: str,
    low: Column = None,
    high: Column = None,
    log_x: bool = False,
    log_y: bool = False,
    reference: Column = None,
    **panels: Unpack[Panels],
) -> alt.ConcatChart:
    """A line for each colour, with a band from `low` to `high` and a dashed line for `reference`.

    What has no logarithm is not drawn on a logarithmic axis.
    """
    sheet = Sheet("lines", frame, (x, y), (color, low, high, reference), **panels)
    logarithmic = [name for name, log in ((x, log_x), (y, log_y)) if log]
    sheet.rows = sheet.rows.filter(pl.lit(True), *(pl.col(name) > 0 for name in logarithmic))
    across, up = sheet.numbers(alt.X, x, log_x), sheet.numbers(alt.Y, y, log_y)

    def draw(chart: alt.Chart, part: DataFrame, width: float) -> Layered:
        curves = chart.encode(across, detail=f"{color}:N")
        coloured = curves.encode(sheet.colour(color))
        layers, band = [], (alt.Y(f"{low}:Q"), alt.Y2(f"{high}:Q"))
        if low and high:
            layers.append(coloured.mark_area(opacity=0.2).encode(*band))
        if reference:
            layers.append(curves.mark_line(**_DASHED).encode(alt.Y(f"{reference}:Q")))
        layers.append(coloured.mark_line(point=True).encode(up, tooltip=sheet.told()))
        return alt.layer(*layers, width=width, height=min(width, 220))

    return sheet.facet(draw)


def intervals(
    frame: DataFrame, y: str, color: Column = None, x: str = "estimate", **panels: Unpack[Panels]
) -> alt.ConcatChart:
    """Estimates as dots, with intervals from `low` to `high` and a line at zero if that is near."""
    sheet = Sheet("intervals", frame, (x,), (y, color, "low", "high"), **panels)
    ends = sheet.rows.select(x, "low", "high").cast(pl.Float64).to_numpy()
    ends = ends[np.isfinite(ends)]
    near = ends.min() < np.ptp(ends) and -ends.max() < np.ptp(ends)
    across, shape = sheet.numbers(alt.X, x), {}
    look = {"y": sheet.names(alt.Y, y), "color": sheet.colour(color), "tooltip": sheet.told()}
    if color:
        look["yOffset"] = sheet.names(alt.YOffset, color)
        shape["shape"] = sheet.names(alt.Shape, color, scale=alt.Scale(domain=sheet.order(color)))

    def draw(chart: alt.Chart, part: DataFrame, width: float) -> Layered:
        marks = chart.encode(**look)
        dots = marks.mark_point(filled=True, size=45, opacity=1).encode(across, **shape)
        known = marks.transform_filter("isValid(datum['low']) && isValid(datum['high'])")
        spans = known.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
        zero = alt.Chart(data_of(DataFrame({x: [0]}))).mark_rule(**_DASHED).encode(across)
        layers = [zero, spans, dots] if near else [spans, dots]
        return alt.layer(*layers, width=width, height=alt.Step(14 if color else 22))

    return sheet.facet(draw, axes=30 + sheet.longest(y))


def strip(frame: DataFrame, x: str, y: str, **panels: Unpack[Panels]) -> alt.ConcatChart:
    """A mark for each prompt, with the median of all."""
    sheet = Sheet("strip", frame, (x,), (y,), **panels)
    sheet.rows = sheet.rows.with_columns(median=pl.col(x).median().over(*sheet.keys, y))
    names, across = sheet.names(alt.Y, y), sheet.numbers(alt.X, x)

    def draw(chart: alt.Chart, part: DataFrame, width: float) -> Layered:
        ticks = chart.mark_tick(color=BLUE, opacity=0.4, thickness=1, size=16)
        ticks = ticks.encode(across, names, tooltip=sheet.told())
        median = chart.transform_aggregate(median="max(median)", groupby=[y])
        median = median.mark_tick(color=VERMILION, thickness=3, size=20)
        median = median.encode(alt.X("median:Q"), names, tooltip=sheet.told(y, "median"))
        return alt.layer(ticks, median, width=width, height=alt.Step(28))

    return sheet.facet(draw, axes=30 + sheet.longest(y))
