"""What the engine costs."""

import altair as alt
import polars as pl

from analysis.charts.frames import by, by_kind, chart_of, draws
from analysis.charts.page import offers_data
from analysis.charts.theme import KIND_TITLES, number


@offers_data
@draws("task", "kind", "layer", "speedup")
def plot_speedup(layers: pl.DataFrame) -> alt.HConcatChart:
    """Speedup by layer, heads and neurons side by side; columns task, kind, layer, speedup.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_speedup
        >>> layers = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "neurons"] * 2,
        ...         "layer": [0, 0, 1, 1],
        ...         "speedup": [2, 3, 5, 9],
        ...     }
        ... )
        >>> plot_speedup(layers).save("speedup.html")
    """
    return alt.hconcat(
        *(
            chart_of(rows)
            .mark_line(point=True)
            .encode(
                alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
                alt.Y("speedup:Q", title="times faster", scale=alt.Scale(type="log")),
                alt.Color("task:N", title=None, sort=None),
                tooltip=["task:N", "layer:O", number("speedup", "times faster")],
            )
            .properties(width=230, height=200, title=KIND_TITLES[kind])
            for kind, rows in by_kind(layers)
        )
    )


@offers_data
@draws("grows", "size", "method", "operations")
def plot_growth(operations: pl.DataFrame) -> alt.HConcatChart:
    """Operations as each size grows, a panel each; columns grows, size, method, operations.

    Examples:
        >>> from analysis.charts import plot_growth
        >>> from analysis.studies.performance import growth
        >>> operations = growth("ioi")
        >>> operations.columns
        ['grows', 'size', 'method', 'operations']
        >>> plot_growth(operations).save("growth.html")
    """
    return alt.hconcat(
        *(
            chart_of(rows)
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
                alt.Color("method:N", title=None, sort=None),
                tooltip=["method:N", "size:Q", number("operations", "operations")],
            )
            .properties(width=170, height=200)
            for grows, rows in by(operations, "grows")
        )
    )
