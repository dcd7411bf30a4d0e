"""What the forms draw where, and how much of it."""

import json
from inspect import unwrap

import altair as alt
import numpy as np
import polars as pl
import pytest
from charts.frames import rows_of, scores
from hypothesis import given
from hypothesis import strategies as st

from analysis import charts
from analysis.charts.forms import MOST_POINTS, keep_extremes

NAN = float("nan")
ESTIMATES = pl.DataFrame(
    {
        "task": ["ioi", "ioi", "greater-than", "greater-than"],
        "kind": ["heads", "neurons"] * 2,
        "estimate": [0.9, 0.8, 0.7, 0.6],
        "low": [0.8, 0.7, None, 0.5],
        "high": [0.95, 0.9, None, NAN],
    }
)
FORMS = {
    "scatter": lambda frame: charts.scatter(frame, "low", "high", column="task", color="kind"),
    "heatmap": lambda frame: charts.heatmap(frame, "kind", "task", "estimate", text=True),
    "lines": lambda frame: charts.lines(frame, "estimate", "low", "task", column="kind"),
    "intervals": lambda frame: charts.intervals(frame, "task", "kind"),
    "strip": lambda frame: charts.strip(frame, "estimate", "task", row="kind"),
}


def encodings(view: dict, channel: str) -> list[dict]:
    """A channel as a panel's layers have it, and the panel itself for all of them."""
    layers = [view, *view.get("layer", [])]
    return [layer["encoding"][channel] for layer in layers if channel in layer.get("encoding", {})]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_draws_valid_vega_lite_with_numbers_alone(name):
    spec = FORMS[name](ESTIMATES).to_dict(validate=True)
    json.dumps(spec, allow_nan=False)
    assert rows_of(spec)
    assert all(encodings(panel, "x") and encodings(panel, "y") for panel in spec["concat"])


@pytest.mark.parametrize("name", FORMS)
def test_a_form_refuses_what_it_cannot_draw_in_one_sentence(name):
    draw = FORMS[name]
    with pytest.raises(ValueError, match=f"^{name}: the frame lacks the column.s. .*task.*\\.$"):
        draw(ESTIMATES.drop("task"))
    undefined = ESTIMATES.with_columns(pl.selectors.float() * NAN)
    for empty in (ESTIMATES.head(0), undefined):
        with pytest.raises(ValueError, match=f"^{name}: the frame has no rows to draw.$"):
            draw(empty)


def test_what_is_no_polars_frame_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="^strip draws a Polars DataFrame, not a dict.$"):
        unwrap(charts.strip)({"task": ["ioi"], "r": [0.9]}, "r", "task")


@pytest.mark.parametrize("name", FORMS)
def test_more_rows_than_altair_takes_are_drawn(name):
    many = pl.concat([ESTIMATES.fill_nan(1).fill_null(0.5)] * 1500)
    assert rows_of(FORMS[name](many).to_dict())


def test_panels_stand_in_the_frames_order_rows_above_one_another():
    frame = ESTIMATES.with_columns(note=pl.format("of {}", "kind"))
    spec = charts.scatter(
        frame, "estimate", "estimate", column="task", row="kind", note="note"
    ).to_dict()
    titles = [(panel["title"]["text"], panel["title"]["subtitle"]) for panel in spec["concat"]]
    assert titles == [
        ("ioi, heads", "of heads"),
        ("greater-than, heads", "of heads"),
        ("ioi, neurons", "of neurons"),
        ("greater-than, neurons", "of neurons"),
    ]
    assert spec["columns"] == 2


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (3, 3), (4, 2), (6, 3)])
def test_panels_wrap_where_the_page_ends(panels, columns):
    frame = pl.DataFrame({"task": range(panels), "ap": 1.0, "ig": 2.0})
    assert charts.scatter(frame, column="task").to_dict()["columns"] == columns


def test_long_names_leave_room_for_fewer_panels():
    frame = pl.DataFrame({"set": ["the top by IG alone"] * 3, "kind": ["a", "b", "c"], "r": 1.0})
    chart = charts.strip(frame, "r", "set", column="kind")
    assert chart.to_dict()["columns"] == 2


def test_a_panel_draws_its_rows_alone():
    spec = charts.scatter(ESTIMATES, "estimate", "estimate", column="task", row="kind").to_dict()
    filters = [panel["layer"][1]["transform"] for panel in spec["concat"]]
    assert filters[1] == [
        {"filter": {"field": "kind", "equal": "heads"}},
        {"filter": {"field": "task", "equal": "greater-than"}},
    ]


@given(values=st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=1, max_size=20))
def test_a_scatter_is_square_and_its_identity_line_spans_all_points(values):
    frame = pl.DataFrame(values, schema=["ap", "ig"], orient="row")
    spec = charts.scatter(frame).to_dict()
    (panel,) = spec["concat"]
    assert panel["width"] == panel["height"]
    (x,), (y,) = encodings(panel, "x"), encodings(panel, "y")
    low, high = x["scale"]["domain"]
    assert x["scale"] == y["scale"]
    assert low < frame.to_numpy().min() and frame.to_numpy().max() < high
    line = spec["datasets"][panel["layer"][0]["data"]["name"]]
    assert [row["ap"] for row in line] == pytest.approx([low, high], rel=1e-5)
    assert all(row["ap"] == row["ig"] for row in line)


@given(components=st.integers(1, 3000), most=st.integers(1, 400))
def test_a_sample_keeps_the_components_that_are_extreme_by_either_method(components, most):
    frame = scores(components)
    kept = keep_extremes(frame, "ap", "ig", most)
    assert len(kept) == len(kept.unique()) and len(kept) <= min(components, 2 * most)
    size = np.abs(frame.select("ap", "ig").to_numpy()).max(axis=1)
    assert set(frame[np.argsort(-size)[:most]].rows()) <= set(kept.rows())


def test_a_scatter_of_gpt2_smalls_neurons_stays_small_and_names_its_points():
    spec = charts.scatter(scores(12 * 3072)).to_dict()
    rows = rows_of(spec)
    assert len(rows) == 2 * MOST_POINTS and set(rows[0]) == {"name", "ap", "ig"}
    assert {"neuron 0", "neuron 11"} < {row["name"].partition(".")[0] for row in rows}
    assert len(json.dumps(spec)) < 100_000


def test_a_scatter_samples_each_panel():
    tasks = pl.concat(scores(2000).with_columns(task=pl.lit(task)) for task in "ab")
    rows = rows_of(charts.scatter(tasks, column="task").to_dict())
    assert [sum(row["task"] == task for row in rows) for task in "ab"] == [MOST_POINTS + 284] * 2


def test_what_is_undefined_is_not_drawn():
    frame = scores(20, "heads").with_columns(
        ig=pl.when(pl.col("component") >= 5).then("ig").otherwise(NAN)
    )
    for draw in (charts.scatter, lambda f: charts.heatmap(f, "component", "layer", "ig")):
        names = {row["name"] for row in rows_of(draw(frame).to_dict())}
        assert names == {f"head 0.{component}" for component in range(5, 20)}


def test_layers_have_colours_from_early_to_late():
    spec = charts.scatter(scores(20, "heads"), color="layer").to_dict()
    colour = spec["concat"][0]["layer"][1]["encoding"]["color"]
    assert colour["type"] == "quantitative" and len(colour["scale"]["range"]) == 3


def test_titles_are_given_or_else_the_columns():
    frame = ESTIMATES.rename({"estimate": "mean_r"})
    spec = charts.strip(frame, "mean_r", "task").to_dict()
    assert {x.get("title") for x in encodings(spec["concat"][0], "x")} >= {"mean r"}
    spec = charts.strip(frame, "mean_r", "task", titles={"mean_r": "r"}).to_dict()
    assert {x.get("title") for x in encodings(spec["concat"][0], "x")} >= {"r"}


def colours(spec: dict) -> dict:
    return encodings(spec["concat"][0], "color")[0]["scale"]


def test_a_heatmaps_colours_are_the_same_below_and_above_zero_in_all_panels():
    frame = pl.DataFrame({"x": [0, 1], "y": 0, "task": ["a", "b"], "ap": [-3.0, 1.0]})
    spec = charts.heatmap(frame, "x", "y", "ap", column="task").to_dict()
    scales = [encodings(panel, "color")[0]["scale"] for panel in spec["concat"]]
    assert scales == [{"scheme": "redblue", "domain": [-3, 3], "domainMid": 0}] * 2
    positive = charts.heatmap(frame.with_columns(pl.col("ap").abs()), "x", "y", "ap").to_dict()
    assert colours(positive)["domain"] == [0, 3]


def test_layers_count_from_below_and_names_stand_in_the_frames_order():
    frame = pl.DataFrame({"layer": [0, 1], "ig": ["zero", "mean"], "r": [0.1, 0.2]})
    panel = charts.heatmap(frame, "ig", "layer", "r").to_dict()["concat"][0]
    assert encodings(panel, "x")[0]["sort"] == ["zero", "mean"]
    assert encodings(panel, "y")[0]["sort"] == "descending"


def test_lines_leave_out_what_has_no_logarithm():
    frame = pl.DataFrame({"rule": "left", "steps": [0, 2, 4], "gap": [1.0, 0.0, 0.5]})
    assert len(rows_of(charts.lines(frame, "steps", "gap", "rule").to_dict())) == 3
    rows = rows_of(charts.lines(frame, "steps", "gap", "rule", log_x=True).to_dict())
    assert [row["steps"] for row in rows] == [2, 4]
    rows = rows_of(charts.lines(frame, "steps", "gap", "rule", log_x=True, log_y=True).to_dict())
    assert [row["steps"] for row in rows] == [4]


def test_lines_have_a_band_and_a_dashed_reference():
    frame = ESTIMATES.with_columns(k=pl.int_range(4), chance=0.1)
    plain = charts.lines(frame, "k", "estimate", "task")
    full = charts.lines(frame, "k", "estimate", "task", low="low", high="high", reference="chance")
    assert marks(plain) == ["line"] and marks(full) == ["area", "line", "line"]
    band, dashed, _ = full.to_dict()["concat"][0]["layer"]
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("low", "high")
    assert dashed["mark"]["strokeDash"] and dashed["encoding"]["y"]["field"] == "chance"
    assert "color" not in dashed["encoding"] and dashed["encoding"]["detail"]


def marks(chart: alt.ConcatChart) -> list[str]:
    return [layer["mark"]["type"] for layer in chart.to_dict()["concat"][0]["layer"]]


@pytest.mark.parametrize(
    ("low", "high", "drawn"), [(-0.1, 0.2, True), (0.1, 0.9, True), (0.8, 0.9, False)]
)
def test_intervals_have_a_line_at_zero_where_it_is_near(low, high, drawn):
    frame = pl.DataFrame({"task": "ioi", "estimate": [high], "low": [low], "high": [high]})
    found = charts.intervals(frame, "task")
    assert marks(found) == (["rule"] if drawn else []) + ["rule", "point"]


def test_an_estimate_without_an_interval_is_a_dot():
    rows = rows_of(charts.intervals(ESTIMATES, "task", "kind").to_dict())
    assert len(rows) == 4 and rows[2]["low"] is None and rows[3]["high"] is None


def test_every_prompt_is_drawn_with_the_median_of_all():
    r = np.linspace(-0.5, 0.9, 1001) ** 3
    frame = pl.DataFrame({"task": "ioi", "kind": "heads", "prompt": range(1001), "r": r})
    rows = rows_of(charts.strip(frame, "r", "task", column="kind").to_dict())
    assert sorted(row["r"] for row in rows) == pytest.approx(r, rel=1e-5)
    (median,) = {row["median"] for row in rows}
    assert median == pytest.approx(np.median(r), rel=1e-5)
