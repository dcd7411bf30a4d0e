"""Every document's cells run, on small results, by the tools of the plain preview."""

import re
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

from analysis import preview

# One worker renders the site once for all of these.
pytestmark = pytest.mark.xdist_group("report")
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
