"""Frames as tables."""

from inspect import unwrap

import polars as pl
import pytest

from analysis import charts
from analysis.charts.page import FOLDED


def test_a_table_keeps_its_columns_whatever_is_in_its_cells():
    text = charts.table(pl.DataFrame({"|r|": ["a|b"]})).data
    assert text.splitlines() == [r"| \|r\| |", "| :----- |", r"| a\|b |"]


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (["0.98", "−1.2"], True),
        (["0.98 [0.95, 0.99]", "0.9 [0.8, 1.0]"], True),
        (["91.3 %", ""], True),
        (["< 0.001", "1e-5"], True),
        (["12 of 48", "3 of 4"], True),
        (["2nd", "3rd"], False),
        (["ioi", "12"], False),
        (["`x = 1`"], False),
    ],
)
def test_numbers_stand_right_and_text_left(cells, right):
    rule = charts.table(pl.DataFrame({"column": cells})).data.splitlines()[1]
    assert rule.endswith(": |") == right and rule.startswith("| :") != right


def test_a_long_table_is_folded():
    short, long = (charts.table(pl.DataFrame({"n": range(n)})).data for n in (FOLDED, FOLDED + 1))
    assert short.startswith("| n |") and "| n |" in long
    raw = "```{=html}\n"
    assert long.startswith(f"{raw}<details><summary>A table of 26 rows</summary>\n```\n\n| n |")
    assert long.endswith(f"| 25 |\n\n{raw}</details>\n```")


def test_what_nobody_has_formatted_is_refused():
    with pytest.raises(ValueError, match="^table: format the numbers of r before, as text.$"):
        charts.table(pl.DataFrame({"task": ["ioi"], "r": [0.98]}))
    with pytest.raises(ValueError, match="^table shows a Polars DataFrame, not a list.$"):
        unwrap(charts.table)([1])
