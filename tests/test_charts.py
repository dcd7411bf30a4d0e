import polars as pl

from analysis import charts


def test_a_bar_in_a_cell_is_no_column():
    table = charts.table(pl.DataFrame({"mean |r|": ["<|endoftext|>"], "other": [1]})).data
    for line in table.splitlines():
        assert line.replace(r"\|", "").count("|") == 3


def test_fractions_are_written_by_a_pattern():
    frame = pl.DataFrame({"name": ["a"], "count": [3], "share": [0.12345]})
    assert charts.written(frame, "{:.1f}").row(0) == ("a", 3, "0.1")
    assert charts.percent(frame).row(0) == ("a", 3, "12.35%")
