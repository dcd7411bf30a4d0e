"""From documents to executed notebooks, and from those to Markdown in which the outputs stand."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jupytext
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from tqdm import tqdm

_OPTION = "#| "
_FENCE = "`" * 12  # longer than any that an output has of its own


def read(document: Path) -> NotebookNode:
    """A document as a notebook."""
    notebook = jupytext.reads(document.read_text(encoding="utf-8"), fmt="Rmd")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


async def execute(notebooks: list[NotebookNode], root: Path) -> None:
    """Executes the notebooks in place; cells run in `root`, as Quarto's do.

    Most of a document's time is the libraries' import, so a kernel a core takes one document after
    another, and forgets the last one's names before the next. Each has one thread: more would fight
    over the cores. Text alone takes no kernel.
    """
    with_code = [notebook for notebook in notebooks if _has_code(notebook)]
    waiting = iter(with_code)
    kernels = min(os.cpu_count() or 1, len(with_code))
    with tqdm(total=len(with_code), desc="preview") as bar:
        await asyncio.gather(*(_work_through(waiting, root, bar) for _ in range(kernels)))


def _has_code(notebook: NotebookNode) -> bool:
    return any(cell.cell_type == "code" for cell in notebook.cells)


async def _work_through(waiting: Iterator[NotebookNode], root: Path, bar: tqdm) -> None:
    kernel = AsyncKernelManager(kernel_name="python3")
    resources = {"metadata": {"path": str(root)}}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        for notebook in waiting:
            client = NotebookClient(notebook, km=kernel, timeout=None, resources=resources)
            forget = new_code_cell("%reset -f")
            notebook.cells.insert(0, forget)
            try:
                await client.async_execute(cleanup_kc=False, env=environment)
            finally:
                if client.kc:
                    client.kc.stop_channels()
            notebook.cells.remove(forget)
            bar.update()
    finally:
        await kernel.shutdown_kernel(now=True)


def to_markdown(notebook: NotebookNode) -> str:
    """The text as it stands, and in place of each cell what the cell shows."""
    return "\n\n".join(
        _shown(cell) if cell.cell_type == "code" else cell.source for cell in notebook.cells
    )


def _shown(cell: NotebookNode) -> str:
    """A cell's outputs; with a caption they are what Quarto calls a cross-reference div."""
    outputs = "\n\n".join(_written(output.data) for output in cell.outputs if "data" in output)
    options = _options(cell.source)
    caption = options.get("fig-cap") or options.get("tbl-cap")
    if not (caption and "label" in options):
        return outputs
    return f"::: {{#{options['label']}}}\n{outputs}\n\n{caption}\n:::"


def _options(code: str) -> dict[str, Any]:
    lines = [line for line in code.splitlines() if line.startswith(_OPTION)]
    return yaml.safe_load("\n".join(line.removeprefix(_OPTION) for line in lines)) or {}


def _written(forms: Mapping[str, str]) -> str:
    """The form of an output that a page shows best."""
    if "text/html" in forms:
        return f"{_FENCE}{{=html}}\n{forms['text/html']}\n{_FENCE}"
    if "text/markdown" in forms:
        return forms["text/markdown"]
    return f"{_FENCE}\n{forms['text/plain']}\n{_FENCE}"
