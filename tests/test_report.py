"""The report: its cells run on small results, and its readers find it whole.

The plain preview is made as `make paper` makes it, of the shipped testbed on few prompts; Quarto's
site, where Quarto is there, of the same documents and results. Both are read in Chromium by
`tests/crawl.py`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from crawl import Crawl, Fault, chromium, obstacles, served, settle
from playwright.sync_api import Page
from test_references import ENTRIES

from report.furniture import preview

ROOT = Path(__file__).parents[1]
SOURCES = {page.stem: page for page in sorted((ROOT / "report").glob("*.qmd"))}
PAGES = sorted(SOURCES.keys() - {"paper"})  # which is made of the others
_CITED = re.compile(r'id="ref-([\w-]+)"')
_ANCHOR = re.compile(r'<dt><span id="(term-[\w-]+)"></span>(.*?)</dt>', re.DOTALL)


@pytest.fixture
def site(paper) -> Path:
    return paper.site


def test_run_prints_the_agreement_and_computes_all_that_pages_show(paper):
    assert "capital-country  denoising  neurons  r of the means" in paper.printed
    kinds = {name.split("-")[0] for name in paper.computed}
    assert kinds >= {"agreement", "sets", "circuits", "baselines", "attention", "latent"}
    assert not paper.late


def test_every_documents_cells_run(site):
    assert {path.stem for path in (site / "report").glob("*.html")} == set(PAGES)
    assert "report/index.html" in (site / "index.html").read_text()


def prose(page: str) -> str:
    """A page without its code and the data of its charts."""
    return re.sub(r"(?s)<(pre|script|style)\b.*?</\1>", "", page)


@pytest.mark.parametrize("name", PAGES)
def test_pages_lead_to_pages_and_show_no_error(site, name):
    page = (site / "report" / f"{name}.html").read_text()
    assert ".qmd" not in prose(page) and "Traceback" not in page


@pytest.mark.parametrize("name", PAGES)
def test_code_is_there_and_folded(site, name):
    page = (site / "report" / f"{name}.html").read_text()
    assert page.count("cell-code") >= page.count('<details class="code">')
    assert ("```{python}" in SOURCES[name].read_text()) == ("cell-code" in page)


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_and_table_is_referred_to_on_its_page(site, name):
    page = (site / "report" / f"{name}.html").read_text()
    labels = re.findall(r'<figure id="([\w-]+)"', page)
    assert [label for label in labels if f'href="#{label}"' not in page] == []


CLAIM = re.compile(r'class="callout[^"]* claim')


def test_a_sentence_that_does_not_hold_has_a_callout_above_it(site):
    """As some do not of a random model: what was written for another one is not said of it."""
    pages = [prose((site / "report" / f"{name}.html").read_text()) for name in PAGES]
    assert any(map(CLAIM.search, pages))


@pytest.mark.parametrize("name", PAGES)
def test_every_guarded_sentence_holds_of_the_shipped_testbed(name):
    """On the pages that `make paper` made here, by Quarto or by the preview."""
    made = ROOT / "_site" / "report" / f"{name}.html"
    if not made.exists():
        pytest.skip("make paper has not made the site here: its pages are of another model")
    assert CLAIM.findall(prose(made.read_text())) == []


REPRS = re.compile(
    r"np\.\w+\(|Estimate\(|shape: \(|\\xa0|&lt;[\w.]+ (?:object )?at 0x"
    r"|\b(?:alt\.\w+|Markdown)\("
)


@pytest.mark.parametrize("name", PAGES)
def test_no_value_is_shown_as_python_writes_it(site, name):
    text = re.sub(r"<code>.*?</code>", "", prose((site / "report" / f"{name}.html").read_text()))
    assert REPRS.findall(text) == []


@pytest.fixture
def texts(site) -> dict[str, str]:
    return {page.stem: page.read_text() for page in (site / "report").glob("*.html")}


def test_every_key_that_a_page_cites_is_in_the_bibliography(texts):
    """citeproc writes a question mark behind others."""
    for name, page in texts.items():
        assert re.findall(r"<strong>([\w-]+)\?</strong>", page) == [], name


def test_every_entry_is_cited_on_some_page(texts):
    cited = {key for page in texts.values() for key in _CITED.findall(page)}
    assert {key for key, _ in ENTRIES} - cited == set()


def test_every_word_is_defined_once_and_in_alphabetical_order(texts):
    found = _ANCHOR.findall(texts["glossary"])
    assert len({anchor for anchor, _ in found}) == len(found) > 50
    assert len(found) == texts["glossary"].count("<dt>")
    words = [re.sub(r"<[^>]*>|\W", "", term).lower() for _, term in found]
    assert words == sorted(words)


def test_numbers_stand_in_sentences_as_inline_values():
    """And no cell writes a sentence."""
    texts = {name: SOURCES[name].read_text() for name in PAGES}
    assert sum(text.count("`{python} ") for text in texts.values()) >= 120
    assert [name for name, text in texts.items() if "Markdown(" in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_has_an_alternative_text(site, name):
    """A chart's own from its cell, or that of its figure."""
    page = (site / "report" / f"{name}.html").read_text()
    figures = re.findall(r'(?s)<figure id="fig-.*?</figure>', page)
    drawn = [figure for figure in figures if 'class="chart"' in figure]
    assert page.count('<div class="chart"') == len(drawn)
    alts = [re.search(r'data-fig-alt="(.{20,}?)"', figure) for figure in drawn]
    assert all(alts)


def test_charts_are_drawn_by_a_script_beside_the_pages(site):
    page = (site / "report" / "aligned-baselines.html").read_text()
    assert page.count('<script src="charts.js"></script>') == 1
    script = (site / "report" / "charts.js").read_text()
    assert 'querySelectorAll(".chart")' in script


NO_CHART = """# Page

```{python}
import altair as alt
import polars as pl
from analysis import charts
charts.enable()
alt.Chart(pl.DataFrame({"a": range(5001)})).mark_point().encode(x="a:Q")
```
"""


def test_a_chart_that_fails_fails_the_preview(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("QUARTO_PROJECT_OUTPUT_DIR", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_quarto.yml").write_text("project: {type: website}")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "broken.qmd").write_text(NO_CHART)
    with pytest.raises(SystemExit, match="MaxRowsError"):
        preview.render(tmp_path / "_site")


def test_a_chart_that_fails_fails_quartos_page(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    quarto = shutil.which("quarto")
    if quarto is None:
        pytest.skip("no Quarto on this machine to render the page with")
    (tmp_path / "broken.qmd").write_text(NO_CHART)
    command = [quarto, "render", "broken.qmd", "--to", "html", "--no-execute-daemon"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode != 0 and "MaxRowsError" in ran.stderr


SITES = {
    "testbed": "_site-testbed",
    "gpt2-small": "_site-gpt2-small",
    "pythia-70m.v1": "_site-pythia-70m.v1",
    "models/mine": "_site-models-mine-3384434197",
}
MODELS = [
    *SITES,
    *("models/mine/", "models-mine", "models/a/x", "models/b/x", "./models/mine", "owner/name"),
    *("..", "../mine", "../../out", "/", "/models/mine", "two words", "two  words", "it's", 'a"b'),
    *("a$b", "$(NAME)", "a;b", "a&b", "`a`", "#a", "a,b", "a(b", "a)b", "a\\b", "*", "%", "é"),
    *("far/" * 99 + end for end in "ab"),
]


@pytest.mark.parametrize("on_the_command_line", [True, False])
def test_every_model_has_a_site_of_its_own_inside_the_project(on_the_command_line):
    sites = {model: site_of(model, on_the_command_line) for model in MODELS}
    assert sites | SITES == sites
    assert site_of(None) == "_site" and len({"_site", *sites.values()}) == 1 + len(MODELS)
    assert all(re.fullmatch(r"_site-[\w.-]{1,100}", site, re.ASCII) for site in sites.values())


def site_of(model: str | None, on_the_command_line: bool = False) -> str:
    """The folder that `make paper` would write."""
    environment = {name: value for name, value in os.environ.items() if name != "ANALYSIS_MODEL"}
    said = [f"ANALYSIS_MODEL={model}"] if on_the_command_line else []
    if model is not None and not on_the_command_line:
        environment["ANALYSIS_MODEL"] = model
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "paper", *said]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    (quarto,) = re.findall("--output-dir (.*?);", printed.stdout)
    (plain,) = re.findall(r"preview\.py (.*?);", printed.stdout)
    assert quarto == plain
    return quarto


def test_the_paper_holds_every_page_of_the_site(paper):
    text = (paper.project / "report" / "paper.qmd").read_text()
    for name in PAGES:
        assert f"{{#{name}}}" in text, f"{name} is not in the navigation"


@pytest.fixture(scope="module", params=["preview", "quarto"])
def rendered(request, paper) -> Path:
    if request.param == "preview":
        return paper.site
    return request.getfixturevalue("quarto_site")


@pytest.fixture(scope="module")
def quarto_site(paper) -> Path:
    """What `quarto render` makes of the same documents and kept results."""
    quarto = shutil.which("quarto")
    if quarto is None:
        pytest.skip("no Quarto on this machine to render the site with")
    ran = subprocess.run(
        [quarto, "render", "--output-dir", "_quarto_site"],
        cwd=paper.project,
        env=os.environ | paper.environment,
        capture_output=True,
        text=True,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert not re.findall(r".*\bwarn.*", said, re.IGNORECASE)
    return paper.project / "_quarto_site"


@pytest.fixture(scope="module")
def browser(paper):
    """Started after the preview: the event loop of its own forbids the one of Jupyter's client."""
    with chromium() as browser:
        if browser is None:
            pytest.skip("no Chromium on this machine to read the site with")
        yield browser


@pytest.fixture
def page(rendered, browser) -> Page:
    """The page with most charts, as a reader has it from disk."""
    with browser.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto((rendered / "report" / "aligned-baselines.html").as_uri())
        settle(page)
        yield page


def expect_none(faults: list[Fault]) -> None:
    """Fails with a line a fault: page, rule, element."""
    if faults:
        lines = map(" | ".join, dict.fromkeys(faults))
        pytest.fail("\n".join(lines), pytrace=False)


def obstacles_of_each_make(page: Page) -> Iterable[tuple[str, str]]:
    """The reference's pages are many and of one make: two of them stand for all."""
    name = page.url.partition("/reference/")[2]
    return obstacles(page) if name in ("", "index.html", "metrics.html") else ()


def documents(project: Path) -> set[str]:
    """The pages that the documents make."""
    sources = [path for path in (project / "report").rglob("*.qmd") if path.stem != "paper"]
    return {str(path.relative_to(project).with_suffix(".html")) for path in sources}


def test_the_site_read_from_disk_is_accessible(rendered, paper, browser):
    """WCAG 2.1 AA by axe, alternative texts, contrast in charts, nothing wider than a phone."""
    crawl = Crawl(browser, rendered, rendered.as_uri() + "/")
    expect_none(crawl.read(obstacles_of_each_make))
    assert crawl.anchors.keys() - {"index.html"} == documents(paper.project)
    assert all(link.startswith(("https://", "data:", "blob:")) for link in crawl.outward())


def test_the_site_reads_the_same_from_a_server(rendered, paper, browser):
    with served(rendered) as address:
        crawl = Crawl(browser, rendered, address)
        expect_none(crawl.read())
    assert crawl.anchors.keys() - {"index.html"} == documents(paper.project)


def test_quarto_makes_the_pdf_too(quarto_site):
    assert (quarto_site / "report" / "paper.pdf").read_bytes().startswith(b"%PDF")


SCROLLS = """kind => [...document.querySelectorAll(`:is(.chart, .wide, .scroll):has(${kind})`)]
  .some((box) => box.scrollWidth > box.clientWidth)"""


def test_tab_reaches_what_scrolls_and_what_opens(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.querySelector('table').closest('[tabindex]')")
    scroll = {kind for kind in ("table", "svg") if page.evaluate(SCROLLS, kind)}
    assert "table" in scroll
    assert {*scroll, "summary"} <= {kind for _ in range(80) for kind in tab(page)}
    page.get_by_text("components drawn, in a table").first.press("Enter")
    page.wait_for_selector(".chart-frame[tabindex]")
    assert tab(page) == ["table"]
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.activeElement.scrollTop > 0")


def tab(page: Page) -> list[str]:
    """What the next press of Tab reaches: what opens, or a box of what scrolls in it."""
    page.keyboard.press("Tab")
    return page.evaluate(
        """["summary", "table", "svg"].filter((kind) =>
             document.activeElement.matches(`${kind}, [tabindex]:has(${kind})`))"""
    )
