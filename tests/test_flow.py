"""One direction of flow: what a module imports lies in its own room or in one before it.

text -> PromptPairs -> runs -> Scores -> tidy frames -> charts -> pages
"""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [
    "version",
    "choices",
    "checks",
    "ordinary",
    "paths",
    "faults",
    "gguf_files",
    "sources",
    "models",
    "metrics",
    "identity",
    "tasks",
    "forward",
    "components",
    "provenance",
    "scores",
    "sites",
    "sweep",
    "attribution",
    "__init__",
    "agreement",
    "ablation",
    "latent",
    "gates",
    "interaction",
    "mediation",
    "testbed",
    "model_card",
    "bench",
    "studies",
    "charts",
    "cli",
    "__main__",
]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "analysis").rglob("*.py"))
}


def room(module: str) -> str:
    """`analysis.tasks.ioi` is in `tasks`; the package itself, its public names, in `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: name the module in full"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in below]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "analysis")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_to_earlier_rooms(module):
    own = ROOMS.index(room(module))
    for name in imported(MODULES[module]):
        assert name in MODULES, f"{module} imports {name}, which is no module"
        assert room(name) == room(module) or ROOMS.index(room(name)) < own, (
            f"{module} imports {name}, which comes after it"
        )


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({name: set(imported(path)) for name, path in MODULES.items()}).prepare()


def test_no_module_imports_a_page_or_a_test():
    for path in MODULES.values():
        assert not re.search(r"^\s*(from|import) (report|tests)\b", path.read_text(), re.MULTILINE)
