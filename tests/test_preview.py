"""The plain preview's pages, of small documents; those without code take no kernel."""

import asyncio
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from analysis.studies import Studied
from report.furniture import preview
from report.furniture.page import badge, claim
from report.furniture.preview import execute, to_markdown

PROJECT = """
project:
  pre-render: []
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
    preview.render(folder / "_site")
    pages = {
        name: folder / "_site" / "report" / f"{name.replace('_', '/')}.html" for name in documents
    }
    return {name: path.read_text() for name, path in pages.items() if path.exists()}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own; what the preview says to the commands that it runs stays here."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "QUARTO_PROJECT_OUTPUT_DIR"):
        monkeypatch.setenv(name, "")


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


def notebook(*cells, **options):
    return new_notebook(cells=list(cells), metadata={"echo": False} | options)


def test_cells_with_captions_become_figures_and_tables_to_link_to():
    chart = '<div class="chart"><script type="application/json">{"a":"```"}</script></div>'
    code = "#| label: {0}-x\n#| {0}-cap: 'See `x`: @tbl-x'\nshow()"
    figure = new_code_cell(code.format("fig"), outputs=[_output("text/html", chart)])
    table = new_code_cell(code.format("tbl"), outputs=[_output("text/markdown", "|a|\n|-|\n|1|")])
    text = to_markdown(notebook(new_markdown_cell("# Page"), figure, table))
    assert "show()" not in text and chart in text
    assert text.count("::: {#fig-x}") == text.count("::: {#tbl-x}") == 1
    assert text.count("See `x`: @tbl-x\n:::") == 2


def _output(form: str, text: str):
    return new_output("execute_result", {form: text, "text/plain": "plain"})


def test_printed_text_is_shown_and_progress_is_not():
    printed = (
        new_output("stream", text="printed"),
        new_output("stream", name="stderr", text="progress"),
    )
    shown = [*printed, _output("text/markdown", "Some *words*."), _output("image/png", "")]
    text = to_markdown(notebook(new_code_cell("1", outputs=shown)))
    assert "progress" not in text
    assert "\nprinted\n" in text and "Some *words*." in text and "\nplain\n" in text


@pytest.mark.parametrize(
    ("line", "shown", "folded"),
    [
        ("", True, True),
        ("#| code-fold: false\n", True, False),
        ("#| echo: false\n", False, False),
    ],
)
def test_code_is_folded_shown_or_hidden(line, shown, folded):
    cell = new_code_cell(f"{line}1 + 1\n", outputs=[_output("text/markdown", "Two.")])
    text = to_markdown(notebook(cell, echo=True, **{"code-fold": True}))
    assert ("1 + 1" in text) == shown and ("fold=true" in text) == folded
    assert "#|" not in text and text.endswith("Two.")


def test_folded_code_stands_before_its_figure(page):
    made = page(
        "# Page\n\n::: {#fig-a}\n```{.python .cell-code fold=true}\n1 + 1\n```\n\n"
        "```{=html}\n<div class=chart></div>\n```\n\nThe caption.\n:::\n"
    )
    code, figure = made.split('<figure id="fig-a">')
    assert '<details class="code"> <summary> Code </summary>' in code
    assert "The caption." in figure and "chart" in figure and "details" not in figure


INLINE = """# Page

```{python}
#| echo: false
from IPython.display import Markdown
r, nothing = "0.93 [0.9, 1.0] *", None
```

It is `{python} r`, or `{python} Markdown("*so*")`, or `{python} 1/4`.

::: {#fig-a}
A chart

With `{python} r.upper()` in its caption.
:::

```{python}
nothing
```
"""


def test_inline_values_are_written_as_quarto_writes_them(page):
    """Strings as plain text, Markdown as such, and of all else the repr."""
    made = page(INLINE)
    assert "It is 0.93 [0.9, 1.0] *, or <em>so</em>, or 0.25." in made
    assert "With 0.93 [0.9, 1.0] * in its caption. </figcaption>" in made
    assert "display(" not in made and "{python}" not in made


@pytest.mark.parametrize("text", ["```{python}\n1 / 0\n```", "It is `{python} 1 / 0`."])
def test_a_cell_that_fails_ends_the_preview_with_page_cell_and_error(tmp_path, text):
    with pytest.raises(SystemExit, match=r"(?s)report/index.qmd: .*1 / 0.*ZeroDivisionError"):
        render(tmp_path, index=f"# Page\n\n{text}\n")


def test_a_page_keeps_no_names_for_the_next(tmp_path):
    cells = {f"page{place}": code for place, code in enumerate(["kept = 1", "kept"] * 2)}
    with pytest.raises(SystemExit, match="NameError"):
        render(tmp_path, **{name: f"```{{python}}\n{code}\n```\n" for name, code in cells.items()})


def test_included_text_stands_in_the_page(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "_part.qmd").write_text("From the *part*.")
    pages = render(tmp_path, index="# Page\n\n{{< include _part.qmd >}}\n")
    assert "From the <em>part</em>." in pages["index"]
    assert not (tmp_path / "_site" / "report" / "_part.html").exists()


def test_the_title_block_has_authors_date_and_how_to_cite(page):
    made = page(
        "---\ntitle: Named\nauthor: [Jesse, {name: {literal: A Group}}]\ndate: 2020-02-03\n"
        "citation: {type: report, version: 1.0.0}\n---\n\nText."
    )
    assert '<p class="byline">Jesse, A Group · 2020-02-03</p>' in made
    entry = made[made.index("@report") : made.index("</code>")].replace("&#123;", "{")
    assert (
        "author = {{Jesse} and {A Group}}, title = {{Named}}, version = {1.0.0}"
        in entry.replace("&#125;", "}")
    )
    assert "Citation" not in page("---\ntitle: Named\n---\n\nText.")


def test_a_tables_caption_may_stand_below_it(page):
    made = page("# Page\n\n@tbl-a\n\n| a |\n|---|\n| 1 |\n\n: Of *a*. {#tbl-a}\n")
    assert '<a href="#tbl-a">Table\u00a01</a>' in made and made.count("tbl-a") == 2
    assert '<figure id="tbl-a"> <figcaption> <strong>Table\u00a01:</strong> Of <em>a</em>.' in made


def test_a_figures_alternative_text_stays(page):
    made = page('# Page\n\n::: {#fig-a fig-alt="A & b"}\ntext\n\nCaption.\n:::\n')
    assert '<figure id="fig-a" data-fig-alt="A &amp; b">' in made


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


def test_pages_load_nothing_from_another_host(page):
    made = page("# Page\n\n$x$ and\n\n    code\n")
    assert "<script" not in made
    assert not re.search(r'(src|href)="(https?:)?//', made)


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


def test_a_callouts_classes_stay(page):
    made = page('# Page\n\n::: {.callout-warning .claim title="T"}\nInside.\n:::\n')
    assert '<div class="callout callout-warning claim">' in made


def test_a_claim_that_does_not_hold_is_a_callout(page, monkeypatch):
    monkeypatch.setenv("ANALYSIS_TESTBED", "mine")
    monkeypatch.setenv("ANALYSIS_PROMPTS", "7")
    assert claim(True) is None
    made = page(f"# Page\n\n{claim(False).data}\n")
    assert '<div class="callout callout-warning claim">' in made
    assert "<code>mine</code> with 7 prompts" in made
    assert "the models `mine` and `other` with 7" in claim(False, Studied("other", 7)).data


def test_a_badge_names_the_model(monkeypatch):
    monkeypatch.setenv("ANALYSIS_TESTBED", "testbed")
    assert badge().data == "[Model: `testbed`, 4-layer testbed]{.badge}"
    monkeypatch.setenv("ANALYSIS_TESTBED", "mine")
    assert "not the shipped testbed" in badge().data


def test_a_badge_names_the_language_model_beside_the_testbed(monkeypatch):
    monkeypatch.setenv("ANALYSIS_TESTBED", "testbed")
    shown = badge(Studied("smollm2", 100)).data
    assert shown == "[Models: `testbed`, 4-layer testbed; `smollm2`, language model]{.badge}"


def test_raw_html_stays(page):
    made = page("# Page\n\n`<kbd>a</kbd>`{=html}\n\n```{=html}\n<hr class=x>\n```\n")
    assert "<kbd>a</kbd>" in made and "<hr class=x>" in made


def test_pages_of_subfolders_lead_to_the_others(tmp_path):
    pages = render(
        tmp_path,
        index="# Top\n\n[names](reference/names.qmd#a), [code](https://example.org/x.qmd)",
        reference_names="---\ntitle: Names\nformat: {html: {include-after-body: {text: "
        "'<script src=\"../charts.js\"></script>'}}}\n---\n\n[up](../index.qmd)",
    )
    assert 'href="reference/names.html#a"' in pages["index"]
    assert 'href="https://example.org/x.qmd"' in pages["index"]
    below = pages["reference_names"]
    assert 'href="../index.html">up</a>' in below
    assert '<script src="../charts.js"></script>' in below
    assert 'href="../../report/preview.css"' in below
    assert (tmp_path / "_site" / "report" / "preview.css").exists()
    assert 'url=report/index.html"' in (tmp_path / "_site" / "index.html").read_text()


def test_the_navigation_is_quartos_without_what_a_preview_lacks(tmp_path):
    pages = render(tmp_path, index="# Top", reference_names="# Names")
    here = '<li><a href="../report/index.html" aria-current="page">Question</a></li>'
    assert here in pages["index"]
    below = re.sub(r"[ \n]+", " ", pages["reference_names"])
    assert '<li><a href="../../report/index.html">Question</a></li>' in below
    menu = (
        "<summary>Reference</summary> <ul> <li><a "
        'href="../../report/reference/names.html" aria-current="page">Names</a>'
    )
    assert menu in below and "PDF" not in below


def test_a_project_without_navigation_has_pages_without(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.qmd").write_text("# Top")
    (tmp_path / "_quarto.yml").write_text("project: {type: website}")
    preview.render(tmp_path / "_site")
    page = (tmp_path / "_site" / "report" / "index.html").read_text()
    assert "<title>Top</title>" in page and "<header>" not in page


def test_a_document_of_another_format_is_no_page(tmp_path):
    pages = render(tmp_path, index="# Top", paper="---\nformat: {typst: {}}\n---\n\n# Paper")
    assert set(pages) == {"index"}


def test_what_stands_beside_the_documents_is_copied(tmp_path):
    for name in ("images/a.svg", "data/b c.csv", "furniture/x.py"):
        path = tmp_path / "report" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    render(tmp_path, index="# Top")
    site = tmp_path / "_site" / "report"
    copied = {path.relative_to(site).as_posix() for path in site.rglob("*.*") if path.is_file()}
    assert copied == {"preview.css", "index.html", "images/a.svg", "data/b c.csv"}


def test_the_projects_own_commands_run_before_and_after(tmp_path):
    before = "python -c \"open('report/made.qmd', 'w').write('# Made')\""
    after = "python -c \"import os; print(*os.listdir(os.environ['QUARTO_PROJECT_OUTPUT_DIR']))\""
    commands = f"project:\n  pre-render:\n    - {before}\n  post-render:\n    - {after} \n"
    (tmp_path / "report").mkdir()
    (tmp_path / "_quarto.yml").write_text(commands)
    preview.render(tmp_path / "_site")
    assert (tmp_path / "_site" / "report" / "made.html").exists()


def test_text_alone_takes_no_kernel(monkeypatch):
    monkeypatch.setattr(preview, "AsyncKernelManager", None)
    asyncio.run(execute([new_notebook(cells=[new_markdown_cell("# Page")])]))
