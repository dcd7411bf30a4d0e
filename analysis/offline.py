"""Makes Quarto's pages read the same from disk as from a server, with no other host.

Three things of Quarto's stand in the way, and no option of it takes them out. It gives every page
with HTML that a cell made the scripts of Jupyter's widgets, from another host; these pages have no
widgets. Its own script is a module, which browsers do not load from disk. And the page that leads
on to the first one has no icon, so that browsers ask the host for one that is not there.
"""

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
_IMPORT = 'import * as tabsets from "./tabsets/tabsets.js";\n'


def make_offline(site: Path) -> None:
    """Changes the pages and Quarto's script below `site`; once changed, they stay as they are."""
    for page in site.rglob("*.html"):
        _rewrite(page, _mended)
    for script in site.glob("site_libs/quarto-html/quarto.js"):
        tabsets = (script.parent / "tabsets" / "tabsets.js").read_text(encoding="utf-8")
        _rewrite(script, partial(_bundled, tabsets))


def _mended(page: str) -> str:
    page = _TABSETS.sub("", _WIDGETS.sub("", page))
    page = _LEADS_ON.sub('<head><link rel="icon" href="data:,">', page)
    return _MODULE.sub(r"\1 defer>", page)


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
