"""Every figure of every page at the size of larger models, and what becomes of one that fails.

Studies of a tiny model give frames their columns and types. Enlarged and filled with random numbers
they stand in for the studies of a page, whose cells then run as in a notebook.
"""

import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from analysis import paths
from analysis.charts import page
from analysis.studies.answer import Answer
from analysis.tasks import TASKS

REPORT = Path(__file__).parents[1] / "report"
CELL = re.compile(r"^```{python}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^#\| label: (fig-\S+)$", re.MULTILINE)
MOST_LETTERS = 1_000_000


class Shape(NamedTuple):
    """A model's, and how many prompts a task has."""

    layers: int
    heads: int
    neurons: int
    prompts: int


SHAPES = {
    "GPT-2 small": Shape(12, 12, 3072, prompts=5001),
    "SmolLM2": Shape(30, 9, 1536, prompts=100),
}


def figures() -> dict[str, tuple[str, str]]:
    """The first cell of a figure's page and the figure's cell, by the figure's label."""
    found = {}
    for document in sorted(REPORT.glob("*.qmd")):
        cells = CELL.findall(document.read_text(encoding="utf-8"))
        found |= {label: (cells[0], cell) for cell in cells for label in LABEL.findall(cell)}
    return found


FIGURES = figures()


def small_studies(model: Any, directory: Path) -> dict[str, Any]:
    """The studies that pages show, of a tiny model, by name."""
    settings: dict[str, dict[str, Any]] = {
        "aligned_baselines": {"model": model, "n": 8},
        "baselines": {"model": model, "n": 24},
        "steps": {"model": model, "n": 2},
        "consequences": {"model": model, "n": 16},
        "circuits": {"model": model, "n": 8},
        "head_to_head": {"model": model, "n": 2},
        "latent_question": {"names": [str(directory)], "n": 3},
        "across_models": {"names": [str(directory)], "n": 3},
    }
    return {
        name: study_of(name)(**chosen, tasks=("gender-bias",), progress=False)
        for name, chosen in settings.items()
    } | {"facts": study_of("facts")(model), "name_readers": study_of("name_readers")(model, n=4)}


def study_of(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"analysis.studies.{name}"), name)


def enlarged(study: Any, shape: Shape) -> Any:
    """The study with frames of a shape."""
    random = np.random.default_rng(0)
    values = {field.name: getattr(study, field.name) for field in fields(study)}
    frames = {
        name: enlarge(value, shape, random)
        for name, value in values.items()
        if isinstance(value, pl.DataFrame)
    }
    prompts = {"prompts": dict.fromkeys(TASKS, shape.prompts)}
    return replace(study, **frames, **(prompts if isinstance(values.get("prompts"), dict) else {}))


def enlarge(frame: pl.DataFrame, shape: Shape, random: np.random.Generator) -> pl.DataFrame:
    """The frame with a row for every task, prompt and component that there are, and random numbers
    for what is measured.
    """
    measured = set(frame.select(pl.selectors.float()).columns) - {"share"}
    components = components_of(frame, shape)
    replaced = {"task", "prompt", *measured, *components.columns} - {"kind"}
    rows = frame.select(pl.lit(0).alias(""), pl.exclude(replaced)).unique()
    if "task" in frame.columns:
        rows = rows.join(pl.DataFrame({"task": list(TASKS)}), how="cross")
    if "prompt" in frame.columns:
        rows = rows.join(grid(prompt=shape.prompts), how="cross")
    if "kind" in components.columns:
        rows = rows.join(components, on="kind")
    elif components.columns:
        rows = rows.join(components, how="cross")
    numbers = {name: pl.Series(random.uniform(0.01, 1, len(rows))) for name in sorted(measured)}
    return rows.with_columns(**numbers).select(frame.columns).cast(dict(frame.schema)).rechunk()


def components_of(frame: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    """The shape's layers, components or pairs of heads, whichever the frame has; or no columns."""
    heads = grid(layer=shape.layers, component=shape.heads)
    if "layer" not in frame.columns:
        return pl.DataFrame()
    if "later_layer" in frame.columns:
        later = heads.rename({name: f"later_{name}" for name in heads.columns})
        return heads.join(later, how="cross").filter(pl.col("later_layer") > pl.col("layer"))
    if "component" not in frame.columns:
        return grid(layer=shape.layers)
    if "kind" not in frame.columns:
        return heads
    kinds = {"heads": heads, "neurons": grid(layer=shape.layers, component=shape.neurons)}
    return pl.concat(rows.with_columns(kind=pl.lit(kind)) for kind, rows in kinds.items())


def grid(**sizes: int) -> pl.DataFrame:
    """A row for each combination of indices."""
    indices = np.indices(tuple(sizes.values()))
    return pl.DataFrame({name: index.ravel() for name, index in zip(sizes, indices, strict=True)})


@pytest.fixture(scope="module")
def studies(tiny, tiny_directory, tmp_path_factory) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield small_studies(tiny, tiny_directory)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def large_studies(request, studies) -> Iterator[None]:
    """Pages find made-up studies of a shape where they look for real ones, and no model."""
    made = {name: enlarged(study, request.param) for name, study in studies.items()}
    parts = (made[name] for name in ("aligned_baselines", "baselines", "facts", "consequences"))
    made["answer"] = Answer(*parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.studies.model_of_record", lambda: None)
        for name, study in made.items():
            patch.setattr(f"analysis.studies.{name}.{name}", lambda *_, study=study, **__: study)
        yield


@pytest.fixture
def run(tmp_path, monkeypatch) -> Iterator[Callable[[str], Any]]:
    """Runs a cell as a notebook does, beside a copy of the documents: what it shows or raises."""
    shutil.copytree(REPORT, tmp_path / "report", ignore=shutil.ignore_patterns("data", "images"))
    monkeypatch.chdir(tmp_path)
    page._figures.cache_clear()
    settings = Config()
    settings.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=settings)

    def run_cell(cell: str) -> Any:
        code = page._without_options(cell)
        monkeypatch.setattr(page, "_cell", lambda: code)
        with shell.display_trap, capture_output() as captured:
            shell.run_cell(code).raise_error()
        return captured.outputs

    with alt.renderers.enable(alt.renderers.active):
        yield run_cell
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()
    page._figures.cache_clear()


def test_every_figure_of_the_report_is_among_those_that_are_drawn():
    text = "".join(document.read_text() for document in REPORT.glob("*.qmd"))
    assert text.count("#| label: fig-") == len(FIGURES) > 20


@pytest.mark.parametrize("label", FIGURES)
def test_a_figure_of_a_larger_model_is_drawn_whole_and_stays_small(label, large_studies, run):
    first, cell = FIGURES[label]
    run(first)
    (output,) = run(cell)
    text, svg = output.data["text/html"], output.data["image/svg+xml"]
    assert len(text) < MOST_LETTERS
    (written,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    specification = json.loads(written, parse_constant=pytest.fail)
    assert specification["datasets"] and all(specification["datasets"].values())
    marks = re.findall(r'<g class="mark-\w+ role-mark[^>]*>(</g>)?', svg)
    assert marks and not any(marks)
    assert f'href="data/{label}.csv"' in text


IMPORTS = """
import altair as alt
import polars as pl
from IPython.display import display
from analysis import charts
charts.enable()
frame = pl.DataFrame({"a": [1.0, 2.0], "undefined": [1.0, float("nan")]})
points = alt.Chart(frame).mark_point()
"""
FAILING = {
    "a column that the frame lacks": "points.encode(x='lost')",
    "such a column with its type": "points.encode(x='lost:Q')",
    "a line by such a column": "alt.Chart(frame).mark_line().encode(x='lost:Q', y='a:Q')",
    "an undefined number": "points.encode(x='undefined:Q')",
    "more rows than Altair takes": "alt.Chart(pl.concat([frame] * 2501)).mark_point()",
    "no rows": "alt.Chart(frame.head(0)).mark_point().encode(x='a:Q')",
    "an expression that Vega cannot read": "points.encode(x='a:Q').transform_filter('a >')",
    "a chart that is displayed": "display(points.encode(x='lost:Q')); 1",
}


@pytest.mark.parametrize("cell", FAILING.values(), ids=FAILING)
def test_a_chart_that_fails_while_it_is_shown_fails_its_cell(cell, run):
    run(IMPORTS)
    with pytest.raises((ValueError, alt.MaxRowsError)):
        run(cell)


def test_a_figure_whose_data_cannot_be_written_fails_its_cell(run):
    run(IMPORTS)
    Path("report/data").touch()
    Path("report/one.qmd").write_text("```{python}\n#| label: fig-one\ncharts.plot_steps(f)\n```\n")
    run("f = pl.DataFrame({'rule': 'left', 'steps': [2, 4], 'gap': [0.2, 0.1]})")
    with pytest.raises(FileExistsError):
        run("charts.plot_steps(f)")


def test_a_chart_of_another_library_is_a_figure_without_data(run):
    run(IMPORTS)
    cell = "alt.Chart(frame.select('a')).mark_point().encode(x='a:Q')"
    Path("report/one.qmd").write_text(f"```{{python}}\n#| label: fig-one\n{cell}\n```\n")
    (output,) = run(cell)
    assert output.data.keys() >= {"text/html", "image/svg+xml"}
    assert "href" not in output.data["text/html"]


def test_what_is_no_chart_is_shown_as_ever(run):
    run(IMPORTS)
    (output,) = run("1 + 1")
    assert output.data == {"text/plain": "2"}
    (table,) = run("charts.table(frame)")
    assert "| a | undefined |" in table.data["text/markdown"]
