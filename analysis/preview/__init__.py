"""A plain preview of the report where Quarto is missing, by Jupyter's tools and Quarto's engine.

jupytext reads the documents, nbclient executes them, pandoc writes pages. `page.lua` does what
Quarto's own filters do with captions, cross-references and callouts; there is no PDF.
"""

import asyncio
import shutil
from pathlib import Path

from analysis import charts
from analysis.preview.notebooks import execute, read, to_markdown
from analysis.preview.pages import SCRIPT, STYLE, Website, linked_files


def render(source: Path, site: Path) -> None:
    """Executes every document of `source` and writes its page below `site`.

    A page lies where its document does, and the files that it names are copied along. Documents
    that include others, such as the PDF's, are no pages.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    source = source.resolve()
    documents = [
        path
        for path in sorted(source.rglob("*.qmd"))
        if "{{< include" not in path.read_text("utf-8")
    ]
    notebooks = [read(document) for document in documents]
    asyncio.run(execute(notebooks, source.parent))
    website = Website.of(source.parent, documents)
    for document, notebook in zip(documents, notebooks, strict=True):
        text = website.page(document, to_markdown(notebook))
        _write(text, site / website.place(document))
        for file in linked_files(text, document.parent, source):
            _copy(file, site / file.relative_to(source.parent))
    charts.write_script(site / source.name / SCRIPT)
    _copy(STYLE, site / source.name / STYLE.name)
    _lead_to(f"{source.name}/index.html", site)


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def _lead_to(target: str, site: Path) -> None:
    _write(
        f'<!doctype html><html lang="en"><meta http-equiv="refresh" content="0; url={target}">'
        '<link rel="icon" href="data:,"><title>Report</title>'
        f'<a href="{target}">The report</a></html>',
        site / "index.html",
    )
