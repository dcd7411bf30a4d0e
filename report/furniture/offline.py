"""Makes the pages read the same from disk as from a server, with no other host, and by ear.

Five things stand in the way, and no option of Quarto takes them out. It gives every page with HTML
that a cell made the scripts of Jupyter's widgets, from another host; these pages have no widgets.
Its own script is a module, which browsers do not load from disk. The page that leads on to the
first one has no icon, so that browsers ask the host for one. A cell's `fig-alt` gets lost where it
shows HTML: the charts' script finds it in `data-fig-alt`. And how to cite a page is an item of no
list.
"""

import html
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

_WIDGETS = re.compile(
    r'<script src="https?://[^>]*></script>\s*|<script[^>]*>define\(\'jquery\'.*?</script>\s*'
)
_TABSETS = re.compile(r'<script src="[^"]*/tabsets\.js" type="module"></script>\s*')
_MODULE = re.compile(r'(<script src="[^"]*/quarto\.js") type="module">')
_LEADS_ON = re.compile(r"<head>(?=\s*<title>Redirect)")
_LONE_ITEM = re.compile(r'(<div [^>]*quarto-appendix-citeas") role="listitem"')
_IMPORT = 'import * as tabsets from "./tabsets/tabsets.js";\n'
_CHART = '<div class="chart"'
_FIGURE = re.compile(r'^(?:#\| label: |:+ \{#)(fig-[\w-]+)|^#\| fig-alt: "(.*)"$', re.MULTILINE)


def make_offline(site: Path) -> None:
    """Changes the pages and Quarto's script below `site`; once changed, they stay as they are."""
    for page in site.rglob("*.html"):
        document = page.relative_to(site).with_suffix(".qmd")
        source = document.read_text(encoding="utf-8") if document.exists() else ""
        _rewrite(page, partial(_mended, source))
    for script in site.glob("site_libs/quarto-html/quarto.js"):
        tabsets = (script.parent / "tabsets" / "tabsets.js").read_text(encoding="utf-8")
        _rewrite(script, partial(_bundled, tabsets))


def _mended(source: str, page: str) -> str:
    page = _TABSETS.sub("", _WIDGETS.sub("", page))
    page = _LEADS_ON.sub('<head><link rel="icon" href="data:,">', page)
    page = _LONE_ITEM.sub(r"\1", page)
    return _MODULE.sub(r"\1 defer>", _with_alternative_texts(source, page))


def _with_alternative_texts(source: str, page: str) -> str:
    figure = ""
    for label, alt in _FIGURE.findall(source):
        figure = label or figure
        before, anchor, after = page.partition(f'id="{figure}"')
        start, chart, rest = after.partition(_CHART)
        if alt and chart and rest.startswith(">"):
            given = f' data-fig-alt="{html.escape(alt)}"'
            page = before + anchor + start + chart + given + rest
    return page


def _bundled(tabsets: str, script: str) -> str:
    """The module and the one that it imports as a plain script that keeps its names to itself."""
    if not script.startswith(_IMPORT):
        return script
    imported = tabsets.replace("export function", "function")
    return (
        f"(() => {{\nconst tabsets = (() => {{\n{imported}\nreturn {{ init }};\n}})();\n"
        f"{script.removeprefix(_IMPORT)}\n}})();\n"
    )


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    if changed != text:
        path.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    make_offline(Path(os.environ["QUARTO_PROJECT_OUTPUT_DIR"]))
