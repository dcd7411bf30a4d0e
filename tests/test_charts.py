"""What a chart holds, and how it gets onto a page."""

import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import charts
from analysis.charts import page
from analysis.charts.scores import MOST_POINTS, keep_extremes, named


def scores(components: int, kind: str = "neurons") -> pl.DataFrame:
    random = np.random.default_rng(components)
    ap, ig = random.standard_normal((2, components)).astype(np.float32)
    places = np.arange(components)
    return pl.DataFrame(
        {"kind": kind, "layer": places // 3072, "component": places % 3072, "ap": ap, "ig": ig}
    )


def test_a_component_is_named_by_layer_and_place():
    assert named(scores(2, "heads"))["name"].to_list() == ["head 0.0", "head 0.1"]
    assert named(scores(3075))["name"][-1] == "neuron 1.2"


@given(components=st.integers(1, 3000), most=st.integers(1, 400))
def test_a_sample_keeps_the_components_that_are_extreme_by_either_method(components, most):
    frame = scores(components)
    kept = keep_extremes(frame, most)
    assert len(kept) == len(kept.unique()) and len(kept) <= min(components, 2 * most)
    size = np.abs(frame.select("ap", "ig").to_numpy()).max(axis=1)
    extreme = frame[np.argsort(-size)[:most]]
    assert set(extreme.rows()) <= set(kept.rows())


def test_a_scatter_of_gpt2_smalls_neurons_stays_small_and_names_its_points():
    spec = charts.plot_correlation(scores(12 * 3072), "neurons").to_dict()
    rows = [row for rows in spec["datasets"].values() for row in rows if "name" in row]
    assert len(rows) == 2 * MOST_POINTS and set(rows[0]) == {"name", "ap", "ig"}
    assert len(json.dumps(spec)) < 100_000


def test_a_table_keeps_its_columns_whatever_is_in_its_cells():
    text = charts.table(pl.DataFrame({"|r|": ["a|b"]})).data
    assert text.splitlines() == [r"| \|r\| |", "| -------- |", r"| a\|b |"]


def test_numbers_are_written_by_a_pattern():
    frame = pl.DataFrame({"task": ["ioi"], "share": [0.25]})
    assert charts.written(frame, "{:.1f}")["share"].to_list() == ["0.2"]
    assert charts.percent(frame)["share"].to_list() == ["25.00%"]


def test_a_page_takes_either_form_of_a_chart(monkeypatch):
    monkeypatch.setattr(page, "_cell", lambda: "cell")
    monkeypatch.setattr(page, "alternative_text", lambda cell: "A </script> of points")
    spec = charts.plot_correlation(scores(10), "neurons").to_dict()
    forms = page._both_forms(spec)
    assert forms["image/svg+xml"].startswith("<svg")
    (text,) = re.findall(r'json">(.*?)</script>', forms["text/html"])
    assert json.loads(text) == spec | {"description": "A </script> of points"}


def test_alternative_texts_are_found_by_their_code(tmp_path):
    cell = '```{python}\n#| label: fig-one\n#| fig-alt: "Points."\ndraw(1)\n```\n'
    (tmp_path / "one.qmd").write_text(f"# One\n\n{cell}\n```{{python}}\ndraw(2)\n```\n")
    assert page.alternative_text("draw(1)\n", tmp_path) == "Points."
    assert page.alternative_text("draw(2)", tmp_path) == ""


def test_the_script_is_written_again_only_when_it_would_differ(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(page.vl_convert, "javascript_bundle", lambda s: made.append(s) or "drawn")
    path = tmp_path / "pages" / "charts.js"
    assert charts.write_script(path) and not charts.write_script(path)
    assert path.read_text().endswith("drawn") and len(made) == 1
    path.write_text("// of an older version\n")
    assert charts.write_script(path) and path.read_text().endswith("drawn")


@pytest.mark.parametrize("name", charts.__all__)
def test_every_public_name_says_what_it_is(name):
    assert getattr(charts, name).__doc__
