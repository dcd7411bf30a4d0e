"""The rendered report as its readers find it, by `tests/crawl.py`: the preview, and Quarto's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from crawl import Crawl, Fault, chromium, obstacles, served, settle
from playwright.sync_api import Locator, Page

# One worker renders the site once for all of these.
pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module", params=["preview", "quarto"])
def site(request, paper) -> Path:
    if request.param == "preview":
        return paper.site
    return request.getfixturevalue("quarto_site")


@pytest.fixture(scope="module")
def quarto_site(paper) -> Path:
    """What `quarto render` makes of the same documents and kept results."""
    quarto = shutil.which("quarto")
    if quarto is None:
        pytest.skip("no Quarto on this machine to render the site with")
    rendered = subprocess.run(
        [quarto, "render", "--output-dir", "_quarto_site"],
        cwd=paper.project,
        env=os.environ | paper.environment,
        capture_output=True,
        text=True,
    )
    said = rendered.stdout + rendered.stderr
    assert rendered.returncode == 0, said
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
def page(site, browser) -> Page:
    """The page with most charts, as a reader has it from disk."""
    with browser.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto((site / "report" / "aligned-baselines.html").as_uri())
        settle(page)
        yield page


def expect_none(faults: list[Fault]) -> None:
    """Fails with a line a fault: page, rule, element."""
    if faults:
        lines = map(" | ".join, dict.fromkeys(faults))
        pytest.fail("\n".join(lines), pytrace=False)


def documents(project: Path) -> set[str]:
    """The pages that the documents make."""
    sources = [path for path in (project / "report").rglob("*.qmd") if path.stem != "paper"]
    return {str(path.relative_to(project).with_suffix(".html")) for path in sources}


def test_the_site_read_from_disk_keeps_nobody_out(site, paper, browser):
    """WCAG 2.1 AA by axe, alternative texts, contrast in charts, nothing wider than a phone."""
    crawl = Crawl(browser, site, site.as_uri() + "/")
    expect_none(crawl.read(obstacles))
    assert crawl.anchors.keys() - {"index.html"} == documents(paper.project)
    assert all(link.startswith(("https://", "data:", "blob:")) for link in crawl.outward())


def test_the_site_reads_the_same_from_a_server(site, paper, browser):
    with served(site) as address:
        crawl = Crawl(browser, site, address)
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
    page.locator(".chart summary").first.focus()
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
