"""What all forms share: a frame's checks, its channels, and panels cut by its columns."""

from collections.abc import Callable, Iterator
from itertools import product
from math import ceil, sqrt
from typing import Any, TypedDict, Unpack

import altair as alt
import polars as pl

from analysis.charts.theme import BLUE, EARLY_TO_LATE, Layered

PAGE = 640  # pixels: where the PDF fits these to its lines, text of 12 px has 8 pt
AXES, NARROWEST = 70, 85  # of them for an axis with its labels, and for a panel beside it
_TITLES = {"ap": "AP", "ig": "IG", "r": "Pearson's r"}
Column = str | None


class Panels(TypedDict, total=False):
    """Columns with a panel for each value and with a panel's note, and titles by column."""

    column: Column
    row: Column
    note: Column
    titles: dict[str, str]


class Sheet:
    """The columns that a form draws, of the rows in which all that is measured is finite.

    A component gets a name, such as `head 2.3` for layer 2's head 3. What isn't a Polars frame,
    lacks a column or has nothing to draw is refused.
    """

    def __init__(self, form: str, frame: Any, measured: Any, others: Any, **panels: Unpack[Panels]):
        if not isinstance(frame, pl.DataFrame):
            raise ValueError(f"{form} draws a Polars DataFrame, not a {type(frame).__name__}.")
        self.titles = _TITLES | panels.get("titles", {})
        self.column, row, self.note = (panels.get(name) for name in ("column", "row", "note"))
        self.keys = [key for key in (row, self.column) if key]
        columns = [name for name in (*self.keys, *others, self.note, *measured) if name]
        if missing := [name for name in columns if name not in frame.columns]:
            raise ValueError(f"{form}: the frame lacks the column(s) {', '.join(missing)}.")
        if {"kind", "layer", "component"} <= set(frame.columns):
            kind = pl.col("kind").replace({"heads": "head", "neurons": "neuron"})
            frame = frame.with_columns(name=pl.format("{} {}.{}", kind, "layer", "component"))
            columns.insert(0, "name")
        finite = frame.filter(pl.col(name).is_finite() for name in measured)
        self.rows = finite.select(list(dict.fromkeys(columns)))
        if self.rows.is_empty():
            raise ValueError(f"{form}: the frame has no rows to draw.")

    def title(self, column: str) -> str:
        return self.titles.get(column, column.replace("_", " "))

    def order(self, column: str) -> list[Any]:
        """A column's values as they come."""
        return self.rows[column].unique(maintain_order=True).to_list()

    def longest(self, column: str) -> int:
        """Pixels of the column's longest value."""
        return 7 * max(len(str(value)) for value in self.order(column))

    def numbers(self, of: Any, column: str, log: bool = False) -> Any:
        """A channel of numbers, `of` being `alt.X` or `alt.Y`."""
        scale = alt.Scale(zero=False)
        ticks: Any = {"tickMinStep": 1} if self.rows[column].dtype.is_integer() else {}
        if log:
            least = float(self.rows[column].to_numpy().min())
            form = "~s" if least >= 1 else "~g" if least >= 1e-4 else ".0e"
            scale = alt.Scale(type="log", nice=of is alt.Y)
            ticks = {"format": form, "grid": of is alt.Y}
        axis = alt.Axis(tickCount=4, labelSeparation=8, **ticks)
        return of(f"{column}:Q", title=self.title(column), scale=scale, axis=axis)

    def names(self, of: Any, column: str, **settings: Any) -> Any:
        """A channel of names in the frame's order; these need no title."""
        return of(f"{column}:N", title=self.titles.get(column), sort=self.order(column), **settings)

    def colour(self, column: Column) -> Any:
        """A colour for each name, or from early to late layers; blue without a column."""
        if column is None:
            return alt.value(BLUE)
        if self.rows[column].dtype.is_numeric():
            legend = alt.Legend(tickMinStep=1, format="d", gradientLength=120, gradientOpacity=1)
            scale = alt.Scale(range=EARLY_TO_LATE)
            return alt.Color(f"{column}:Q", title=self.title(column), scale=scale, legend=legend)
        return self.names(alt.Color, column, scale=alt.Scale(domain=self.order(column)))

    def told(self, *columns: str) -> list[alt.Tooltip]:
        """What the pointer tells of a mark: these columns, or all."""
        forms: Any = {True: {"type": "quantitative", "format": ".3g"}, False: {"type": "nominal"}}
        return [
            alt.Tooltip(name, title=self.title(name), **forms[self.rows[name].dtype.is_float()])
            for name in columns or self.rows.columns
        ]

    def cut(self, *keys: str) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
        """The rows of every combination of the columns' values, in the frame's order."""
        for values in product(*map(self.order, keys)):
            chosen = dict(zip(keys, values, strict=True))
            if len(part := self.rows.filter(pl.lit(True), **chosen)):
                yield chosen, part

    def facet(self, draw: Callable[..., Layered], axes: int = AXES, grow: bool = True) -> Any:
        """The panels, each as `draw` makes it of a chart of its rows, these, and its width."""
        across = len(self.order(self.column)) if self.column else 1
        columns = across if across <= 3 or len(self.keys) > 1 else ceil(sqrt(across))
        columns = max(1, min(columns, PAGE // (axes + NARROWEST)))
        panels = []
        for chosen, part in self.cut(*self.keys):
            chart = alt.Chart()
            for key, value in chosen.items():
                chart = chart.transform_filter(alt.FieldEqualPredicate(field=key, equal=value))
            panel = draw(chart, part, min(PAGE / columns - axes, 420.0))
            title = ", ".join(str(value) for value in reversed(chosen.values()))
            if title or self.note:
                note = str(part[self.note][0]) if self.note else ""
                panel = panel.properties(title=alt.Title(title, subtitle=note))
            panels.append(panel)
        return concat(panels, columns, self.rows, axes, grow)


def concat(
    panels: list[Any], columns: int, rows: pl.DataFrame, axes: int = AXES, grow: bool = True
) -> alt.ConcatChart:
    """Panels of the same rows. By `usermeta` the script of the pages fits them to the screen."""
    chart = alt.concat(*panels, columns=columns, data=data_of(rows))
    chart.usermeta = {"axes": axes, "grow": grow}
    return chart


def data_of(rows: pl.DataFrame) -> alt.InlineData:
    """All rows, where Altair itself takes 5,000; six digits, and null for what is undefined."""
    floats = pl.selectors.float().cast(pl.Float64).fill_nan(None).round_sig_figs(6)
    return alt.InlineData(values=rows.with_columns(floats).to_dicts())
