"""Plain pages where Quarto is missing: `python report/furniture/preview.py _site`.

nbclient executes cells, pandoc writes pages by `preview.html`, and `preview.lua` does what Quarto's
filters do. `_quarto.yml` has what runs before and after, and what stands around the text. No PDF.
"""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pypandoc
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tqdm import tqdm

_STYLE, _DEFAULTS = (Path(__file__).with_suffix(suffix) for suffix in (".css", ".yaml"))
_FENCE = "`" * 12  # longer than any in a cell or in what it shows
_HEADER = re.compile(r"\A---\n(.*?)^---$", re.M | re.S)
_CELL = re.compile(r"^```\{python\}\n(.*?)^```$", re.M | re.S)
_OPTION = re.compile(r"^#\| ?(.*\n?)", re.M)
_INLINE = re.compile(r"(?<!`)`\{python\}[ \t]+([^`]+)`")
_INCLUDE = re.compile(r"^\{\{< include (\S+) >\}\}$", re.M)
_FIRST = """<!doctype html><html lang="en"><title>Report</title><link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url=report/index.html"></html>"""


def render(site: Path) -> None:
    """Makes the pages of this folder's project; a cell that fails ends it with page and error."""
    project = yaml.safe_load(Path("_quarto.yml").read_text("utf-8"))
    os.environ |= {"QUARTO_PROJECT_OUTPUT_DIR": str(site), "OMP_NUM_THREADS": "1"}
    for command in project["project"].get("pre-render", []):
        subprocess.run(shlex.split(command), check=True)
    notebooks = [read(path, project) for path in sorted(Path("report").rglob("[!_]*.qmd"))]
    notebooks = [notebook for notebook in notebooks if "html" in notebook.metadata.formats]
    asyncio.run(execute(notebooks))
    unread = shutil.ignore_patterns("*.qmd", "*.bib", "furniture")
    shutil.copytree("report", site / "report", ignore=unread, dirs_exist_ok=True)
    shutil.copyfile(_STYLE, site / "report" / _STYLE.name)
    (site / "index.html").write_text(_FIRST, "utf-8")
    for notebook in notebooks:
        arguments = [f"--defaults={_DEFAULTS}", f"--metadata=here:{notebook.metadata.path}"]
        page = pypandoc.convert_text(to_markdown(notebook), "html5", "markdown", arguments)
        path = site / Path(notebook.metadata.path).with_suffix(".html")
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, "utf-8")
    for command in project["project"].get("post-render", []):
        subprocess.run(shlex.split(command), check=True)


def read(path: Path, project: dict) -> NotebookNode:
    """A document; before a text with inline values stands a cell that displays them in turn."""
    text = path.read_text("utf-8")
    text = _INCLUDE.sub(lambda found: (path.parent / found[1]).read_text("utf-8"), text)
    header = _HEADER.match(text)
    own = yaml.safe_load(header[1]) if header else {}
    options = {"path": path.as_posix(), "formats": own.get("format", ["html"]), "echo": True}
    for level in (project, own):
        options |= level.get("format", {}).get("html", {}) | level.get("execute", {})
    cells = []
    for place, part in enumerate(_CELL.split(text)):
        values = "\n".join(f"display({value})" for value in _INLINE.findall(part))
        if place % 2:
            cells.append(new_code_cell(part))
        else:
            cells += [new_code_cell(values, metadata={"inline": True})] * bool(values)
            cells.append(new_markdown_cell(part))
    return new_notebook(cells=cells, metadata=options)


async def execute(notebooks: list[NotebookNode]) -> None:
    """Executes the notebooks in place.

    Most of a page's time is the libraries' import, so a kernel per core takes one after another,
    and forgets the last one's names before the next. Text alone takes no kernel.
    """
    with_code = [notebook for notebook in notebooks if len(notebook.cells) > 1]
    waiting = iter(tqdm(with_code, desc="preview"))

    async def work() -> None:
        kernel = AsyncKernelManager(kernel_name="python3")
        try:
            for notebook in waiting:
                notebook.cells.insert(0, new_code_cell("%reset -f", metadata={"inline": True}))
                client = NotebookClient(notebook, km=kernel, timeout=None)
                try:
                    await client.async_execute(cleanup_kc=False)
                finally:
                    client.kc.stop_channels()
        except CellExecutionError as error:
            list(waiting)  # the other kernels stop after their pages
            raise RuntimeError(f"{notebook.metadata.path}: {error}") from None
        finally:
            await kernel.shutdown_kernel(now=True)

    works = [work() for _ in with_code[: os.cpu_count()]]
    for failure in filter(None, await asyncio.gather(*works, return_exceptions=True)):
        sys.exit(f"preview: {failure}")


def to_markdown(notebook: NotebookNode) -> str:
    """The text with its inline values, and in place of each cell its code and what it shows."""
    parts, values = [], iter(())
    for cell in notebook.cells:
        if cell.metadata.get("inline"):
            values = map(_inline, cell.outputs)
        elif cell.cell_type == "markdown":
            parts.append(_INLINE.sub(lambda _, values=values: next(values), cell.source))
        else:
            parts.append(_shown(cell, notebook.metadata))
    return "\n\n".join(parts)


def _inline(output: NotebookNode) -> str:
    """A value within a line, as Quarto writes it: of a string the text, which is no Markdown."""
    text = output.data.get("text/markdown") or output.data["text/plain"]
    is_string = "text/markdown" not in output.data and text[0] == text[-1] and text[0] in "\"'"
    return re.sub(r"([\\`*_{}\[\]()>#+\-.!])", r"\\\1", text[1:-1]) if is_string else text


def _shown(cell: NotebookNode, options: dict) -> str:
    options = options | (yaml.safe_load("".join(_OPTION.findall(cell.source))) or {})
    fold = " fold=true" * bool(options.get("code-fold"))
    code = f"{_FENCE}{{.python .cell-code{fold}}}\n{_OPTION.sub('', cell.source)}{_FENCE}\n\n"
    shown = "\n\n".join(map(_written, cell.outputs))
    if caption := options.get("fig-cap") or options.get("tbl-cap"):
        shown = f"::: {{#{options['label']}}}\n{shown}\n\n{caption}\n:::"
    return code * options["echo"] + shown


def _written(output: NotebookNode) -> str:
    """The form that a page shows best; warnings and progress are for the terminal."""
    if output.output_type == "stream":
        return f"{_FENCE}\n{output.text}\n{_FENCE}" * (output.name == "stdout")
    if "text/html" in output.data:
        return f"{_FENCE}{{=html}}\n{output.data['text/html']}\n{_FENCE}"
    return output.data.get("text/markdown") or f"{_FENCE}\n{output.data['text/plain']}\n{_FENCE}"


if __name__ == "__main__":
    render(Path(sys.argv[1]))
