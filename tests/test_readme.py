"""The README's code runs, in the folder of its CSV file, and its commands are there."""

import re
from pathlib import Path

import pytest
import typer

from analysis import cli
from analysis.edition import edition

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = README + (ROOT / "CONTRIBUTING.md").read_text()


def fenced(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return block


def test_its_python_scores_its_csv_file(tmp_path, monkeypatch, capsys):
    """And says what its comments say: the model knows the task, and attributions add up."""
    monkeypatch.chdir(tmp_path)
    assert "`my.csv`:\n\n```csv" in README
    Path("my.csv").write_text(fenced("csv"))
    found: dict = {}
    exec(compile(fenced("python"), "README.md", "exec"), found)
    assert len(found["pairs"]) == 3 and not found["pairs"].left_out
    assert (found["ap"].base > 0).all() and (found["ap"].source < 0).all()
    assert float(re.findall(r"tensor\((\S+)\)", capsys.readouterr().out)[-1]) < 1e-3


def test_it_is_cited_as_the_edition_says():
    assert fenced("bibtex").strip() == edition().bibtex()


def test_what_it_makes_is_a_target():
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    made = set(re.findall(r"(?:^ {4}|`)make ([\w./]+)", GUIDES, re.MULTILINE))
    assert made == {"paper", "test", "lint", ".venv/installed"}
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
    flow = re.findall(r"\w+", re.findall(r"the library: (.*)", tree)[0])
    rooms = (ROOT / "CONTRIBUTING.md").read_text().split("## The rooms")[1]
    places = [rooms.index(f"\n{room} ") for room in flow]
    assert places == sorted(places)
