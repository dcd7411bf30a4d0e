"""All pages as one document, for the PDF: `python report/furniture/paper.py report/paper.qmd`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_HEADER = re.compile(r"\A---\n(.*?)^---$", re.M | re.S)


def write_paper(paper: Path) -> None:
    """Writes the pages of the navigation one after another, under the header of `paper.yml`."""
    bar = yaml.safe_load(Path("_quarto.yml").read_text(encoding="utf-8"))["website"]["navbar"]
    pages = [Path(href) for href in links(bar["left"]) if Path(href).parent == paper.parent]
    header = Path(__file__).with_suffix(".yml").read_text(encoding="utf-8")
    text = "\n\n".join([f"---\n{header}---", *map(part, pages)])
    paper.write_text(text, encoding="utf-8")


def links(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Where the entries of a menu lead, in order."""
    for entry in entries:
        yield from links(entry["menu"]) if "menu" in entry else [entry["href"]]


def part(page: Path) -> str:
    """A page's text; in place of its own header stands its title, which links lead to."""

    def heading(header: re.Match[str]) -> str:
        title = yaml.safe_load(header[1]).get("title")
        return f"# {title} {{#{page.stem}}}" if title else ""

    return _HEADER.sub(heading, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_paper(Path(sys.argv[1]))
