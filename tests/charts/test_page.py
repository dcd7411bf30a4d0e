"""How a chart gets onto a page, and what becomes of one that fails."""

import json
import re

import altair as alt
import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from analysis import charts
from analysis.charts.page import both_forms

SCORES = pl.DataFrame({"task": "a </script> of it", "ap": [0.1, -0.2], "ig": [0.1, -0.3]})


@pytest.fixture
def run():
    """Runs a cell as a notebook does: what it shows or raises."""
    settings = Config()
    settings.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=settings)

    def run_cell(cell: str) -> list:
        with shell.display_trap, capture_output() as captured:
            shell.run_cell(cell).raise_error()
        return captured.outputs

    run_cell(IMPORTS)
    yield run_cell
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()


IMPORTS = """
import altair as alt
import polars as pl
from IPython.display import display
from analysis import charts
charts.enable()
frame = pl.DataFrame({"a": [1.0, 2.0], "undefined": [1.0, float("nan")]})
points = alt.Chart(frame).mark_point()
"""


def test_a_page_takes_either_form_of_a_chart():
    spec = charts.scatter(SCORES, column="task").to_dict()
    forms = both_forms(spec)
    assert forms["image/svg+xml"].startswith("<svg")
    (text,) = re.findall(r'json">(.*?)</script>', forms["text/html"])
    assert json.loads(text) == spec


def test_a_cell_shows_a_chart_in_both_forms(run):
    (output,) = run("charts.scatter(frame, 'a', 'a')")
    assert output.data.keys() >= {"text/html", "image/svg+xml"}


@pytest.mark.parametrize(
    "cell",
    [
        "charts.scatter(frame, 'a', 'lost')",
        "charts.scatter(frame.head(0), 'a', 'a')",
        "points.encode(x='undefined:Q')",
        "alt.Chart(pl.concat([frame] * 2501)).mark_point()",
        "points.encode(x='a:Q').transform_filter('a >')",
        "display(points.encode(x='undefined:Q')); 1",
    ],
)
def test_a_chart_that_cannot_be_shown_fails_its_cell(cell, run):
    with pytest.raises((ValueError, alt.MaxRowsError)):
        run(cell)


def test_what_is_no_chart_is_shown_as_ever(run):
    (output,) = run("1 + 1")
    assert output.data == {"text/plain": "2"}
    (table,) = run("charts.table(frame.select(pl.col('a').cast(pl.String)))")
    assert table.data["text/markdown"].startswith("| a |")


@pytest.mark.parametrize("name", charts.__all__)
def test_every_public_name_says_what_it_is(name):
    assert getattr(charts, name).__doc__
