"""One version, stated once: everything else that names it, or says how to cite it, agrees."""

import re
import tomllib
from pathlib import Path

import yaml

import analysis

ROOT = Path(__file__).parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
INDEX = yaml.safe_load((ROOT / "report" / "index.qmd").read_text().split("---\n")[1])
PAPER = yaml.safe_load((ROOT / "report" / "furniture" / "paper.yml").read_text())


def test_the_citation_is_of_the_packages_version():
    assert CITATION["version"] == analysis.__version__


def test_the_build_reads_the_packages_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "analysis/version.py"
    assert CITATION["license"] == project["project"]["license"]


def test_the_changelog_begins_with_this_version_and_its_date():
    heads = re.findall(r"^## \[(.*)\] - (.*)$", CHANGELOG, re.MULTILINE)
    assert heads[0] == (analysis.__version__, CITATION["date-released"].isoformat())
    versions = [tuple(map(int, version.split("."))) for version, _ in heads]
    assert versions == sorted(set(versions), reverse=True)


def test_the_changelogs_headings_are_those_of_its_form():
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= allowed


def test_the_first_page_and_the_paper_are_cited_as_the_citation_says():
    (author,) = CITATION["authors"]
    assert INDEX["author"]["name"]["literal"] == PAPER["author"] == author["name"]
    assert INDEX["date"] == PAPER["date"] == CITATION["date-released"]
    assert INDEX["citation"]["version"] == CITATION["version"]
    assert INDEX["title"] == CITATION["title"] == PAPER["subtitle"]


def test_the_readme_is_cited_as_the_citation_says():
    (entry,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (author,) = CITATION["authors"]
    assert f"title = {{{{{CITATION['title']}}}}}" in entry
    assert f"author = {{{{{author['name']}}}}}" in entry
    assert f"version = {{{CITATION['version']}}}" in entry
    assert f"date = {{{CITATION['date-released']}}}" in entry
