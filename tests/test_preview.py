"""The plain preview's pages, of small documents that mostly have no code and so take no kernel."""

import asyncio
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from analysis import charts, preview
from analysis.preview.notebooks import execute, to_markdown

PROJECT = """
website:
  title: A study
  navbar:
    left:
      - {href: report/index.qmd, text: Question}
      - text: Reference
        menu:
          - {href: report/reference/names.qmd, text: Names}
    right:
      - {href: report/paper.pdf, text: PDF}
bibliography: report/references.bib
"""
BIBLIOGRAPHY = "@article{vig2020, title={Mediation}, author={Vig, Jesse}, year={2020}}"


def render(folder: Path, **documents: str) -> dict[str, str]:
    """The pages of documents, by name; `reference_names` lies in `reference/names.qmd`."""
    for name, text in documents.items():
        path = folder / "report" / f"{name.replace('_', '/')}.qmd"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "_quarto.yml").write_text(PROJECT)
    (folder / "report" / "references.bib").write_text(BIBLIOGRAPHY)
    preview.render(folder / "report", folder / "_site")
    pages = {
        name: folder / "_site" / "report" / f"{name.replace('_', '/')}.html" for name in documents
    }
    return {name: path.read_text() for name, path in pages.items() if path.exists()}


@pytest.fixture(autouse=True)
def no_bundling(monkeypatch):
    """The charts' script takes seconds to bundle, and a test of the whole report has it."""
    monkeypatch.setattr(charts, "write_script", lambda path: False)


@pytest.fixture
def page(tmp_path):
    """The page of one document, its line breaks made blanks."""
    return lambda text: re.sub(r"[ \n]+", " ", render(tmp_path, index=text)["index"])


def test_a_page_has_a_language_a_title_and_a_skip_link(page):
    made = page("# What *changes* {#top}\n\nText.")
    assert '<html lang="en">' in made
    assert "<title>What changes – A study</title>" in made
    assert made.count("<h1") == 1 and '<h1 id="top">What <em>changes</em></h1>' in made
    assert '<a class="skip" href="#text">' in made and '<main id="text">' in made


def test_a_yaml_header_names_the_page(page):
    made = page("---\ntitle: Named\ndescription: In short\n---\n\n# Part\n\nText.")
    assert "<title>Named – A study</title>" in made
    assert '<meta name="description" content="In short">' in made
    assert "<h1>Named</h1>" in made and '<h2 id="part">' in made


def test_sections_are_numbered_and_listed(page):
    made = page(
        "# Page\n\n## One\n\n### Deep\n\n## Two {#sec-two}\n\n### Low\n\n"
        "## Last {.unnumbered}\n\n@sec-two"
    )
    assert '<h3 id="deep"><span class="number">1.1</span> Deep</h3>' in made
    assert '<span class="number">2.1</span> Low' in made
    assert '<h2 class="unnumbered" id="last">Last</h2>' in made
    assert '<a href="#sec-two">Section\u00a02</a>' in made
    contents = made[made.index('aria-label="On this page"') :]
    assert '<a href="#sec-two" id="toc-sec-two"><span class="number">2</span> Two</a>' in contents


def test_a_page_may_leave_its_sections_unnumbered(page):
    made = page("---\nnumber-sections: false\n---\n\n# Page\n\n## Two {#sec-two}\n\n@sec-two")
    assert '<h2 id="sec-two">Two</h2>' in made and '<a href="#sec-two">Two</a>' in made


def test_citations_are_resolved_and_listed_at_the_end(page):
    made = page("# Page\n\nAs shown [@vig2020].")
    assert '(<a href="#ref-vig2020" role="doc-biblioref">Vig 2020</a>)' in made
    assert '<h2 class="unnumbered" id="references">References</h2>' in made
    assert "<em>" not in made.partition("References</h2>")[0]
    assert "References" not in page("# Page\n\nNothing cited.")


def test_equations_are_mathml_and_those_with_a_label_numbered(page):
    made = page("# Page\n\n@eq-b has $x$.\n\n$$\na\n$$\n\n$$\nb\n$$ {#eq-b}\n")
    assert made.count("<math ") == 3 and "{#eq" not in made
    assert '<a href="#eq-b">Equation\u00a01</a>' in made
    labelled = made[made.index('<span id="eq-b"') :]
    assert '<span class="number">(1)</span>' in labelled
    assert made.count('class="scroll equation"') == made.count('tabindex="0"') == 2


def test_long_formulas_and_tables_scroll_and_short_cells_do_not_break(page):
    long = "m(a) - " * 6 + "m(b)"
    made = page(f"# Page\n\n${long}$\n\n| a |\n|---|\n| 0.9 [0.8, 1.0] |\n| {'long ' * 9}|\n")
    assert made.count('tabindex="0"') == 2
    assert 'class="scroll formula"' in made and 'class="scroll"' in made
    assert '<td><span class="together">0.9 [0.8, 1.0]</span></td>' in made
    assert "<td>long long" in made and "<col" not in made


def test_cells_with_captions_become_figures_and_tables_to_link_to():
    chart = '<div class="chart"><script type="application/json">{"a":"```"}</script></div>'
    code = "#| label: {0}-x\n#| {0}-cap: 'See `x`: @tbl-x'\nshow()"
    figure = new_code_cell(code.format("fig"), outputs=[_output("text/html", chart)])
    table = new_code_cell(code.format("tbl"), outputs=[_output("text/markdown", "|a|\n|-|\n|1|")])
    text = to_markdown(new_notebook(cells=[new_markdown_cell("# Page"), figure, table]))
    assert "show()" not in text and chart in text
    assert text.count("::: {#fig-x}") == text.count("::: {#tbl-x}") == 1
    assert text.count("See `x`: @tbl-x\n:::") == 2


def _output(form: str, text: str):
    return new_output("execute_result", {form: text, "text/plain": "plain"})


def test_printed_text_and_cells_without_a_caption():
    printed = new_output("stream", text="progress")
    shown = [printed, _output("text/markdown", "Some *words*."), _output("image/png", "")]
    text = to_markdown(new_notebook(cells=[new_code_cell("1", outputs=shown)]))
    assert "progress" not in text and "Some *words*." in text and "\nplain\n" in text


def test_figures_and_tables_are_numbered_each_on_their_own(page):
    made = page(
        "# Page\n\n@tbl-a, [@fig-a; @fig-b]\n\n"
        "::: {#tbl-a}\n| a |\n|---|\n| 1 |\n\nOf *a*.\n:::\n\n"
        '::: {#fig-a}\n```{=html}\n<div class="chart"></div>\n```\n\nA chart.\n:::\n\n'
        "![An image.](images/b.svg){#fig-b}\n"
    )
    assert '<a href="#tbl-a">Table\u00a01</a>, <a href="#fig-a">Figure\u00a01</a>, ' in made
    assert '<figure id="tbl-a"> <figcaption> <strong>Table\u00a01:</strong> Of <em>a</em>.' in made
    assert '<figure id="fig-a"> <figcaption> <strong>Figure\u00a01:</strong> A chart.' in made
    assert '<figure id="fig-b"> <figcaption> <strong>Figure\u00a02:</strong> An image.' in made
    assert made.count('<div class="scroll"') == made.count('tabindex="0"') == 2


def test_the_script_is_on_pages_that_draw_charts_only(page):
    drawn = page('# Page\n\n```{=html}\n<div class="chart"></div>\n```\n')
    assert drawn.count("<script") == 1 and '<script src="charts.js"></script>' in drawn
    plain = page("# Page\n\n$x$ and\n\n    code\n")
    assert "<script" not in plain
    assert not re.search(r'(src|href)="(https?:)?//', plain)


@pytest.mark.parametrize(
    ("div", "shown"),
    [
        ('.callout-note collapse="true" title="A *b*"', "<summary> A <em>b</em> </summary>"),
        ('.callout-note collapse="false" title="T"', "callout-note open> <summary> T </summary>"),
        ('.callout-warning collapse="true"', "<summary> Warning </summary>"),
        (".callout-tip", '<div class="callout-title"> <p>Tip</p>'),
    ],
)
def test_callouts_open_or_are_boxes(page, div, shown):
    made = page(f"# Page\n\n::: {{{div}}}\nInside.\n:::\n").replace(
        '"callout callout-note"', "callout-note"
    )
    assert shown in made and "<p>Inside.</p>" in made


def test_a_callouts_first_heading_is_its_title(page):
    made = page('# Page\n\n::: {.callout-note collapse="true"}\n## Why\nInside.\n:::\n\n## One\n')
    assert "<summary> Why </summary> <p>Inside.</p> </details>" in made
    assert '<span class="number">1</span> One' in made


@pytest.mark.parametrize(
    ("part", "stays"),
    [
        ('.content-visible when-format="html"', True),
        ('.content-visible when-format="typst"', False),
        ('.content-visible when-format="pdf"', False),
        ('.content-visible unless-format="html"', False),
        ('.content-hidden when-format="html"', False),
        ('.content-hidden when-format="typst"', True),
    ],
)
def test_parts_for_another_format_are_left_out(page, part, stays):
    made = page(f"# Page\n\n::: {{{part}}}\nblock\n:::\n\nAn [inline]{{{part}}} part.")
    assert ("block" in made) == ("inline" in made) == stays


def test_raw_html_stays_and_shortcodes_go(page):
    made = page(
        "# Page\n\n`<kbd>a</kbd>`{=html}\n\n```{=html}\n<hr class=x>\n```\n\nA {{< meta x >}} B"
    )
    assert "<kbd>a</kbd>" in made and "<hr class=x>" in made
    assert "{{" not in made and "meta" not in made.partition("<main")[2]


def test_pages_of_subfolders_lead_to_the_others(tmp_path):
    pages = render(
        tmp_path,
        index="# Top\n\n[names](reference/names.qmd#a), [code](https://example.org/x.qmd)",
        reference_names='# Names\n\n[up](../index.qmd)\n\n`<p class="chart">`{=html}',
    )
    assert 'href="reference/names.html#a"' in pages["index"]
    assert 'href="https://example.org/x.qmd"' in pages["index"]
    below = pages["reference_names"]
    assert 'href="../index.html">up</a>' in below
    assert '<script src="../charts.js"></script>' in below and 'href="../page.css"' in below
    assert (tmp_path / "_site" / "report" / "page.css").exists()
    assert 'url=report/index.html"' in (tmp_path / "_site" / "index.html").read_text()


def test_the_navigation_is_quartos_without_what_a_preview_lacks(tmp_path):
    pages = render(tmp_path, index="# Top", reference_names="# Names")
    assert '<li><a href="index.html" aria-current="page">Question</a></li>' in pages["index"]
    below = re.sub(r"[ \n]+", " ", pages["reference_names"])
    assert '<li><a href="../index.html">Question</a></li>' in below
    menu = (
        '<summary>Reference</summary> <ul> <li><a href="names.html" aria-current="page">Names</a>'
    )
    assert menu in below and "PDF" not in below


def test_a_project_without_settings_has_pages_without_navigation(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.qmd").write_text("# Top")
    preview.render(tmp_path / "report", tmp_path / "_site")
    page = (tmp_path / "_site" / "report" / "index.html").read_text()
    assert "<title>Top</title>" in page and "<header>" not in page


def test_documents_that_include_others_are_no_pages(tmp_path):
    pages = render(tmp_path, index="# Top", paper="{{< include index.qmd >}}")
    assert set(pages) == {"index"}


def test_files_that_pages_name_are_copied(tmp_path):
    for name in ("images/a.svg", "data/b c.csv", "data/c.parquet", "data/unnamed.csv", "../out.md"):
        path = tmp_path / "report" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    render(
        tmp_path,
        index="# Top\n\n![](images/a.svg) [b](data/b%20c.csv) [out](../out.md) [none](none.csv)",
        reference_names='# Names\n\n```{=html}\n<a href="../data/c.parquet#x">c</a>\n```\n',
    )
    site = tmp_path / "_site" / "report"
    assert not (tmp_path / "_site" / "out.md").exists()
    copied = {path.relative_to(site).as_posix() for path in site.rglob("*.*") if path.is_file()}
    assert copied - {"page.css", "index.html", "reference/names.html"} == {
        "images/a.svg",
        "data/b c.csv",
        "data/c.parquet",
    }


def test_text_alone_takes_no_kernel(monkeypatch):
    monkeypatch.setattr("analysis.preview.notebooks.AsyncKernelManager", None)
    asyncio.run(execute([new_notebook(cells=[new_markdown_cell("# Page")])], Path()))
