"""The bibliography says who, what and when; `test_report` reads who cites it."""

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
