"""The README's code runs, in the folder of its CSV file, and its commands are there."""

import re
from pathlib import Path

import pytest
import typer

from analysis import cli
from analysis.attribution.integrated_gradients import TOLERANCE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = README + (ROOT / "CONTRIBUTING.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_python_scores_a_task_and_then_its_csv_file(tmp_path, monkeypatch, capsys):
    """And says what its comments say: attributions add up, and the model knows the task."""
    monkeypatch.chdir(tmp_path)
    assert "`my.csv`:\n\n```csv" in README
    (rows,) = fenced("csv")
    Path("my.csv").write_text(rows)
    task, own = fenced("python")
    assert 'load_task("ioi", model' in task and 'load_task("my.csv", model)' in own
    found: dict = {}
    exec(compile(task, "README.md", "exec"), found)
    gap = float(re.findall(r"tensor\((\S+)\)", capsys.readouterr().out)[-1])
    assert gap < 1.1 * TOLERANCE * found["ig"].total.abs().max()
    exec(compile(own, "README.md", "exec"), found)
    assert len(found["pairs"]) == 3 and not found["pairs"].left_out
    assert (found["ap"].base > 0).all() and (found["ap"].source < 0).all()


def test_what_it_makes_is_a_target():
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    made = set(re.findall(r"(?:^ {4}|`)make ([\w./]+)", GUIDES, re.MULTILINE))
    assert made == {"paper", "test", "records", "lint", "clean", "forget", ".venv/installed"}
    assert made <= set(re.findall(r"^([\w./]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("line", sorted(set(re.findall(r"python -m analysis (\w[^`\n]*)", GUIDES))))
def test_its_commands_are_there(line):
    name, *flags = line.split()
    commands = typer.main.get_command(cli.app).commands
    options = [option for parameter in commands[name].params for option in parameter.opts]
    assert set(flags) <= set(options)


def test_its_profile_is_there():
    (profile,) = set(re.findall(r"quarto render --profile (\S+)", README))
    assert (ROOT / f"_quarto-{profile}.yml").is_file()


def test_its_tree_is_the_projects():
    tree = README.split("## How it is laid out")[1].split("\n\n")[1]
    for line in tree.splitlines():
        assert (ROOT / line.split()[0]).exists()
