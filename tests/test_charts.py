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


CELL = """```{python}
#| label: fig-one
#| fig-alt: "A </script> of points."
charts.plot_reached(heads)
```
"""


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A project with one document, and the cell of its figure running."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "one.qmd").write_text(f"# One\n\n{CELL}\n```{{python}}\n1\n```\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "_cell", lambda: "charts.plot_reached(heads)")
    page._figures.cache_clear()
    yield tmp_path / "report"
    page._figures.cache_clear()


HEADS = pl.DataFrame({"layer": [0, 1], "component": [2, 0], "reached": [3, 0], "later": [4, 4]})


def test_a_page_takes_either_form_of_a_chart(report):
    chart = charts.plot_reached(HEADS)
    forms = page._both_forms(chart.to_dict())
    assert forms["image/svg+xml"].startswith("<svg")
    (text,) = re.findall(r'json">(.*?)</script>', forms["text/html"])
    spec = chart.to_dict()
    assert spec.pop("usermeta") == {"plot": "plot_reached"}
    assert json.loads(text) == spec | {"description": "A </script> of points."}


def test_a_figure_leads_to_its_data_and_its_code(report):
    text = page._both_forms(charts.plot_reached(HEADS).to_dict())["text/html"]
    csv, parquet, function = re.findall('href="(.*?)"', text)
    assert pl.read_csv(report / csv).equals(pl.read_parquet(report / parquet))
    assert pl.read_csv(report / csv).equals(HEADS)
    assert function == "reference/charts.html#plot_reached"
    assert "<pre><code>charts.plot_reached(heads)</code></pre>" in text


def test_a_chart_outside_of_the_report_is_drawn_alone(report, monkeypatch):
    monkeypatch.setattr(page, "_cell", lambda: "charts.plot_reached(mine)")
    text = page._both_forms(charts.plot_reached(HEADS).to_dict())["text/html"]
    assert "href" not in text and not (report / "data").exists()


def test_a_figure_is_found_by_its_code(report):
    figure = page.figure_of("charts.plot_reached(heads)\n")
    assert figure is not None
    assert (figure.label, figure.alternative_text) == ("fig-one", "A </script> of points.")
    assert page.figure_of("1") is None


def test_heads_chosen_in_one_chart_are_chosen_in_the_others():
    """Every linked view fades by every brush, and has the fields that brushes look at."""
    both = pl.concat([scores(8, "heads"), scores(50)])
    spec = charts.plot_scores(both, {"heads": "r = 1", "neurons": "r = 1"}).to_dict()
    (heads, neurons), heatmaps = spec["vconcat"][0]["hconcat"], spec["vconcat"][1]["hconcat"]
    linked = [heads["layer"][1], *heatmaps]
    brushes = {param["name"]: param["views"] for param in spec["params"]}
    assert set(brushes) == {"points", "ig", "ap"}
    assert [views for [views] in brushes.values()] == [view["name"] for view in linked]
    for view in linked:
        tested = json.dumps(view["encoding"]["opacity"]["condition"])
        assert all(f'"{name}"' in tested for name in brushes)
        rows = spec["datasets"][view["data"]["name"]]
        assert len(rows) == 8 and {"ap", "ig", "layer", "component"} <= set(rows[0])
    assert "condition" not in neurons["layer"][1]["encoding"]["opacity"]


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
