"""What a chart takes of a frame: its checks, its parts, and rows of any number."""

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import altair as alt
import polars as pl

from analysis.charts.theme import KIND_TITLES

Chart = TypeVar("Chart", bound=Any)


def draws(*columns: str) -> Callable[[Callable[..., Chart]], Callable[..., Chart]]:
    """Lets a chart function refuse a frame, its first argument, that it cannot draw.

    Raises:
        ValueError: in the decorated function, where the frame is not one of Polars, lacks one of
            these columns or has no rows: Vega would draw empty axes.
    """

    def decorate(plot: Callable[..., Chart]) -> Callable[..., Chart]:
        @wraps(plot)
        def check_and_plot(*arguments: Any, **settings: Any) -> Chart:
            _check(first_argument(plot, arguments, settings), plot.__name__, columns)
            return plot(*arguments, **settings)

        return check_and_plot

    return decorate


def first_argument(
    plot: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]
) -> Any:
    """What a call of a chart function gives it first, by position or by name: the frame."""
    return next(iter(signature(plot).bind(*arguments, **settings).arguments.values()))


def _check(frame: Any, plot: str, columns: tuple[str, ...]) -> None:
    if not isinstance(frame, pl.DataFrame):
        raise ValueError(
            f"{plot} draws a Polars DataFrame, and this is a {type(frame).__name__}: convert it "
            "with `polars.DataFrame` or `polars.from_pandas`."
        )
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{plot} draws the columns {', '.join(columns)}, and this frame lacks "
            f"{', '.join(missing)}: add or rename them."
        )
    if frame.is_empty():
        raise ValueError(f"{plot}: the frame has no rows, so there is nothing to draw.")


def part(frame: pl.DataFrame, **values: str) -> pl.DataFrame:
    """The rows in which columns have these values.

    Raises:
        ValueError: where there are none.
    """
    rows = frame.filter(**values)
    if rows.is_empty():
        wanted = " and ".join(f"{column} '{value}'" for column, value in values.items())
        raise ValueError(f"The frame has no rows to draw with {wanted}.")
    return rows


def by(frame: pl.DataFrame, column: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each value of a column with its rows, a panel each, in the frame's order."""
    for value in frame[column].unique(maintain_order=True):
        yield value, part(frame, **{column: value})


def by_kind(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Heads and neurons with their rows, as far as the frame has them, heads first."""
    for kind in KIND_TITLES:
        if kind in frame["kind"]:
            yield kind, part(frame, kind=kind)


def chart_of(frame: pl.DataFrame) -> alt.Chart:
    """A chart of all rows: of a frame itself Altair takes 5,000 at most.

    What is undefined, NaN, is null there, as JSON has no word for it, and is not drawn.
    """
    rows = frame.with_columns(pl.selectors.float().fill_nan(None)).to_dicts()
    return alt.Chart({"values": rows})
