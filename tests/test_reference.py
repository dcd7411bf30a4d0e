"""The reference shows every public name, and every example prints what it says."""

import functools
import html
import re
from doctest import DocTestParser, DocTestRunner

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import analysis
from analysis import cli, paths
from analysis.reference import write_reference
from analysis.reference.markdown import prose, signature
from analysis.reference.pages import find_links
from analysis.reference.rooms import ROOMS, Entry, entries

ENTRIES = {f"{entry.module}.{entry.name}": entry for _, entry in entries()}
WITHOUT_EXAMPLE = {
    "analysis.charts.write_script": "bundling Vega takes seven seconds",
    "analysis.studies.comparison.agreement": "a thousand resamples of every statistic take seconds",
    "analysis.studies.everything.everything": "it computes all studies",
    "analysis.studies.performance.Performance": "it needs a measurement of a minute",
}


def is_slow(entry: Entry) -> bool:
    """A study takes longer than an example may; its module has its name, and its results' class."""
    study = entry.module.rpartition(".")[2]
    return entry.module.startswith("analysis.studies.") and (
        entry.name in (study, study.title().replace("_", ""))
    )


def has_example(entry: Entry) -> bool:
    return ">>>" in entry.docstring.value


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
    written = write_reference(tmp_path_factory.mktemp("reference"), cli.app)
    return {path.name: path.read_text() for path in written}


@pytest.mark.parametrize("name", [name for name in ENTRIES if has_example(ENTRIES[name])])
def test_an_example_prints_what_it_says(name, workplace):
    found = ENTRIES[name]
    docstring = found.docstring
    test = DocTestParser().get_doctest(
        docstring.value, {"__name__": "__main__"}, name, str(found.found.filepath), docstring.lineno
    )
    printed = []
    failed, _ = DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not failed, "".join(printed)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_public_name_is_described_and_has_an_example(name):
    entry = ENTRIES[name]
    assert entry.docstring.value, f"{name} has no docstring"
    for method in entry.methods():
        assert method.docstring, f"{method.path} has no docstring"
    excused = entry.found.is_attribute or is_slow(entry) or name in WITHOUT_EXAMPLE
    assert has_example(entry) != excused


def test_what_the_library_exports_is_described():
    described = {name.rpartition(".")[2] for name in ENTRIES}
    assert described >= set(analysis.__all__)


def test_every_room_is_a_page_and_the_index_names_everything(pages):
    assert set(pages) == {f"{name}.qmd" for name in ("index", "command-line")} | {
        f"{room.name}.qmd" for room in ROOMS
    }
    for entry in ENTRIES.values():
        assert f"[`{entry.name}`](" in pages["index.qmd"]


def test_links_lead_to_anchors_that_a_page_has_once(pages):
    anchors = {name: re.findall(r"^#+ .* \{#(\S+)\}$", text, re.M) for name, text in pages.items()}
    for name, found in anchors.items():
        assert len(found) == len(set(found)), name
    links = [
        link for text in pages.values() for link in re.findall(r"\]\((\S+\.qmd)#(\S+?)\)", text)
    ]
    assert len(links) > len(ENTRIES)
    for page, anchor in [*links, *(place.split("#") for place in find_links().values())]:
        assert anchor in anchors[page]


def test_an_entry_has_signature_prose_arguments_errors_example_and_source(pages):
    _, entry = pages["consequences.qmd"].split("### `multi_ablated_performance`")
    entry = entry.split("\n### ")[0]
    parts = (
        "{#multi_ablated_performance}",
        '    sets: Bool[np.ndarray, "set layer component"],\n',
        "The metric with all components of each set",
        "**Arguments**\n\n`sets`\n:   masks of components",
        "those of\n[`activation_patching`](attribution.qmd#activation_patching)",
        "**Raises**\n\n`ValueError`\n:   for an unknown direction",
        "**Example**\n\n```python\nfrom analysis import activation_patching",
        "```text\ntorch.Size([1, 4])\n```",
        'title="Source: `analysis/ablation.py`"',
        "    check_choices(direction, baseline, (kind,))\n",
    )
    places = [entry.index(part) for part in parts]
    assert places == sorted(places)
    assert '"""' not in entry and ">>>" not in entry


def test_a_class_is_described_with_its_fields_and_methods(pages):
    text = pages["attribution.qmd"]
    assert "@dataclass(frozen=True)\nclass Scores:\n    method: str\n" in text
    assert "#### `Scores.total` {#Scores.total}\n\n```python\n@property\ndef total(self)" in text


def test_a_constant_is_shown_as_it_is():
    assert signature(ENTRIES["analysis.mediation.REACHED"].found) == "REACHED = 0.05"


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


def test_pages_are_written_only_when_they_change(tmp_path):
    folder = tmp_path / "reference"
    command = ["reference", str(folder)]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert len(list(folder.glob("*.qmd"))) == len(ROOMS) + 2
    assert write_reference(folder, cli.app) == []
    (folder / "tasks.qmd").write_text("old")
    assert write_reference(folder, cli.app) == [folder / "tasks.qmd"]
    assert "load_task" in (folder / "tasks.qmd").read_text()


def test_the_command_lines_page_has_every_commands_help(pages):
    text = pages["command-line.qmd"]
    for command in cli.app.registered_commands:
        name = command.callback.__name__
        assert f"Usage: python -m analysis {name}" in text
        assert command.callback.__doc__.splitlines()[0].rstrip(".") in " ".join(text.split())
