"""Writes the script that draws the pages' charts: Vega, Vega-Lite, Vega-Embed and charts.js.

    python report/furniture/bundle.py report/charts.js

The pages load it from beside them, and nothing from another host.
"""

import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import vl_convert

_SOURCE = Path(__file__).with_name("charts.js")


def bundle(path: Path) -> bool:
    """Writes the script unless it is there; True if written. Its first line says what made it."""
    source = _SOURCE.read_text(encoding="utf-8")
    made_from = sha256((source + version("vl-convert-python")).encode()).hexdigest()[:16]
    mark = f"// Vega, Vega-Lite, Vega-Embed and charts.js {made_from}\n"
    if path.exists() and path.read_text(encoding="utf-8").startswith(mark):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mark + vl_convert.javascript_bundle(source), encoding="utf-8")
    return True


if __name__ == "__main__":
    bundle(Path(sys.argv[1]))
