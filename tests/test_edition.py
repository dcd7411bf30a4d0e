"""One version, stated once: everything else that names it is held to it."""

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

import analysis
from analysis import paths
from analysis.edition import edition

ROOT = Path(__file__).parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)


@pytest.fixture
def cited(tmp_path, monkeypatch):
    """Reads an edition from a citation file of the test's own."""

    def read(text: str):
        (tmp_path / "CITATION.cff").write_text(text)
        monkeypatch.setattr(paths, "CITATION", tmp_path / "CITATION.cff")
        edition.cache_clear()
        return edition()

    yield read
    edition.cache_clear()


def test_the_citation_is_of_the_packages_version():
    assert edition().version == analysis.__version__


def test_the_build_reads_the_packages_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "analysis/version.py"
    assert edition().license == project["project"]["license"]


def test_the_changelog_begins_with_this_version_and_its_date():
    heads = re.findall(r"^## \[(.*)\] - (.*)$", CHANGELOG, re.MULTILINE)
    assert heads[0] == (analysis.__version__, edition().released.isoformat())
    versions = [tuple(map(int, version.split("."))) for version, _ in heads]
    assert versions == sorted(set(versions), reverse=True)


def test_the_changelogs_headings_are_those_of_its_form():
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= allowed


def test_bibtex_says_what_the_citation_says():
    entry = edition().bibtex()
    assert entry.startswith(f"@misc{{analysis-{edition().version},\n")
    assert entry.count("{") == entry.count("}")
    found = dict(FIELD.findall(entry))
    assert found == {
        "title": f"{{{edition().title}}}",
        "author": " and ".join(edition().authors),
        "year": str(edition().released.year),
        "month": str(edition().released.month),
        "note": f"Version {edition().version}",
    }


def test_people_and_groups_are_authors(cited):
    found = cited(
        "title: A title\nversion: 2.0.0\ndate-released: 2020-02-03\nlicense: MIT\nauthors:\n"
        "  - {family-names: Curie, given-names: Marie}\n  - {name: A Group}\n"
    )
    assert found.released == date(2020, 2, 3)
    assert dict(FIELD.findall(found.bibtex()))["author"] == "Curie, Marie and {A Group}"
    assert found.byline() == "Marie Curie, A Group · 3 February 2020 · version 2.0.0"


def test_the_papers_title_block_is_of_this_edition():
    header = (ROOT / "report" / "paper.qmd").read_text().split("---")[1]
    facts = yaml.safe_load(header)
    assert facts["date"] == edition().released
    assert facts["author"] in edition().byline()
