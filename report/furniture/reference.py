"""The reference, by docstrings: `python report/furniture/reference.py report/reference`.

A page per room, with what the room exports. The sources are read by griffe, not imported.
"""

# quartodoc 0.11 would do, did it not take a function for the module of the same name, and show what
# a room exports from its modules only where it may follow every import, torch's too.

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent, indent

import griffe

ROOMS = (
    *("tasks", "models", "metrics", "attribution", "agreement", "interaction", "ablation"),
    *("latent", "mediation", "gates", "studies", "charts"),
)
_ABOUT = Path(__file__).with_suffix(".md")
_HEADER = """\
---
title: "{title}"
order: {order}
engine: markdown
format:
  html:
    number-sections: false
    toc-depth: 3
    include-after-body: {{text: '<script src="../charts.js"></script>'}}
---"""
_ENTRY = "{level} `{name}` {{#{name}}}\n\n```python\n{signature}\n```\n\n{text}"
_KEPT = re.compile(r"(`[^`]*`|(?<![\w*])\*\w[^*]*\w\*(?![\w*]))")  # code and emphasis
_MARKUP = re.compile(r"([\\`*_|<>\[\]{}$^~@#])")

# Where names are described; a plain word may as well be an argument.
Links = Mapping[str, str]


def write_reference(folder: Path) -> None:
    """Writes the pages: how to read them with every name in a line, and one per room."""
    folder.mkdir(parents=True, exist_ok=True)
    library = griffe.load("analysis", search_paths=[*sys.path, "."], docstring_parser="google")
    rooms = {name: library[name] for name in ROOMS if name in library.members}
    names = {name: dict(public(room)) for name, room in rooms.items()}
    found = [(name, f"{room}.qmd#{name}") for room in names for name in names[room]]
    links = {name: link for name, link in found if not name.isalpha() or not name.islower()}
    index = [_HEADER.format(title="Reference", order=0), _ABOUT.read_text("utf-8")]
    for order, (name, room) in enumerate(rooms.items(), 1):
        entries = [describe(it, found, links) for it, found in names[name].items()]
        header = _HEADER.format(title=room.path, order=order)
        about = (_section(section, links) for section in room.docstring.parsed)
        page = "\n\n".join([header, *about, *entries])
        (folder / f"{name}.qmd").write_text(page, encoding="utf-8")
        index.append(f"## [`{room.path}`]({name}.qmd)")
        for it, of in names[name].items():
            summary = " ".join(docstring(of).value.split("\n\n")[0].split())
            index.append(f"- [`{it}`]({name}.qmd#{it}): {prose(summary, {})}")
    (folder / "index.qmd").write_text("\n\n".join(index), encoding="utf-8")


def public(room: griffe.Module) -> Iterator[tuple[str, griffe.Object]]:
    """What a room exports, or else the functions and classes of its modules."""
    for name, member in room.members.items():
        own = not (member.is_alias or name.startswith("_"))
        if name in (room.exports or ()):
            yield name, _resolve(room, name)
        elif own and not room.exports and (member.is_function or member.is_class):
            yield name, member
        elif own and not room.exports and member.is_module:
            yield from public(member)


def _resolve(room: griffe.Module, name: str) -> griffe.Object:
    """What an exported name stands for; it may hide a module of that name."""
    found = room.modules_collection[room.imports.get(name, f"{room.path}.{name}")]
    return found.final_target if isinstance(found, griffe.Alias) else found


def methods(found: griffe.Object) -> Iterator[griffe.Object]:
    """A class's public methods and properties."""
    for name, member in found.members.items() if found.is_class else ():
        is_property = member.is_attribute and "property" in member.labels
        if (member.is_function or is_property) and not name.startswith("_"):
            yield member


def describe(name: str, found: griffe.Object, links: Links) -> str:
    """An entry: signature, docstring, and a class's methods."""
    text = "\n\n".join(_section(section, links) for section in docstring(found).parsed)
    entry = _ENTRY.format(level="##", name=name, signature=signature(found), text=text)
    parts = [
        describe(f"{name}.{it.name}", it, links).replace("##", "###", 1) for it in methods(found)
    ]
    return "\n\n".join([entry, *parts])


def docstring(found: griffe.Object) -> griffe.Docstring:
    """The docstring; an empty one where there is none."""
    return found.docstring or griffe.Docstring("", parent=found)


def signature(found: griffe.Object) -> str:
    """The source up to the docstring: of a class with its fields, of a constant all of it."""
    lines = dedent(found.source).splitlines()
    (node,) = ast.parse("\n".join(lines)).body
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return "\n".join(lines)
    kept = ["@property"] * found.is_attribute + lines[: node.body[0].lineno - 1]
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            kept += lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(kept)


def _section(section: griffe.DocstringSection, links: Links) -> str:
    if section.kind is griffe.DocstringSectionKind.text:
        return prose(section.value, links)
    parts = [f"**{section.kind.value.title()}**"]
    for item in section.value:
        if isinstance(item, tuple):
            is_code = item[0] is griffe.DocstringSectionKind.examples
            parts.append(f"```python\n{item[1]}\n```" if is_code else prose(item[1], {}))
            continue
        term, text = getattr(item, "name", None) or item.annotation, prose(item.description, links)
        parts.append(f"`{term}`\n:   {indent(text, '    ').lstrip()}" if term else text)
    return "\n\n".join(parts)


def prose(text: str, links: Links) -> str:
    """Plain text as Markdown: formulas keep their signs, names lead to their entries."""
    return "\n\n".join(_paragraph(paragraph, links) for paragraph in text.split("\n\n"))


def _paragraph(text: str, links: Links) -> str:
    if all(line.startswith("    ") for line in text.splitlines()):
        return text  # a formula, which Markdown shows as it is
    pieces = _KEPT.split(text)
    pieces[::2] = [_MARKUP.sub(r"\\\1", plain) for plain in pieces[::2]]
    for place, kept in enumerate(pieces):
        if place % 2 and kept.strip("`") in links:
            pieces[place] = f"[{kept}]({links[kept.strip('`')]})"
    return "".join(pieces)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
