"""The reference's pages: an index, one for each room, one for the command line."""

from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from analysis.reference.markdown import Links, code, describe, prose
from analysis.reference.rooms import ROOMS, Entry, Room, entries, modules, package

# Nothing is executed or drawn, but the charts' script also lets code scroll by the keyboard. Code
# is what the reader came for: also in definitions and headings its ground suits either theme, and
# no link's line hides an underscore.
_SETTINGS = """\
engine: markdown
format:
  html:
    number-sections: false
    code-fold: false
    code-tools: false
    toc-depth: 3
    toc-expand: 3
    include-after-body:
      text: <script src="../charts.js"></script>
    include-in-header:
      text: |
        <style>
        :not(pre) > code { background-color: rgba(127, 127, 127, 0.15); }
        a:has(code) { text-underline-offset: 0.3em; }
        </style>"""
_HOW_TO_READ = Path(__file__).with_name("how_to_read.md")
_INDEX, _COMMANDS = "index", "command-line"


def write_reference(folder: Path, commands: typer.Typer) -> list[Path]:
    """Writes the pages whose text has changed, and returns them.

    Args:
        folder: where the pages go.
        commands: the command line that a page of its own is about.
    """
    links = find_links()
    pages = {room.name: room_page(room, links) for room in ROOMS}
    pages |= {_INDEX: index_page(links), _COMMANDS: command_page(commands)}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages.items():
        path = folder / f"{name}.qmd"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def find_links() -> Links:
    """Where each public name is described, by its name and by its whole path.

    A plain word, such as `steps`, may as well be an argument, and leads nowhere.
    """
    places = {}
    for room, entry in entries():
        place = f"{room.name}.qmd#{entry.name}"
        places |= {f"{entry.module}.{entry.name}": place, entry.found.path: place}
        if not (entry.name.isalpha() and entry.name.islower()):
            places[entry.name] = place
        for method in entry.methods():
            places[f"{entry.name}.{method.name}"] = f"{place}.{method.name}"
    return places


def room_page(room: Room, links: Links) -> str:
    """A room's modules, each with its docstring and its public names."""
    parts = [_header(room.title)]
    for module, shown in modules(room).items():
        parts += [f"## `{module}` {{#{module}}}", _about(module, links)]
        parts += [describe(entry, links) for entry in shown]
    return "\n\n".join(parts) + "\n"


def index_page(links: Links) -> str:
    """How to read the reference, and every name in a line."""
    parts = [_header("Reference"), _HOW_TO_READ.read_text(encoding="utf-8").strip()]
    for room in ROOMS:
        parts.append(f"## [{room.title}]({room.name}.qmd)")
        for module, shown in modules(room).items():
            parts.append(f"From `{module}`:")
            parts.append("\n".join(_line(entry, links) for entry in shown))
    parts.append(f"## [Command line]({_COMMANDS}.qmd)")
    return "\n\n".join(parts) + "\n"


def command_page(app: typer.Typer) -> str:
    """What each command says when asked for help."""
    group: Any = get_command(app)
    parts = [_header("Command line"), code(_help(group, "python -m analysis"), "text")]
    for name, command in group.commands.items():
        parts.append(f"## `{name}` {{#{name}}}")
        parts.append(code(_help(command, f"python -m analysis {name}"), "text"))
    return "\n\n".join(parts) + "\n"


def _header(title: str) -> str:
    return f'---\ntitle: "{title}"\n{_SETTINGS}\n---'


def _about(module: str, links: Links) -> str:
    docstring = package()[module.partition(".")[2]].docstring
    return prose(docstring.value, links)


def _line(entry: Entry, links: Links) -> str:
    return f"- [`{entry.name}`]({links[entry.found.path]}): {prose(entry.summary, {})}"


def _help(command: Any, name: str) -> str:
    """Plain text, without the boxes that typer draws in a terminal."""
    command.rich_markup_mode = None
    return command.get_help(command.context_class(command, info_name=name, terminal_width=88))
