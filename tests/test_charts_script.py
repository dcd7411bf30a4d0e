"""What report/furniture's script makes of charts in a browser."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from charts.frames import scores
from crawl import chromium
from playwright.sync_api import Page

from analysis import charts
from analysis.charts.page import both_forms

FURNITURE = Path(__file__).parents[1] / "report" / "furniture"
DRAWN = (
    "[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg.marks'))"
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Charts</title>
<meta name="viewport" content="width=device-width"><body>
<div id="fig-tasks" alt="Points near a line."><figure>{tasks}</figure></div>
<div id="fig-scores"><figure>{scores}<figcaption>Figure 2</figcaption></figure></div>
<script src="charts.js"></script></body></html>"""


@pytest.fixture(scope="module")
def bundle():
    specification = importlib.util.spec_from_file_location("bundle", FURNITURE / "bundle.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.bundle


@pytest.fixture(scope="module")
def address(bundle, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pages")
    heads = scores(16, "heads", width=4)
    tasks = pl.concat(heads.with_columns(task=pl.lit(task)) for task in ("ioi", "greater-than"))
    drawn = {
        "tasks": charts.scatter(tasks, column="task"),
        "scores": charts.scores(pl.concat([heads, scores(20)])),
    }
    forms = {name: both_forms(chart.to_dict())["text/html"] for name, chart in drawn.items()}
    (folder / "index.html").write_text(PAGE.format(**forms))
    bundle(folder / "charts.js")
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        if browser is None:
            pytest.skip("no Chromium on this machine to draw charts with")
        yield browser


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(request, browser, address) -> Iterator[Page]:
    size = {"width": request.param, "height": 900}
    with browser.new_context(viewport=size, accept_downloads=True) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_function(DRAWN)
        yield page


def test_panels_stand_side_by_side_and_are_stacked_on_a_phone(page):
    first, second = boxes(page)
    stacked = page.viewport_size["width"] < 500
    assert (second["y"] > first["y"] + 100) == stacked
    assert (second["x"] > first["x"] + 100) == (not stacked)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def boxes(page: Page) -> list[dict]:
    """Where the titles of the panels stand."""
    titles = [
        page.locator("#fig-tasks").get_by_text(task, exact=True) for task in ("ioi", "greater-than")
    ]
    return [title.bounding_box() for title in titles]


def test_a_chart_is_named_by_the_figures_alternative_text_or_caption(page):
    names = page.locator("[role=graphics-document]").evaluate_all(
        "charts => charts.map((chart) => chart.ariaLabel)"
    )
    assert names == ["Points near a line.", "Figure 2"]


def test_the_menu_saves_picture_and_data_and_leads_nowhere_else(page):
    menu = page.locator("#fig-tasks .vega-embed details")
    menu.locator("summary").click()
    entries = menu.locator("a").all_inner_texts()
    assert entries == ["Save as SVG", "Save as PNG", "Save data as CSV"]
    with page.expect_download() as download:
        menu.get_by_text("CSV").click()
    assert download.value.suggested_filename == "fig-tasks.csv"
    saved = pl.read_csv(download.value.path())
    assert saved.columns == ["name", "task", "ap", "ig"] and len(saved) == 32


def test_a_click_leads_to_the_row_of_its_task(page):
    mark = page.locator('#fig-tasks path[aria-roledescription="circle"]').nth(20)
    mark.click(force=True)
    component, task = page.locator("#fig-tasks tr.chosen").locator("th, td").all_inner_texts()[:2]
    assert task == "greater-than" and f"name: {component};" in mark.get_attribute("aria-label")


def chosen(page: Page, mark: str) -> set[str]:
    marks = page.locator(f'#fig-scores path[aria-roledescription="{mark}"]').evaluate_all(
        "marks => marks.map((mark) => [mark.ariaLabel, getComputedStyle(mark).opacity])"
    )
    labels = [label for label, opacity in marks if float(opacity) > 0.2]
    return {label.partition("component: ")[2].partition(";")[0] for label in labels} - NEURONS


NEURONS = {f"neuron 0.{index}" for index in range(20)}


@pytest.mark.parametrize("mark", ["circle", "rect mark"])
def test_a_click_on_a_head_chooses_it_everywhere_and_leads_to_its_row(mark, page):
    page.locator(f'#fig-scores path[aria-roledescription="{mark}"]').nth(3).click(force=True)
    row = page.locator("#fig-scores tr.chosen")
    head = row.locator("th").inner_text()
    assert row.evaluate("row => row === document.activeElement")
    assert chosen(page, "circle") == chosen(page, "rect mark") == {head}


def test_a_rectangle_chooses_the_same_heads_in_every_view(page):
    everything = chosen(page, "circle")
    tile = page.locator('#fig-scores path[aria-roledescription="rect mark"]').first
    tile.scroll_into_view_if_needed()
    box = tile.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + 1.5 * box["width"], box["y"] + box["height"] - 3, steps=4)
    page.mouse.up()
    assert chosen(page, "circle") == chosen(page, "rect mark")
    assert 0 < len(chosen(page, "circle")) < len(everything) == 16


def test_the_script_is_written_again_only_when_it_would_differ(bundle, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda s: made.append(s) or "drawn")
    path = tmp_path / "pages" / "charts.js"
    assert bundle(path) and not bundle(path)
    assert path.read_text().endswith("drawn") and len(made) == 1
    path.write_text("// of an older version\n")
    assert bundle(path) and path.read_text().endswith("drawn")
