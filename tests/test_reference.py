"""The reference shows every public name, and every example prints what it says."""

import functools
import html
import re
from doctest import DocTestParser, DocTestRunner
from pathlib import Path

import altair as alt
import griffe
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import analysis
from analysis import paths
from report.furniture import reference
from report.furniture.reference import docstring, methods, prose, public, signature, write_reference

ROOT = Path(__file__).parents[1]
LIBRARY = griffe.load("analysis", search_paths=[ROOT], docstring_parser="google")
ROOMS = {name: LIBRARY[name] for name in reference.ROOMS if name in LIBRARY.members}
ENTRIES = {f"{room}.{name}": it for room in ROOMS for name, it in public(ROOMS[room])}
EXAMPLES = ENTRIES | ROOMS


def has_example(found: griffe.Object) -> bool:
    return ">>>" in docstring(found).value


@pytest.fixture(scope="module")
def load_model():
    """The testbed is loaded once for all examples."""
    return functools.cache(analysis.load_model)


@pytest.fixture
def workplace(tmp_path, monkeypatch, load_model):
    """What an example writes and switches stays here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANALYSIS_MODEL", raising=False)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(analysis, "load_model", load_model)
    with alt.renderers.enable(alt.renderers.active):
        yield


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reference")
    write_reference(folder)
    return {path.name: path.read_text() for path in folder.glob("*.qmd")}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if has_example(EXAMPLES[name])])
def test_an_example_prints_what_it_says(name, workplace):
    found = EXAMPLES[name]
    text = docstring(found)
    names = {"__name__": "__main__"}
    test = DocTestParser().get_doctest(text.value, names, name, str(found.filepath), text.lineno)
    printed = []
    failed, _ = DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not failed, "".join(printed)


@pytest.mark.parametrize("name", [name for name in ENTRIES if not ENTRIES[name].is_attribute])
def test_a_public_name_is_described(name):
    """With an example that runs, its own if it is one of the package's, or one of its room's."""
    found = ENTRIES[name]
    assert docstring(found).value, f"{name} has no docstring"
    for method in methods(found):
        assert method.docstring, f"{method.path} has no docstring"
    room, _, shown = name.partition(".")
    of_room = [it for of, it in EXAMPLES.items() if of.split(".")[0] == room]
    assert has_example(found) or (shown not in analysis.__all__ and any(map(has_example, of_room)))


def test_what_the_library_exports_is_described():
    assert {name.rpartition(".")[2] for name in ENTRIES} >= set(analysis.__all__)


def test_every_room_is_a_page_and_the_index_names_everything(pages):
    assert set(pages) == {"index.qmd"} | {f"{room}.qmd" for room in ROOMS}
    for name in ENTRIES:
        room, _, shown = name.partition(".")
        assert f"[`{shown}`]({room}.qmd#{shown})" in pages["index.qmd"]


def test_links_lead_to_anchors_that_a_page_has_once(pages):
    anchors = {name: re.findall(r"^#+ .* \{#(\S+)\}$", text, re.M) for name, text in pages.items()}
    for name, found in anchors.items():
        assert len(found) == len(set(found)), name
    texts = "".join(pages.values())
    links = re.findall(r"\]\((\S+\.qmd)#(\S+?)\)", texts)
    assert len(links) > len(ENTRIES)
    assert [link for link in links if link[1] not in anchors[link[0]]] == []


def test_an_entry_has_signature_prose_arguments_errors_and_example(pages):
    _, entry = pages["attribution.qmd"].split("## `activation_patching`")
    entry = entry.split("\n## ")[0]
    parts = (
        "{#activation_patching}\n\n```python\ndef activation_patching(\n",
        ") -> Scores:\n```\n\n",
        "**Parameters**\n\n`model`\n:   what [`load_model`](models.qmd#load_model) returns.",
        "**Raises**\n\n`ValueError`\n:   ",
        "**Examples**\n\n```python\n>>> from analysis import activation_patching",
    )
    places = [entry.index(part) for part in parts]
    assert places == sorted(places) and '"""' not in entry


def test_a_class_is_described_with_its_fields_and_methods(pages):
    text = pages["attribution.qmd"]
    assert "@dataclass(frozen=True)\nclass Scores:\n    method: str\n" in text
    assert "### `Scores.total` {#Scores.total}\n\n```python\n@property\ndef total(self)" in text


def test_a_constant_is_shown_as_it_is():
    assert signature(ENTRIES["tasks.TASKS"]).startswith("TASKS = {name: ")


@given(st.text(alphabet="aB1 *_|<>[](){}`$^~@#\\!&;:-'\"", min_size=1, max_size=30))
def test_formulas_keep_their_signs(text):
    """What Markdown shows is what was written, but for `code` and *emphasis*."""
    text = "x " + " ".join(text.split()) + " x"
    if re.search(r"`.*`|\*\w.*\w\*", text):
        return
    shown = MarkdownIt("commonmark").render(prose(text, {}))
    assert html.unescape(re.sub("<[^>]*>", "", shown)).strip() == text


def test_code_emphasis_and_formulas_stay():
    text = "A *site* of `a_b[0]`, |Δa|:\n\n    m = a * b * c"
    links = {"a_b[0]": "page.qmd#a"}
    assert (
        prose(text, links) == "A *site* of [`a_b[0]`](page.qmd#a), \\|Δa\\|:\n\n    m = a * b * c"
    )
