"""The report: its cells run on small results, and its readers find it whole.

The plain preview is made by the tools of `make paper`, of a tiny model; Quarto's site, where Quarto
is there, from the same documents and results. Both are read in Chromium by `tests/crawl.py`.
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
from nbclient.exceptions import CellExecutionError
from playwright.sync_api import Locator, Page

from analysis import preview

ROOT = Path(__file__).parents[1]
PAGES = (
    "index",
    "aligned-baselines",
    "alignment",
    "consequences",
    "mediators",
    "original",
    "performance",
    "methods",
    "reproduce",
    "glossary",
)


@pytest.fixture
def site(paper) -> Path:
    return paper.site


def test_run_prints_the_agreement_and_computes_all_that_pages_show(paper):
    assert "capital-country  denoising  neurons  r of the means" in paper.printed
    kinds = {name.split("-")[0] for name in paper.computed}
    assert kinds >= {"agreement", "sets", "kept", "baselines", "attention", "headline", "latent"}
    assert not paper.late


def test_every_documents_cells_run(site):
    assert {path.stem for path in (site / "report").glob("*.html")} == set(PAGES)
    assert "report/index.html" in (site / "index.html").read_text()


def test_the_study_shows_its_charts_tables_and_sentences(site):
    page = (site / "report" / "aligned-baselines.html").read_text()
    assert page.count('<div class="chart">') == 8
    assert '"name":"head 2.3"' in page
    assert page.count('"description":"') == 8 and '"description":""' not in page
    assert '"description":"Bars of Pearson' in page
    assert "On 20 prompts" in page
    assert "of the model" in page and "tiny" in page


@pytest.mark.parametrize("name", PAGES)
def test_pages_lead_to_pages_and_hide_their_code(site, name):
    page = (site / "report" / f"{name}.html").read_text()
    assert ".qmd" not in page
    assert "from IPython.display import" not in page
    assert "Traceback" not in page


def test_charts_are_drawn_by_a_script_beside_the_pages(site):
    page = (site / "report" / "aligned-baselines.html").read_text()
    assert page.count('<script src="charts.js"></script>') == 1
    script = (site / "report" / "charts.js").read_text()
    assert 'querySelectorAll(".chart")' in script


def test_a_page_keeps_no_names_for_the_next(tmp_path):
    (tmp_path / "report").mkdir()
    for place, code in enumerate(["kept = 1", "kept"] * 2):
        page = tmp_path / "report" / f"{place}.qmd"
        page.write_text(f"# Page\n\n```{{python}}\n{code}\n```\n")
    with pytest.raises(CellExecutionError, match="NameError"):
        preview.render(tmp_path / "report", tmp_path / "_site")


def test_a_cell_that_fails_fails_the_preview(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "broken.qmd").write_text("# Broken\n\n```{python}\n1 / 0\n```\n")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        preview.render(tmp_path / "report", tmp_path / "_site")


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
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "broken.qmd").write_text(NO_CHART)
    with pytest.raises(CellExecutionError, match="MaxRowsError"):
        preview.render(tmp_path / "report", tmp_path / "_site")


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
    (plain,) = re.findall("preview report (.*?);", printed.stdout)
    assert quarto == plain
    return quarto


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_has_a_caption_and_alternative_text(name):
    text = (ROOT / "report" / f"{name}.qmd").read_text()
    figures = text.count("#| label: fig-")
    assert figures == text.count("#| fig-alt:") == text.count("#| fig-cap:")


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_table_and_equation_is_referred_to_on_its_page(name):
    text = (ROOT / "report" / f"{name}.qmd").read_text()
    labels = re.findall(r"(?:label: |\{#)((?:fig|tbl|eq)-[\w-]+)", text)
    assert [label for label in labels if not re.search(rf"@{label}(?![\w-])", text)] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_link_to_a_page_leads_to_its_part_of_the_pdf(name):
    title = (ROOT / "report" / f"{name}.qmd").read_text().splitlines()[0]
    assert title.startswith("# ") and title.endswith(f" {{#{name}}}")


def test_no_two_figures_have_the_same_code():
    """A figure's label and alternative text are found by its code."""
    codes = [
        "\n".join(line for line in cell.splitlines() if not line.startswith("#|"))
        for page in (ROOT / "report").glob("*.qmd")
        for cell in re.findall(r"```{python}\n(.*?)```", page.read_text(), re.DOTALL)
        if "label: fig-" in cell
    ]
    assert len(codes) == len(set(codes)) > 20


def test_the_paper_holds_every_page_of_the_site():
    paper = (ROOT / "report" / "paper.qmd").read_text()
    site = (ROOT / "_quarto.yml").read_text()
    for name in PAGES:
        assert f"{{{{< include {name}.qmd >}}}}" in paper
        assert f"- report/{name}.qmd" in site


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


def test_the_site_read_from_disk_keeps_nobody_out(rendered, paper, browser):
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


def test_a_mark_names_its_component_and_leads_to_its_row(page):
    mark = page.locator('.chart path[aria-roledescription="circle"]').first
    mark.hover(force=True)
    pointer = page.locator("#vg-tooltip-element.visible")
    pointer.wait_for()
    (component,) = re.findall(r"(?:head|neuron) \d\.\d+", pointer.inner_text())
    mark.click(force=True)
    row = page.locator("tr.chosen")
    assert row.locator("th").inner_text() == component
    assert row.evaluate("row => row === document.activeElement")


def test_a_rectangle_over_points_chooses_the_same_heads_in_both_heatmaps(page):
    chart = page.locator("#fig-ioi .chart")
    chart.scroll_into_view_if_needed()
    assert heads(chart, "circle") == heads(chart, "rect mark")
    box = chart.locator('path[aria-roledescription="circle"]').first.bounding_box()
    page.mouse.move(box["x"] - 4, box["y"] - 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 4, box["y"] + box["height"] + 4, steps=4)
    page.mouse.up()
    chosen = heads(chart, "circle", faded=False)
    assert 0 < len(chosen) < len(heads(chart, "circle"))
    assert chosen == heads(chart, "rect mark", faded=False)


def heads(chart: Locator, mark: str, faded: bool = True) -> set[str]:
    """The heads whose marks a chart shows, without the faded ones if told so."""
    shown = chart.locator(f'path[aria-roledescription="{mark}"]').evaluate_all(
        "marks => marks.map(mark => [mark.ariaLabel, getComputedStyle(mark).opacity])"
    )
    labels = [label for label, opacity in shown if faded or float(opacity) > 0.2]
    return {found[0] for label in labels if (found := re.search(r"head \d+\.\d+", label))}


def test_tab_reaches_what_scrolls_and_what_opens(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.querySelector('table').closest('[tabindex]')")
    assert {"table", "svg", "summary"} <= {kind for _ in range(80) for kind in tab(page)}
    page.locator(".chart details:not(.chart-source) summary").first.focus()
    page.keyboard.press("Enter")
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
