"""What is taken out of Quarto's pages; `test_report.py` reads them in a browser."""

import pytest

from report.furniture.offline import make_offline

PAGE = """<html><head>
<script src="site_libs/quarto-html/quarto.js" type="module"></script>
<script src="site_libs/quarto-html/tabsets/tabsets.js" type="module"></script>
<script src="site_libs/quarto-nav/quarto-nav.js"></script>
<script src="https://host.test/require.min.js" integrity="sha384-c9c"></script>
<script src="https://host.test/jquery.min.js" data-relocate-top="true"></script>
<script type="module">define('jquery', [], () => window.jQuery)</script>
</head><body><script src="charts.js"></script></body></html>
"""
SCRIPT = 'import * as tabsets from "./tabsets/tabsets.js";\n\nconst one = 1;\ntabsets.init();\n'


@pytest.fixture
def site(tmp_path):
    library = tmp_path / "site_libs" / "quarto-html"
    (library / "tabsets").mkdir(parents=True)
    (tmp_path / "index.html").write_text(PAGE)
    (library / "quarto.js").write_text(SCRIPT)
    (library / "tabsets" / "tabsets.js").write_text("export function init() {}\n")
    make_offline(tmp_path)
    return tmp_path


def test_pages_load_plain_scripts_of_their_own_site(site):
    scripts = [line for line in (site / "index.html").read_text().splitlines() if "src=" in line]
    assert scripts == [
        '<script src="site_libs/quarto-html/quarto.js" defer></script>',
        '<script src="site_libs/quarto-nav/quarto-nav.js"></script>',
        '</head><body><script src="charts.js"></script></body></html>',
    ]
    assert "define(" not in (site / "index.html").read_text()


def test_the_page_that_leads_on_asks_for_no_icon(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("<html><head>\n<title>Redirect to report/index.html</title></head></html>")
    make_offline(tmp_path)
    assert '<head><link rel="icon" href="data:,">' in page.read_text()


def test_how_to_cite_a_page_is_an_item_of_no_list(tmp_path):
    page = tmp_path / "index.html"
    page.write_text('<div id="ref-one" class="csl-entry quarto-appendix-citeas" role="listitem">')
    make_offline(tmp_path)
    assert page.read_text() == '<div id="ref-one" class="csl-entry quarto-appendix-citeas">'


def test_the_module_and_what_it_imports_become_one_plain_script(site):
    script = (site / "site_libs" / "quarto-html" / "quarto.js").read_text()
    assert "import" not in script and "export" not in script
    assert script.index("function init()") < script.index("const one = 1;")


def test_a_site_made_offline_stays_as_it_is(site):
    files = [path for path in site.rglob("*") if path.is_file()]
    before = [path.read_text() for path in files]
    make_offline(site)
    assert [path.read_text() for path in files] == before


def test_a_charts_alternative_text_is_its_cells(tmp_path, monkeypatch):
    """Quarto drops it where a cell shows HTML; a block's own stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_site").mkdir()
    cell = "```{{python}}\n{}\nchart\n```\n\n"
    (tmp_path / "page.qmd").write_text(
        '::: {#fig-a fig-alt="Its own"}\n' + cell.format("") + "Caption.\n:::\n"
        "::: {#fig-b}\n"
        + cell.format('#| fig-alt: "One & two"')
        + "Caption.\n:::\n"
        + cell.format('#| label: fig-c\n#| fig-cap: "Caption."\n#| fig-alt: "One & two"')
    )
    page = tmp_path / "_site" / "page.html"
    figure = '<figure id="fig-{}"><div class="chart"{}>'
    page.write_text("".join(figure.format(name, "") for name in "abc"))
    for _ in range(2):
        make_offline(tmp_path / "_site")
        assert page.read_text() == figure.format("a", "") + figure.format(
            "b", ' data-fig-alt="One &amp; two"'
        ) + figure.format("c", ' data-fig-alt="One &amp; two"')
