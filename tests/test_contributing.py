"""CONTRIBUTING.md's examples, written where it says and run as they stand."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from analysis import attribution, load_task, paths, preview, studies, tasks
from analysis.attribution import Scores

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# A file's name in the prose, then a fence with what is in it.
_FILE = re.compile(r"`([\w./-]+)`:\n\n(`{3,})\w+\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
FILES = {path: content for path, _, content in _FILE.findall(TEXT)}


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """The examples' files, in a folder that the library takes for a part of itself."""
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for package in (tasks, attribution, studies):
        below = tmp_path / Path(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(below)])
    return tmp_path


def test_the_examples_are_new_files():
    assert len(FILES) == 6
    assert not [path for path in FILES if (ROOT / path).exists()]


def test_the_new_task_gives_prompt_pairs(written, tiny, monkeypatch):
    monkeypatch.setattr(paths, "TASKS", written / "data" / "tasks")
    pairs = load_task("subject-verb", tiny, n=8)
    assert 'load_task("subject-verb", model, n=8)' in TEXT
    assert len(pairs) == 8 and not pairs.left_out
    assert "`_STUDIED`" in TEXT and list(tasks._STUDIED) == list(tasks.TASKS)
    assert all(" and " in clean for clean in pairs.clean)
    with pytest.raises(ValueError, match="only 30 exist"):
        load_task("subject-verb", tiny, n=31)


def test_the_new_method_obeys_its_law(written, tiny):
    (law,) = (path for path in FILES if path.startswith("tests/"))
    namespace: dict = {}
    exec(compile(FILES[law], law, "exec"), namespace)
    (test,) = (value for name, value in namespace.items() if name.startswith("test_"))
    test(tiny)
    scores = namespace["attribution_patching"](tiny, load_task("ioi", tiny, n=2))
    assert isinstance(scores, Scores) and scores.heads.abs().max() > 0


def test_the_new_page_shows_the_new_study(written, tiny, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", written / "results")
    monkeypatch.setattr(studies, "model_of_record", lambda: tiny)
    (cell,) = (
        cell.source
        for cell in preview.read(written / "report" / "totals.qmd").cells
        if cell.cell_type == "code"
    )
    *before, last = ast.parse(cell).body
    assert isinstance(last, ast.Expr)
    namespace: dict = {}
    exec(compile(ast.Module(before, []), "totals.qmd", "exec"), namespace)
    shown = eval(compile(ast.Expression(last.value), "totals.qmd", "eval"), namespace).data
    assert all(f"| {task} |" in shown for task in tasks.TASKS)


def test_a_page_is_named_where_the_recipe_says():
    """As an existing page is."""
    recipe = TEXT.split("## Add a study page")[1]
    for name in ("_quarto.yml", "report/paper.qmd", "report/index.qmd", "tests/test_report.py"):
        assert f"`{name}`" in recipe
        assert "performance" in (ROOT / name).read_text()
    assert (ROOT / "analysis" / "studies" / "everything.py").is_file()
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    assert "report/performance.qmd" in site["project"]["render"]
    assert "report/performance.qmd" in str(site["website"]["navbar"])


def test_the_one_test_is_there():
    (path, name) = re.findall(r"pytest (tests/\w+\.py)::(\w+)", TEXT)[0]
    functions = [
        node.name
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert name in functions


def test_links_lead_to_files_and_headings():
    for document in ("CONTRIBUTING.md", "README.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / document).read_text()):
            path, _, heading = target.partition("#")
            if target.startswith("http"):
                continue
            assert (ROOT / path).exists(), f"{document} leads to {path}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
                assert heading in [title.lower().replace(" ", "-") for title in titles]
