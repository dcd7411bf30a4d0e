"""A graph of changes, and where its slider ends."""

import polars as pl
import pytest
from charts.frames import effects, rows_of

from analysis import charts
from analysis.charts.linked import MOST_LINES


def slider(spec: dict) -> dict:
    return next(param for param in spec["params"] if param["name"] == "least")


def test_every_change_that_is_defined_is_a_line_between_two_heads():
    frame = effects(3, 2)
    spec = charts.graph(frame, 0.25).to_dict()
    lines = rows_of(spec)
    assert len(lines) == 8  # of layer 0; changes by layer 1 are undefined
    assert slider(spec)["value"] == 0.25 and slider(spec)["bind"]["min"] == 0
    first = max(frame.filter(layer=0).rows(named=True), key=lambda row: row["relative"])
    ends = "head {layer}.{component} changes head {later_layer}.{later_component} by {relative:.0%}"
    assert lines[0]["change"] == ends.format(**first)
    heads = spec["datasets"][spec["concat"][0]["layer"][1]["data"]["name"]]
    assert {row["name"] for row in heads} == {f"head {x}.{y}" for x in range(3) for y in range(2)}


def test_a_slider_ends_at_the_smallest_change_that_is_there_to_be_drawn():
    frame = effects(6, 10)
    spec = charts.graph(frame, threshold=0.0).to_dict()
    lines, least = rows_of(spec), slider(spec)
    assert len(lines) == MOST_LINES and least["value"] == least["bind"]["min"] > 0
    drawn = [row for row in lines if row["relative"] >= least["value"]]
    assert len(drawn) == frame.filter(pl.col("relative") >= least["value"]).height


def test_a_graph_refuses_a_frame_without_changes():
    with pytest.raises(ValueError, match="^graph: the frame lacks the column.s. relative.$"):
        charts.graph(effects(2, 2).drop("relative"), 0.1)
