"""What the baselines and the number of steps do to the agreement."""

import altair as alt
import polars as pl

from analysis.charts.frames import by, by_kind, chart_of, draws
from analysis.charts.page import offers_data
from analysis.charts.theme import KIND_TITLES, Layered, estimate, number


@offers_data
@draws("task", "ig", "ap", "mean", "low", "high")
def plot_baselines(agreement: pl.DataFrame) -> alt.HConcatChart:
    """r for every pair of baselines, a panel a task; columns task, ig, ap, mean, low, high.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_baselines
        >>> agreement = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "ig": ["source", "zero"],
        ...         "ap": "source",
        ...         "mean": [0.97, 0.31],
        ...         "low": [0.95, 0.1],
        ...         "high": [0.99, 0.5],
        ...     }
        ... )
        >>> plot_baselines(agreement).save("baselines.html")
    """
    return alt.hconcat(*(_pairs_of_baselines(rows, task) for task, rows in by(agreement, "task")))


# Where white stands out from the scheme's colours more than black does.
_ON_DARK = "datum.mean > 0.79 || datum.mean < -0.68"


def _pairs_of_baselines(agreement: pl.DataFrame, title: str) -> Layered:
    cells = chart_of(agreement).encode(
        alt.X("ap:N", title="AP's baseline", sort=None, axis=alt.Axis(labelAngle=0)),
        alt.Y("ig:N", title="IG's baseline", sort=None),
        tooltip=["task:N", "ig:N", "ap:N", *estimate()],
    )
    scale = alt.Scale(scheme="redblue", domain=[-1, 1], domainMid=0)
    tiles = cells.mark_rect().encode(alt.Color("mean:Q", title="r", scale=scale))
    written = cells.mark_text().encode(
        alt.Text("mean:Q", format=".2f"),
        color=alt.condition(_ON_DARK, alt.value("white"), alt.value("black")),
    )
    return alt.layer(tiles, written, width=120, height=120, title=title)


@offers_data
@draws("rule", "steps", "gap")
def plot_steps(steps: pl.DataFrame) -> alt.Chart:
    """The largest gap against the steps, a line a rule; columns rule, steps, gap.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_steps
        >>> steps = pl.DataFrame({"rule": ["left"] * 2, "steps": [8, 16], "gap": [0.04, 0.02]})
        >>> plot_steps(steps).save("steps.html")
    """
    return (
        chart_of(steps)
        .mark_line(point=True)
        .encode(
            alt.X("steps:Q", title="steps", scale=alt.Scale(type="log", base=2)),
            alt.Y(
                "gap:Q",
                title="largest gap / largest |total effect|",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", tickCount=6),
            ),
            alt.Color("rule:N", title=None, sort=None),
            tooltip=["rule:N", "steps:Q", number("gap", "gap")],
        )
        .properties(width=420, height=220)
    )


@offers_data
@draws("task", "kind", "steps", "r")
def plot_steps_agreement(agreement: pl.DataFrame) -> alt.HConcatChart:
    """The lowest r of any layer against the steps; columns task, kind, steps, r.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import plot_steps_agreement
        >>> agreement = pl.DataFrame(
        ...     {
        ...         "task": "ioi",
        ...         "kind": ["heads", "neurons"] * 2,
        ...         "steps": [2, 2, 8, 8],
        ...         "r": [0.9, 0.8] * 2,
        ...     }
        ... )
        >>> plot_steps_agreement(agreement).save("steps.html")
    """
    return alt.hconcat(
        *(
            chart_of(rows)
            .mark_line(point=True)
            .encode(
                alt.X("steps:Q", title="steps", scale=alt.Scale(type="log", base=2)),
                alt.Y("r:Q", title="lowest r of a layer", scale=alt.Scale(zero=False)),
                alt.Color("task:N", title=None, sort=None),
                tooltip=["task:N", "steps:Q", number("r", "r")],
            )
            .properties(width=230, height=180, title=KIND_TITLES[kind])
            for kind, rows in by_kind(agreement)
        )
    )
