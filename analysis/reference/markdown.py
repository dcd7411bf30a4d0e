"""One name of the library as Markdown: signature, prose, arguments, example and source."""

import ast
import re
from collections.abc import Mapping
from doctest import DocTestParser, Example
from textwrap import dedent, indent

import griffe

from analysis.reference.rooms import Entry

# What stays as it is written: code, and emphasis.
_KEPT = re.compile(r"(`[^`]*`|(?<![\w*])\*\w[^*]*\w\*(?![\w*]))")
_MARKUP = re.compile(r"([\\`*_|<>\[\]{}$^~@#])")
_TITLES = {
    griffe.DocstringSectionKind.parameters: "Arguments",
    griffe.DocstringSectionKind.attributes: "Attributes",
    griffe.DocstringSectionKind.raises: "Raises",
    griffe.DocstringSectionKind.returns: "Returns",
}
_SHOWN = {*_TITLES, griffe.DocstringSectionKind.text, griffe.DocstringSectionKind.examples}

# The page and anchor of each public name.
Links = Mapping[str, str]


def describe(entry: Entry, links: Links) -> str:
    """Everything about a name, under a heading with its anchor."""
    parts = [
        f"### `{entry.name}` {{#{entry.name}}}",
        code(signature(entry.found)),
        sections(entry.docstring, links),
    ]
    for method in entry.methods():
        parts.append(f"#### `{entry.name}.{method.name}` {{#{entry.name}.{method.name}}}")
        parts.append(code(signature(method)))
        if method.docstring:
            parts.append(sections(method.docstring, links))
    if not entry.found.is_attribute:
        parts.append(_folded_source(entry.found))
    return "\n\n".join(parts)


def signature(found: griffe.Object) -> str:
    """The source up to the docstring: of a class with its fields, of a constant all of it."""
    lines = dedent(found.source).splitlines()
    (node,) = ast.parse("\n".join(lines)).body
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return "\n".join(lines)
    kept = ["@property"] if found.is_attribute else []
    kept += lines[: node.body[0].lineno - 1]
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            kept += lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(kept)


def sections(docstring: griffe.Docstring, links: Links) -> str:
    """A docstring's sections."""
    unknown = {section.kind for section in docstring.parsed} - _SHOWN
    if unknown:
        kinds = ", ".join(kind.value for kind in unknown)
        place = docstring.parent.path if docstring.parent else "a docstring"
        raise ValueError(f"{place} has a section that the reference has no place for: {kinds}.")
    return "\n\n".join(_section(section, links) for section in docstring.parsed)


def prose(text: str, links: Links) -> str:
    """Plain text as Markdown: formulas keep their signs, names lead to their entries."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph if _is_formula(paragraph) else _escape(paragraph, links)
        for paragraph in paragraphs
    )


def code(text: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def _is_formula(paragraph: str) -> bool:
    """Four blanks before every line, which Markdown shows as they are."""
    return all(line.startswith("    ") for line in paragraph.splitlines())


def _escape(text: str, links: Links) -> str:
    pieces = _KEPT.split(text)
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            pieces[place] = _MARKUP.sub(r"\\\1", piece)
        elif piece.strip("`") in links:
            pieces[place] = f"[{piece}]({links[piece.strip('`')]})"
    return "".join(pieces)


def _section(section: griffe.DocstringSection, links: Links) -> str:
    if section.kind is griffe.DocstringSectionKind.text:
        return prose(section.value, links)
    if section.kind is griffe.DocstringSectionKind.examples:
        return "\n\n".join(["**Example**", *(_examples(text) for _, text in section.value)])
    items = "\n\n".join(_item(item, links) for item in section.value)
    return f"**{_TITLES[section.kind]}**\n\n{items}"


def _item(item: griffe.DocstringElement, links: Links) -> str:
    """An entry of a definition list; what is returned has no name."""
    text = prose(item.description, links)
    term = getattr(item, "name", None) or item.annotation
    if not term:
        return text
    return f"`{term}`\n:   {indent(text, '    ').lstrip()}"


def _examples(text: str) -> str:
    """Code as one would copy it, and below it what it prints."""
    blocks, pending = [], ""
    for piece in DocTestParser().parse(text):
        if isinstance(piece, Example):
            pending += piece.source
            if piece.want:
                blocks += [code(pending.rstrip()), _printed(piece.want)]
                pending = ""
        elif piece.strip():
            blocks += [code(pending.rstrip())] if pending else []
            blocks.append(_escape(piece.strip(), {}))
            pending = ""
    blocks += [code(pending.rstrip())] if pending else []
    return "\n\n".join(blocks)


def _printed(want: str) -> str:
    lines = want.rstrip().replace("<BLANKLINE>", "")
    return f"::: {{.cell-output .cell-output-stdout}}\n{code(lines, 'text')}\n:::"


def _folded_source(found: griffe.Object) -> str:
    path = found.relative_package_filepath
    return (
        f'::: {{.callout-note collapse="true" title="Source: `{path}`"}}\n'
        f"{code(_without_docstring(dedent(found.source)))}\n:::"
    )


def _without_docstring(source: str) -> str:
    """The reader has just read the docstring."""
    (node,) = ast.parse(source).body
    lines = source.splitlines()
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        rest = lines[node.body[0].end_lineno :]
        rest = rest[1:] if rest and not rest[0] else rest
        lines = lines[: node.body[0].lineno - 1] + rest
    return "\n".join(lines)
