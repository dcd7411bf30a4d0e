"""Every document's cells run, on small results, by the tools of the plain preview."""

from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

from analysis import paths, preview
from analysis.studies.aligned_baselines import aligned_baselines

# One worker renders the site once for all of these.
pytestmark = pytest.mark.xdist_group("report")
ROOT = Path(__file__).parents[1]
PAGES = ("index", "aligned-baselines", "original", "performance", "methods")


@pytest.fixture(scope="module")
def site(testbed, tmp_path_factory) -> Path:
    """The whole preview, from results that are there, as `make paper` makes it."""
    site, results = (tmp_path_factory.mktemp(name) for name in ("site", "results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", results)
        aligned_baselines(testbed, n=4)
        # Documents run in kernels of their own, which the environment reaches.
        patch.setenv("ANALYSIS_RESULTS", str(results))
        patch.setenv("ANALYSIS_PROMPTS", "4")
        preview.render(ROOT / "report", site)
    return site


def test_every_documents_cells_run(site):
    assert {path.stem for path in (site / "report").iterdir()} == set(PAGES)
    assert "report/index.html" in (site / "index.html").read_text()


def test_the_study_shows_its_charts_tables_and_sentences(site):
    page = (site / "report" / "aligned-baselines.html").read_text()
    assert page.count('src="data:image/svg+xml') == 15
    assert "No description" not in page
    assert "scatter plots of integrated gradients" in page
    assert "On 4 prompts" in page
    assert "no claims about GPT-2 small" in page


@pytest.mark.parametrize("name", PAGES)
def test_pages_lead_to_pages_and_hide_their_code(site, name):
    page = (site / "report" / f"{name}.html").read_text()
    assert ".qmd" not in page
    assert "model_of_record" not in page
    assert "Traceback" not in page


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


def test_the_paper_holds_every_page_of_the_site():
    paper = (ROOT / "report" / "paper.qmd").read_text()
    site = (ROOT / "_quarto.yml").read_text()
    for name in PAGES:
        assert f"{{{{< include {name}.qmd >}}}}" in paper
        assert f"- report/{name}.qmd" in site
