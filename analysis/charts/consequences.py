"""What sets of components do together."""

import altair as alt
import polars as pl

from analysis.charts.frames import by, by_kind, chart_of, draws
from analysis.charts.page import offers_data
from analysis.charts.theme import KIND_TITLES, Layered, estimate, number


@offers_data
@draws("task", "kind", "set", "size", "mean", "low", "high")
def plot_sets(sets: pl.DataFrame) -> alt.HConcatChart:
    """What ablating sets does, with intervals; columns task, kind, set, size, mean, low, high.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_sets
        >>> sets = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "heads", "neurons", "neurons"],
        ...         "set": ["IG's top", "random"] * 2,
        ...         "size": 5,
        ...         "mean": [0.8, 0.1, 0.6, 0.0],
        ...         "low": [0.7, 0.0, 0.5, -0.1],
        ...         "high": [0.9, 0.2, 0.7, 0.1],
        ...     }
        ... )
        >>> plot_sets(sets).save("sets.html")
    """
    return alt.hconcat(*(_sets(rows, KIND_TITLES[kind]) for kind, rows in by_kind(sets)))


def _sets(sets: pl.DataFrame, title: str) -> Layered:
    marks = chart_of(sets).encode(
        alt.Y("task:N", title=None, sort=None),
        alt.YOffset("set:N", sort=None),
        alt.Color("set:N", title=None, sort=None),
        tooltip=["task:N", "set:N", "size:Q", *estimate()],
    )
    points = marks.mark_point(filled=True, size=45).encode(
        alt.X("mean:Q", title="change of the metric / mean total effect")
    )
    intervals = marks.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    return alt.layer(intervals, points, width=220, height=alt.Step(12), title=title)


@offers_data
@draws("task", "method", "share", "faithfulness")
def plot_circuits(curves: pl.DataFrame) -> alt.HConcatChart:
    """Faithfulness against the share of components kept, a line a method, a panel a task;
    columns task, method, share, faithfulness. The empty circuit has no place on the axis.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_circuits
        >>> curves = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "method": ["IG", "IG", "AP", "AP"],
        ...         "share": [0.1, 1.0, 0.1, 1.0],
        ...         "faithfulness": [0.7, 1.0, 0.8, 1.0],
        ...     }
        ... )
        >>> plot_circuits(curves).save("circuits.html")
    """
    shown = curves.filter(pl.col("share") > 0)
    return alt.hconcat(
        *(
            chart_of(rows)
            .mark_line(point=True)
            .encode(
                alt.X(
                    "share:Q",
                    title="share kept",
                    scale=alt.Scale(type="log"),
                    axis=alt.Axis(tickCount=4),
                ),
                alt.Y("faithfulness:Q", title="faithfulness"),
                alt.Color("method:N", title=None, sort=None),
                tooltip=["method:N", "share:Q", number("faithfulness", "faithfulness")],
            )
            .properties(width=130, height=150, title=task)
            for task, rows in by(shown, "task")
        )
    )
