"""From Markdown to pages, by pandoc: what is around the text, and where its links lead."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pypandoc
import yaml

SCRIPT = "charts.js"
STYLE = Path(__file__).with_name("page.css")
_TEMPLATE = Path(__file__).with_name("page.html")
_FILTER = Path(__file__).with_name("page.lua")
_SHORTCODE = re.compile(r"\{\{<.*?>\}\}", re.DOTALL)


@dataclass(frozen=True)
class Website:
    """What every page has around its text, by the project's `_quarto.yml`."""

    root: Path
    places: frozenset[str]  # of all documents, from the root
    settings: dict[str, Any]

    @classmethod
    def of(cls, root: Path, documents: list[Path]) -> "Website":
        """The website of a project; without a `_quarto.yml` pages have no navigation."""
        project = root / "_quarto.yml"
        settings = yaml.safe_load(project.read_text(encoding="utf-8")) if project.exists() else {}
        places = (document.relative_to(root).as_posix() for document in documents)
        return cls(root, frozenset(places), settings)

    def place(self, document: Path) -> Path:
        """Where a document's page lies, from the site's top."""
        return document.relative_to(self.root).with_suffix(".html")

    def page(self, document: Path, markdown: str) -> str:
        """The page of a document, as HTML."""
        folder = self.place(document).parent
        top = os.path.relpath(folder.parts[0], folder)
        variables = {
            "site": self._website.get("title"),
            "navigation": self._navigation(document),
            "style": f"{top}/{STYLE.name}".removeprefix("./"),
            "script": 'class="chart"' in markdown and f"{top}/{SCRIPT}".removeprefix("./"),
        }
        return pypandoc.convert_text(
            _SHORTCODE.sub("", markdown),
            "html5",
            format="markdown",
            extra_args=[
                "--standalone",
                f"--template={_TEMPLATE}",
                f"--lua-filter={_FILTER}",
                *self._citations(),
                "--mathml",
                "--wrap=none",
                "--toc",
                *(f"--variable-json={name}:{json.dumps(it)}" for name, it in variables.items()),
            ],
        )

    @property
    def _website(self) -> dict[str, Any]:
        return self.settings.get("website", {})

    def _citations(self) -> list[str]:
        if "bibliography" not in self.settings:
            return []
        bibliography = self.root / self.settings["bibliography"]
        return ["--citeproc", f"--bibliography={bibliography}", "--metadata=link-citations"]

    def _navigation(self, document: Path) -> list[dict[str, Any]]:
        bar = self._website.get("navbar", {})
        return self._entries([*bar.get("left", []), *bar.get("right", [])], self.place(document))

    def _entries(self, entries: list[dict[str, Any]], here: Path) -> list[dict[str, Any]]:
        """The entries that lead somewhere in a preview, with their addresses from a page."""
        made = []
        for entry in entries:
            if "menu" in entry:
                menu = self._entries(entry["menu"], here)
                made.append({"text": entry["text"], "menu": menu})
            elif entry.get("href") in self.places:
                page = Path(entry["href"]).with_suffix(".html")
                address = Path(os.path.relpath(page, here.parent)).as_posix()
                made.append({"text": entry["text"], "href": address, "current": page == here})
        return made


def linked_files(page: str, folder: Path, source: Path) -> Iterator[Path]:
    """The files below `source` that the page of a document in `folder` names."""
    for address in _addresses(page):
        file = (folder / unquote(address.partition("#")[0])).resolve()
        if file.is_file() and file.is_relative_to(source):
            yield file


def _addresses(page: str) -> set[str]:
    """What the page's links lead to and what its images show."""
    found = set()

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update(value for name, value in attrs if name in ("href", "src") and value)

    Links().feed(page)
    return found
