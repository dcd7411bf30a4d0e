"""CONTRIBUTING.md's examples, written where it says and run as they stand."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from analysis import activation_patching, load_task, tasks
from report.furniture import preview

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# A file's name in the prose, then a fence with what is in it.
_FILE = re.compile(r"`([\w./-]+)`:\n\n(`{3,})\w+\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
FILES = {path: content for path, _, content in _FILE.findall(TEXT)}


def test_it_fits_a_screen():
    assert TEXT.count("\n") <= 60


def test_the_examples_are_new_files():
    assert list(FILES) == ["analysis/attribution/movement.py", "report/totals.qmd"]
    assert not [path for path in FILES if (ROOT / path).exists()]


def test_what_a_new_task_is_named_in_is_there():
    assert "`_STUDIED`" in TEXT and list(tasks._STUDIED) == list(tasks.TASKS)


def test_the_new_method_gives_scores(tiny):
    """By its formula: a component whose activations are the same in both runs hasn't moved."""
    names: dict = {}
    exec(compile(FILES["analysis/attribution/movement.py"], "movement.py", "exec"), names)
    scores = names["movement"](tiny, load_task("ioi", tiny, n=2))
    assert scores.heads.min() >= 0 and scores.neurons.min() >= 0
    assert scores.heads.max() > 0 and scores.method == "movement"
    same = activation_patching(tiny, load_task("ioi", tiny, n=2), kinds=("heads",)).heads
    assert (scores.heads[same != 0] > 0).all()


def test_the_new_page_is_one_of_the_site_and_a_part_of_the_pdf(tmp_path, monkeypatch):
    """With its line in the `navbar`, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("QUARTO_PROJECT_OUTPUT_DIR", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = tmp_path / "report" / "totals.qmd"
    page.parent.mkdir()
    page.write_text(FILES["report/totals.qmd"])
    (tmp_path / "_quarto.yml").write_text(
        "project: {type: website}\n"
        "website: {navbar: {left: [{href: report/totals.qmd, text: Totals}]}}\n"
    )
    preview.render(tmp_path / "_site")
    made = (tmp_path / "_site" / "report" / "totals.html").read_text()
    assert re.search(r"lowers the metric by -?\d+\.\d logits on average", made)
    assert ">Totals</a>" in made and 'class="callout' not in made
    command = [sys.executable, str(ROOT / "report/furniture/paper.py"), "report/paper.qmd"]
    subprocess.run(command, check=True)
    assert FILES["report/totals.qmd"] in (tmp_path / "report" / "paper.qmd").read_text()


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
