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
from analysis.charts.mediators import MOST_CELLS, MOST_LINES
from analysis.charts.prompts import MOST_BINS, MOST_TICKS, count_in_bins, keep_ranks
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


def rows_of(chart) -> list[list[dict]]:
    """The chart's data, the shortest first."""
    return sorted(chart.to_dict()["datasets"].values(), key=len)


def test_what_is_undefined_is_no_number_in_a_chart():
    frame = pl.DataFrame({"rule": "left", "steps": [2, 4, 8], "gap": [0.2, float("nan"), None]})
    (rows,) = rows_of(charts.plot_steps(frame))
    assert [row["gap"] for row in rows] == [0.2, None, None]


def test_components_that_were_not_scored_are_not_drawn():
    frame = scores(700, "heads").with_columns(
        pl.when(pl.col("component") < 5).then(float("nan")).otherwise("ig").alias("ig")
    )
    identity, points = rows_of(charts.plot_correlation(frame, "heads"))
    assert MOST_POINTS < len(points) <= 2 * MOST_POINTS
    assert not {f"head 0.{component}" for component in range(5)} & {row["name"] for row in points}
    known = frame.filter(pl.col("component") >= 5).select("ap", "ig").to_numpy()
    assert [row["ap"] for row in identity] == [known.min(), known.max()]
    (cells,) = rows_of(charts.plot_attn_comparison(frame))
    assert len(cells) == 695


def test_a_method_that_scored_heads_alone_has_a_chart_of_heads_alone():
    spec = charts.plot_correlation_comparison(scores(8, "heads")).to_dict()
    assert [view["title"] for view in spec["hconcat"]] == ["attention heads"]
    with pytest.raises(ValueError, match="no rows to draw with kind 'heads'"):
        charts.plot_attn_comparison(scores(8, "neurons"))


METRICS = st.lists(st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9), min_size=1)


@given(clean=METRICS, corrupted=METRICS)
def test_every_prompt_is_counted_in_the_bin_of_its_metric(clean, corrupted):
    runs = {"clean": clean, "corrupted": corrupted}
    counts = count_in_bins(
        pl.concat(pl.DataFrame({"run": run, "metric": values}) for run, values in runs.items())
    )
    widths = (counts["metric_end"] - counts["metric"]).to_numpy()
    assert np.allclose(widths, widths[0]) and counts["metric"].n_unique() <= MOST_BINS + 1
    assert f"{widths[0]:e}"[0] in "125"
    slack = 1e-9 * (1 + max(map(abs, clean + corrupted)))
    for run, values in runs.items():
        found = counts.filter(run=run)
        assert found["prompts"].sum() == len(values)
        for start, end, prompts in found.select("metric", "metric_end", "prompts").iter_rows():
            assert sum(start + slack <= value < end - slack for value in values) <= prompts
            assert sum(start - slack <= value < end + slack for value in values) >= prompts


@given(prompts=st.integers(1, 200), most=st.integers(2, 50))
def test_of_many_prompts_evenly_spaced_ranks_are_kept_with_both_ends(prompts, most):
    r = np.random.default_rng(prompts).permutation(prompts)
    kept = keep_ranks(pl.DataFrame({"prompt": range(prompts), "r": r}), most)
    ranks = sorted(kept["r"])
    assert len(ranks) == min(most, prompts) and {0, prompts - 1} <= set(ranks)
    steps = np.diff(ranks)
    assert len(ranks) == 1 or steps.min() >= 1 and steps.max() - steps.min() <= 1
    assert all(r[prompt] == value for prompt, value in kept.rows())


def test_the_median_is_that_of_all_prompts_though_fewer_are_drawn():
    r = np.linspace(-0.5, 0.9, 1001) ** 3
    frame = pl.DataFrame({"task": "ioi", "kind": "heads", "prompt": range(1001), "r": r})
    median, ticks = rows_of(charts.plot_distribution(frame))
    assert len(ticks) == MOST_TICKS
    assert [row["r"] for row in median] == [np.median(r)]


def effects(layers: int, heads: int) -> pl.DataFrame:
    """Random changes of every head by every earlier one; where layer 1 is patched, none defined."""
    places = ("layer", "component", "later_layer", "later_component")
    indices = np.indices((layers, heads, layers, heads))
    frame = pl.DataFrame({name: index.ravel() for name, index in zip(places, indices, strict=True)})
    frame = frame.filter(pl.col("later_layer") > pl.col("layer"))
    relative, norm = np.random.default_rng(0).random((2, len(frame)))
    return frame.with_columns(
        norm=norm, projection=-norm, relative=pl.when(pl.col("layer") != 1).then(relative)
    )


def test_of_too_many_pairs_a_cell_is_the_largest_change_between_two_layers():
    frame = effects(6, 10)
    assert len(frame) > MOST_CELLS
    (cells,) = rows_of(charts.plot_effects(frame))
    assert len(cells) == 15
    for cell in cells:
        of = frame.filter(layer=cell["short"], later_layer=cell["later_short"])
        assert cell["relative"] == of["relative"].max()
        if cell["relative"] is None:
            continue
        largest = of.sort("relative", nulls_last=False).row(-1, named=True)
        assert (cell["norm"], cell["projection"]) == (largest["norm"], largest["projection"])
        assert cell["change"].startswith(f"head {cell['short']}.{largest['component']} changes ")


def test_a_slider_ends_at_the_smallest_change_that_is_there_to_be_drawn():
    frame = effects(6, 10)
    chart = charts.plot_graph(frame, threshold=0.0)
    spec = chart.to_dict()
    heads, lines = rows_of(chart)
    assert len(lines) == MOST_LINES and len(heads) == 60
    (least,) = (param for param in spec["params"] if param["name"] == "least")
    end = least["bind"]["min"]
    assert least["value"] == end > 0
    drawn = {row["change"] for row in lines if row["relative"] >= end}
    assert len(drawn) == frame.filter(pl.col("relative") >= end).height > MOST_LINES - 20


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
