"""What pages cite is in the bibliography, what is there is cited, and links lead to words."""

import re
from collections import Counter
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[1] / "report"
_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ +(\w+) = \{(.*)\},?$", re.MULTILINE)
ENTRIES = [
    (key, dict(_FIELD.findall(body)) | {"type": kind})
    for kind, key, body in _ENTRY.findall((REPORT / "references.bib").read_text())
]
_CITED = re.compile(r'id="ref-([\w-]+)"')
_ANCHOR = re.compile(r'<dt><span id="(term-[\w-]+)"></span>(.*?)</dt>', re.DOTALL)


@pytest.fixture(scope="module")
def pages(paper) -> dict[str, str]:
    return {page.stem: page.read_text() for page in (paper.site / "report").glob("*.html")}


def test_every_key_that_a_page_cites_is_in_the_bibliography(pages):
    """citeproc writes a question mark behind others."""
    for name, page in pages.items():
        assert re.findall(r"<strong>([\w-]+)\?</strong>", page) == [], name


def test_every_entry_is_cited_on_some_page(pages):
    cited = {key for page in pages.values() for key in _CITED.findall(page)}
    assert {key for key, _ in ENTRIES} - cited == set()


def test_the_whole_bibliography_is_read_and_its_keys_are_unique():
    assert len(ENTRIES) == (REPORT / "references.bib").read_text().count("\n@") + 1
    assert [key for key, count in Counter(key for key, _ in ENTRIES).items() if count > 1] == []


@pytest.mark.parametrize(("key", "fields"), ENTRIES, ids=[key for key, _ in ENTRIES])
def test_entries_say_who_what_and_when(key, fields):
    assert fields["title"] and fields["author"]
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert fields.keys() & {
        "booktitle",
        "journal",
        "publisher",
        "url",
        "institution",
        "howpublished",
        "note",
    }
    if "note" in fields:
        found = re.fullmatch(r"arXiv:(\d\d)(0[1-9]|1[0-2])\.\d{5}", fields["note"])
        assert found and int(fields["year"]) >= 2000 + int(found[1])


def test_every_word_is_defined_once_and_in_alphabetical_order(pages):
    found = _ANCHOR.findall(pages["glossary"])
    assert len({anchor for anchor, _ in found}) == len(found) > 50
    assert len(found) == pages["glossary"].count("<dt>")
    words = [re.sub(r"<[^>]*>|\W", "", term).lower() for _, term in found]
    assert words == sorted(words)
