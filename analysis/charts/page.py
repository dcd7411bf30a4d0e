"""How a chart gets onto a page: interactive on the web, as vectors in the PDF.

A cell's chart is shown in both forms, and each output format takes the one that it can draw. The
interactive one is a Vega-Lite specification that a script draws in the reader's browser, with
links to the frame that it shows and the code that made it. The script and the frames stand beside
the pages, so that these load nothing from another host.
"""

import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert
from IPython import get_ipython
from IPython.core.formatters import MimeBundleFormatter
from IPython.display import Markdown

from analysis.charts.frames import Chart, first_argument

# Cells run in the project's folder.
REPORT = Path("report")
_DATA = "data"
_WRAPPED = 45  # letters of a table's cell
_SOURCE = Path(__file__).with_name("interactive.js")
_CELL = re.compile(r"^```{python}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"^#\| label: (fig-\S+)$", re.MULTILINE)
_ALTERNATIVE_TEXT = re.compile(r'^#\| fig-alt: "(.*)"$', re.MULTILINE)

# A mark that Vega drew; a line through no point is a path without a course.
_MARK = re.compile(r'role-mark[^>]*><(?:path [^>]*\bd="M|(?!/|path))')

_drawn: dict[str, pl.DataFrame] = {}  # by the function that drew it


@dataclass(frozen=True)
class Figure:
    """A cell of a document that draws a chart."""

    label: str
    alternative_text: str
    code: str


def enable() -> None:
    """Shows every chart that a cell ends in, in both forms; what fails in that fails the cell.

    Examples:
        >>> import altair as alt
        >>> from analysis import charts
        >>> charts.enable()
        >>> alt.renderers.active
        'report'
    """
    alt.renderers.enable("report")
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter = _Strict(parent=shell.display_formatter)


class _Strict(MimeBundleFormatter):
    """Raises what fails while a chart is shown.

    Altair and IPython both print such an error and go on, so that a page would have the chart's
    Python text in its place.
    """

    def __call__(self, obj: Any, include: Any = None, exclude: Any = None) -> Any:
        renderer = alt.renderers.get()
        if renderer is None or not isinstance(obj, alt.TopLevelMixin):
            return super().__call__(obj, include=include, exclude=exclude)
        specification = obj.to_dict(context={"pre_transform": False})  # as Altair itself does
        return self._check_return(renderer(specification), obj)


def write_script(path: Path) -> bool:
    """Writes the script that draws the charts, Vega and all, unless it is there; True if written.

    The first line says what the file was made from.
    """
    source = _SOURCE.read_text(encoding="utf-8")
    made_from = sha256((source + version("vl-convert-python")).encode()).hexdigest()[:16]
    mark = f"// Vega, Vega-Lite, Vega-Embed and interactive.js {made_from}\n"
    if path.exists() and path.read_text(encoding="utf-8").startswith(mark):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mark + vl_convert.javascript_bundle(source), encoding="utf-8")
    return True


def table(frame: pl.DataFrame) -> Markdown:
    """A frame as a Markdown table, which every format renders natively.

    A column's dashes are as many as its longest cell's letters, and some for its margins: where a
    table is too wide for the PDF's lines, columns share the width by them. Longer cells wrap.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import table
        >>> print(table(pl.DataFrame({"task": ["ioi"], "prompts": [100]})).data)
        | task | prompts |
        | ------- | ---------- |
        | ioi | 100 |
    """
    texts = ([str(value) for value in row] for row in frame.iter_rows())
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (frame.columns, *texts)]
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    dashes = ["-" * (min(length, _WRAPPED) + 3) for length in longest]
    rows.insert(1, dashes)
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))


def percent(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its fractions written as percentages.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import percent
        >>> percent(pl.DataFrame({"task": ["ioi"], "r": [0.9134]})).row(0)
        ('ioi', '91.34%')
    """
    return written(frame, "{:.2%}")


def written(frame: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """The frame with its fractions written by a pattern such as `{:.2f}`.

    Examples:
        >>> import polars as pl
        >>> from analysis.charts import written
        >>> written(pl.DataFrame({"task": ["ioi"], "r": [0.9134]}), "{:.2f}").row(0)
        ('ioi', '0.91')
    """
    return frame.with_columns(
        pl.selectors.float().map_elements(pattern.format, return_dtype=pl.String)
    )


def offers_data(plot: Callable[..., Chart]) -> Callable[..., Chart]:
    """Lets a page's readers download the frame that a chart function draws, its first argument."""

    @wraps(plot)
    def plot_and_remember(*arguments: Any, **settings: Any) -> Chart:
        chart = plot(*arguments, **settings)
        _drawn[plot.__name__] = first_argument(plot, arguments, settings)
        chart.usermeta = {"plot": plot.__name__}
        return chart

    return plot_and_remember


def _both_forms(spec: dict[str, Any], **_: Any) -> dict[str, str]:
    """A specification as what Jupyter calls a MIME bundle.

    Raises:
        ValueError: where nothing would be drawn, or a number is infinite or undefined.
    """
    plot = spec.pop("usermeta", {}).get("plot")
    svg = vl_convert.vegalite_to_svg(spec)
    if not _MARK.search(svg):
        raise ValueError(
            "The chart has no marks: its data have no rows, or lack a column that it draws."
        )
    figure = figure_of(_cell())
    links = _links(figure, plot) if figure and plot else ""
    described = spec | {"description": figure.alternative_text if figure else ""}
    return {"text/html": _to_html(described, links), "image/svg+xml": svg}


def _to_html(spec: dict[str, Any], links: str) -> str:
    return (
        '<div class="chart"><div></div>'
        f'<script type="application/json">{_to_json(spec)}</script>'
        f"<noscript>{html.escape(spec['description'])} (Drawing it takes JavaScript.)</noscript>"
        f"{links}</div>"
    )


def _to_json(spec: dict[str, Any]) -> str:
    try:
        text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ValueError(
            "The chart has a number that is infinite or undefined (NaN), which no browser reads: "
            "leave it out or make it null."
        ) from error
    # What ends a script in HTML may not stand in its text.
    return text.replace("</", "<\\/")


def _links(figure: Figure, plot: str) -> str:
    """What leads from a figure to its data, which are written now, and to its code."""
    folder = REPORT / _DATA
    folder.mkdir(exist_ok=True)
    frame = _drawn[plot]
    frame.write_csv(folder / f"{figure.label}.csv")
    frame.write_parquet(folder / f"{figure.label}.parquet")
    data = ", ".join(
        f'<a href="{_DATA}/{figure.label}.{kind}" download>{name}</a>'
        for kind, name in (("csv", "CSV"), ("parquet", "parquet"))
    )
    return (
        f'<details class="chart-source"><summary>Code and data of this figure</summary>'
        f"<p>{len(frame):,} rows as {data}. Drawn by "
        f'<a href="reference/charts.html#{plot}"><code>{plot}</code></a>:</p>'
        f"<pre><code>{html.escape(figure.code)}</code></pre></details>"
    )


def figure_of(code: str, report: Path | None = None) -> Figure | None:
    """The figure that a cell of a document draws; None where no document has such a cell.

    Quarto takes a cell's options off before it runs the cell, so they are read where they stand.
    """
    return _figures(report or REPORT).get(_without_options(code))


@cache
def _figures(report: Path) -> dict[str, Figure]:
    cells = (
        cell
        for document in sorted(report.glob("*.qmd"))
        for cell in _CELL.findall(document.read_text(encoding="utf-8"))
    )
    found = (
        Figure(label, "".join(_ALTERNATIVE_TEXT.findall(cell)), _without_options(cell))
        for cell in cells
        for label in _LABEL.findall(cell)
    )
    return {figure.code: figure for figure in found}


def _without_options(cell: str) -> str:
    return "\n".join(line for line in cell.splitlines() if not line.startswith("#|")).strip()


def _cell() -> str:
    """The source of the cell that runs; nothing outside of Jupyter."""
    shell = get_ipython()
    return shell.get_parent()["content"]["code"] if hasattr(shell, "get_parent") else ""


alt.renderers.register("report", _both_forms)
