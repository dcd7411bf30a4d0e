"""A plain preview of the report where Quarto is missing, by Jupyter's own tools.

jupytext reads the documents, nbclient executes them, nbconvert writes pages. Whatever is Quarto's
own (cross-references, figure captions, the PDF) is not in the preview.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from tqdm import tqdm

from analysis import charts

_SCRIPT = "charts.js"


def render(source: Path, site: Path) -> None:
    """Executes every document of `source` and writes its page below `site`.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    root = source.resolve().parent
    documents = [
        path for path in sorted(source.glob("*.qmd")) if "{{< include" not in path.read_text()
    ]
    pages = site / source.name
    charts.write_script(pages / _SCRIPT)
    notebooks = [read(document) for document in documents]
    asyncio.run(_execute(notebooks, root))
    for document, notebook in zip(documents, notebooks, strict=True):
        page = pages / f"{document.stem}.html"
        page.write_text(_to_html(notebook), encoding="utf-8")
    target = f"{source.name}/index.html"
    (site / "index.html").write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={target}">'
        f'<title>Report</title><a href="{target}">The report</a>',
        encoding="utf-8",
    )


def read(document: Path) -> NotebookNode:
    """A document as a notebook."""
    notebook = jupytext.reads(document.read_text(encoding="utf-8"), fmt="Rmd")
    notebook.metadata["title"] = document.stem
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


async def _execute(notebooks: list[NotebookNode], root: Path) -> None:
    """Executes the notebooks in place; cells run in `root`, as Quarto's do.

    Most of a document's time is the libraries' import, so a kernel a core takes one document after
    another, and forgets the last one's names before the next.
    """
    waiting = iter(notebooks)
    kernels = min(os.cpu_count() or 1, len(notebooks))
    with tqdm(total=len(notebooks), desc="preview") as bar:
        await asyncio.gather(*(_work_through(waiting, root, bar) for _ in range(kernels)))


async def _work_through(waiting: Iterator[NotebookNode], root: Path, bar: tqdm) -> None:
    kernel = AsyncKernelManager(kernel_name="python3")
    resources = {"metadata": {"path": str(root)}}
    try:
        for notebook in waiting:
            client = NotebookClient(notebook, km=kernel, timeout=None, resources=resources)
            forget = new_code_cell("%reset -f")
            notebook.cells.insert(0, forget)
            try:
                await client.async_execute(cleanup_kc=False)
            finally:
                if client.kc:
                    client.kc.stop_channels()
            notebook.cells.remove(forget)
            bar.update()
    finally:
        await kernel.shutdown_kernel(now=True)


def _to_html(notebook: NotebookNode) -> str:
    """Outputs without their code; links lead to pages."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    page, _ = exporter.from_notebook_node(cast(NotebookNode, nbformat.from_dict(notebook)))
    page = page.replace('.qmd"', '.html"')
    return page.replace("</body>", f'<script src="{_SCRIPT}"></script></body>')
