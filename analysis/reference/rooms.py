"""What the reference shows: the library's rooms in the order in which data flow, and their names.

The sources are read, not imported: nothing is run to document it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import griffe


@dataclass(frozen=True)
class Room:
    """A page: modules of the library, or single names of one."""

    name: str
    title: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A public name: where it is imported from, and griffe's object with its docstring."""

    name: str
    module: str
    found: griffe.Object

    @property
    def docstring(self) -> griffe.Docstring:
        """The docstring; an empty one where there is none."""
        return self.found.docstring or griffe.Docstring("", parent=self.found)

    @property
    def summary(self) -> str:
        """The docstring's first sentence or paragraph, in one line."""
        return " ".join(self.docstring.value.split("\n\n")[0].split())

    def methods(self) -> list[griffe.Object]:
        """A class's public methods and properties, in the source's order."""
        if not self.found.is_class:
            return []
        own = [cast(griffe.Object, member) for member in self.found.members.values()]
        return [member for member in own if member.lineno and _is_method(member)]


ROOMS = (
    Room("tasks", "Tasks", ("tasks", "tasks.pairs.build_pairs", "tasks.csv_import")),
    Room("models", "Models", ("models",)),
    Room("metrics", "Metrics", ("metrics",)),
    Room("attribution", "Attribution", ("attribution", "attribution.quadrature")),
    Room("agreement", "Agreement", ("agreement",)),
    Room("consequences", "Consequences", ("ablation", "latent", "gates")),
    Room("mediation", "Mediation", ("mediation",)),
    Room(
        "studies",
        "Studies",
        (
            "studies",
            "studies.everything",
            "studies.answer",
            "studies.aligned_baselines",
            "studies.examples",
            "studies.across_models",
            "studies.baselines",
            "studies.steps",
            "studies.consequences",
            "studies.circuits",
            "studies.head_to_head",
            "studies.latent_question",
            "studies.name_readers",
            "studies.original",
            "studies.reproduction",
            "studies.facts",
            "studies.performance.Performance",
            "studies.performance.growth",
            "studies.comparison.mean_scores",
            "studies.comparison.agreement",
            "studies.comparison.per_prompt",
            "studies.cache.cached_scores",
            "studies.cache.cached_frame",
            "identity.identify",
            "provenance.Provenance",
        ),
    ),
    Room("charts", "Charts", ("charts",)),
)


@cache
def package() -> griffe.Object:
    """The library as griffe reads it."""
    root = Path(__file__).parents[2]
    options = {"returns_named_value": False, "returns_multiple_items": False}
    found = griffe.load(
        "analysis",
        search_paths=[root],
        docstring_parser="google",
        docstring_options=options,  # pyright: ignore[reportArgumentType]
        allow_inspection=False,
    )
    return cast(griffe.Object, found)


def modules(room: Room) -> dict[str, list[Entry]]:
    """A room's public names by the module that they are imported from."""
    found: dict[str, list[Entry]] = {}
    for part in room.parts:
        thing = _resolve(package()[part])
        module = thing if thing.is_module else _resolve(package()[part.rpartition(".")[0]])
        names = _public(module) if thing.is_module else [thing.name]
        entries = [Entry(name, module.path, _find(module, name)) for name in names]
        found.setdefault(module.path, []).extend(entries)
    return found


def entries() -> Iterator[tuple[Room, Entry]]:
    """Every public name with its room."""
    for room in ROOMS:
        for shown in modules(room).values():
            for entry in shown:
                yield room, entry


def _public(module: griffe.Object) -> list[str]:
    """What a module exports.

    Without `__all__`, the function of the module's own name and the class that it returns, else
    all its functions and classes.
    """
    if module.exports:
        return [str(name) for name in module.exports]
    own = [
        name
        for name, member in module.members.items()
        if not (name.startswith("_") or member.is_alias) and (member.is_function or member.is_class)
    ]
    if module.name not in own:
        return own
    returned = str(cast(griffe.Function, module[module.name]).returns)
    return [name for name in own if name in (module.name, returned)]


def _find(module: griffe.Object, name: str) -> griffe.Object:
    """What a module's name stands for; a function hides the module that it is in."""
    found = _resolve(module[name])
    return _resolve(found[name]) if found.is_module else found


def _resolve(thing: griffe.Object | griffe.Alias) -> griffe.Object:
    return cast(griffe.Object, thing.final_target if isinstance(thing, griffe.Alias) else thing)


def _is_method(member: griffe.Object) -> bool:
    is_property = member.is_attribute and "property" in member.labels
    return (member.is_function or is_property) and not member.name.startswith("_")
