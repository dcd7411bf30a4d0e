"""What pages cite is in the bibliography, what is there is cited, and links lead to words."""

import re
from collections import Counter
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[1] / "report"
TEXTS = {page.name: page.read_text() for page in sorted(REPORT.glob("*.qmd"))}
_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ +(\w+) = \{(.*)\},?$", re.MULTILINE)
ENTRIES = [
    (key, dict(_FIELD.findall(body)) | {"type": kind})
    for kind, key, body in _ENTRY.findall((REPORT / "references.bib").read_text())
]
WHERE = {"booktitle", "journal", "publisher", "institution", "howpublished", "note"}
# References to tables, figures, equations and sections look like citations.
_CITED = re.compile(r"(?<![\w.])@(?!tbl-|fig-|eq-|sec-)([A-Za-z][\w-]*)")
_CODE = re.compile(r"^```\{?\w.*?^```", re.MULTILINE | re.DOTALL)


def cited_in(text: str) -> set[str]:
    """The keys that a page's prose cites, that which its cells write included."""
    prose = _CODE.sub("", text)
    brackets = re.findall(r"\[([^\[\]]*@[^\[\]]*)\]", text)
    return set(_CITED.findall(prose)).union(*map(_CITED.findall, brackets))


def test_every_key_that_a_page_cites_is_in_the_bibliography():
    keys = {key for key, _ in ENTRIES}
    unknown = {name: cited_in(text) - keys for name, text in TEXTS.items()}
    assert {name: keys for name, keys in unknown.items() if keys} == {}


def test_every_entry_is_cited_on_some_page():
    assert {key for key, _ in ENTRIES} - set().union(*map(cited_in, TEXTS.values())) == set()


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


GLOSSARY = TEXTS["glossary.qmd"]
ANCHORS = re.findall(r"\{#(term-[\w-]+)\}", GLOSSARY)
TERMS = re.findall(r"^\[\]\{#term-[\w-]+\}(.+)\n:   ", GLOSSARY, re.MULTILINE)


@pytest.mark.parametrize("name", TEXTS)
def test_links_to_words_lead_to_the_glossary(name):
    links = re.findall(r"glossary\.qmd#([\w-]+)", TEXTS[name])
    assert [link for link in links if link not in ANCHORS] == []


def test_every_word_is_defined_once_and_in_alphabetical_order():
    assert len(ANCHORS) == len(set(ANCHORS)) == len(TERMS) == GLOSSARY.count("\n:   ")
    words = [re.sub(r"\W", "", term).lower() for term in TERMS]
    assert words == sorted(words)


def test_no_page_has_an_anchor_of_the_glossarys():
    for name, text in TEXTS.items():
        assert name == "glossary.qmd" or "{#term-" not in text
