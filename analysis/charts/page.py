"""How charts and frames get onto a page.

A cell's chart is shown in two forms: as vectors for the PDF, and for the web as a Vega-Lite
specification. A script beside the pages draws that; its menu saves the picture and the data.
"""

import json
import re
from typing import Any

import altair as alt
import polars as pl
from IPython import get_ipython
from IPython.core.formatters import MimeBundleFormatter
from IPython.display import Markdown

FOLDED = 25  # rows above which a table is folded
_WRAPPED = 45  # letters of a cell
_NUMBER = re.compile(r"([-−+±<>≤≥~≈]?\s?\d[\d.,]*(e[-+]?\d+)?(\W.*)?|[–-]?)$")  # and its unit
_FOLD = "```{{=html}}\n<details><summary>A table of {} rows</summary>\n```\n\n{}\n\n"
_END = "```{=html}\n</details>\n```"
_CHART = (
    '<div class="chart"><div></div><script type="application/json">{}</script>'
    "<noscript>Drawing this chart takes JavaScript.</noscript></div>"
)


def enable() -> None:
    """Shows every chart that a cell ends in, in both forms."""
    if shell := get_ipython():
        shell.display_formatter.mimebundle_formatter = _Charts(parent=shell.display_formatter)


class _Charts(MimeBundleFormatter):
    """Lets a chart that cannot be shown fail its cell, where Altair would only print the error."""

    def __call__(self, obj: Any, include: Any = None, exclude: Any = None) -> Any:
        if not isinstance(obj, alt.TopLevelMixin):
            return super().__call__(obj, include=include, exclude=exclude)
        return self._check_return(both_forms(obj.to_dict()), obj)


def both_forms(spec: dict[str, Any]) -> dict[str, str]:
    """A specification as what Jupyter calls a MIME bundle; JSON refuses numbers like infinity."""
    import vl_convert

    text = json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return {"image/svg+xml": vl_convert.vegalite_to_svg(spec), "text/html": _CHART.format(text)}


def table(frame: pl.DataFrame, floats: str | None = None) -> Markdown:
    """A frame as a Markdown table, which every format renders natively; the web folds a long one.

    Numbers stand right and text left. Where the PDF's lines are too short, columns share them by
    their longest cells. `floats` writes fractions, as in `{:.2f}`; without it they must be text.
    """
    if not isinstance(frame, pl.DataFrame):
        raise ValueError(f"table shows a Polars DataFrame, not a {type(frame).__name__}.")
    fractions = pl.selectors.float()
    if floats:
        frame = frame.with_columns(fractions.map_elements(floats.format, return_dtype=pl.String))
    if raw := frame.select(fractions).columns:
        raise ValueError(f"table: format the numbers of {', '.join(raw)} before, as text.")
    columns = [["" if cell is None else str(cell) for cell in series] for series in frame]
    rules = []
    for name, cells in zip(frame.columns, columns, strict=True):
        dashes = "-" * (min(max(map(len, [name, *cells])), _WRAPPED) + 3)
        rules.append(f"{dashes}:" if all(map(_NUMBER.match, cells)) else f":{dashes[1:]}")
    lines = [frame.columns, rules, *zip(*columns, strict=True)]
    rows = (" | ".join(cell.replace("|", r"\|") for cell in line) for line in lines)
    text = "\n".join(f"| {row} |" for row in rows)
    return Markdown(_FOLD.format(len(frame), text) + _END if len(frame) > FOLDED else text)
