"""What a function computes, as a hash: its code and all that it refers to, not its name.

Two metrics of one name are two metrics; one that reads another number from its surroundings is
another one. A metric of this library goes by its source, which is the same on every version of
Python; the library's methods go by their names, as `ALGORITHM` stands for them. Python, PyTorch and
NumPy go by names too, other installed packages by names and versions.
"""

import ast
import dis
import inspect
import json
import sys
import sysconfig
import textwrap
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import (
    CodeType,
    EllipsisType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch

from analysis.metrics import LabelMetric

_HERE = str(Path(__file__).parent)
_METHODS = str(Path(__file__).parent / "attribution")
_PYTHON = sysconfig.get_paths()["stdlib"]
_PACKAGES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
_CHECKING = tuple(str(Path(folder) / "jaxtyping") for folder in _PACKAGES)  # in tests, of shapes
_LAST_BITS = ("torch", "numpy")  # whose versions are provenance


def identify(value: Any) -> str:
    """A hash that two values share only if they compute the same.

    Raises:
        ValueError: for a value of which this can't be told.

    Examples:
        >>> from analysis.identity import identify
        >>> def scaled(by):
        ...     return lambda logits, labels: by * logits.mean(dim=-1)
        >>> identify(scaled(2)) == identify(scaled(2)), identify(scaled(2)) == identify(scaled(3))
        (True, False)
    """
    return hash_of(_describe(value, ()))


def hash_of(facts: Any) -> str:
    """A short hash of what JSON can say."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    """In words that JSON has; `above` are the values that this one is a part of."""
    if id(value) in above:
        return ["above", above.index(id(value))]
    above = (*above, id(value))
    match value:
        case None | bool() | int() | float() | complex() | str() | EllipsisType():
            return repr(value)
        case bytes():
            return value.hex()
        case torch.Tensor():
            return ["tensor", _describe(value.detach().cpu().numpy(), above)]
        case np.ndarray() | np.generic():
            return [str(value.dtype), list(value.shape), sha256(value.tobytes()).hexdigest()]
        case tuple() | list():
            return [type(value).__name__, *(_describe(part, above) for part in value)]
        case set() | frozenset():
            return sorted(json.dumps(_describe(part, above)) for part in value)
        case dict():
            return [[_describe(part, above) for part in pair] for pair in value.items()]
        case torch.dtype() | torch.device() | slice() | range():
            return repr(value)
        case ModuleType():
            return _origin(value) or value.__name__
        case CodeType():
            return _describe_code(value, above)
        case MethodType():
            return [_describe(part, above) for part in (value.__func__, value.__self__)]
        case partial():
            return [_describe(part, above) for part in (value.func, value.args, value.keywords)]
        case LabelMetric():
            parts = (type(value), value.normalised, value.compares, value.of_columns)
            return [_describe(part, above) for part in parts]
        case FunctionType():
            return _describe_function(value, above)
    if origin := _named(value):
        return f"{origin}.{value.__qualname__}"
    if isinstance(value, type):
        return [_describe(part, above) for part in (value.__bases__, _members(value))]
    if hasattr(value, "__dict__"):
        return [_describe(part, above) for part in (type(value), vars(value))]
    raise ValueError(
        f"A metric refers to {value!r}, and it can't be told whether another run has the same: its "
        "results can't be kept."
    )


def statements(source: str) -> str:
    """What a source does, without what it says of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_docstring(statement: ast.stmt) -> bool:
    """A constant that stands alone, also below what it describes."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _named(value: Any) -> str | None:
    """Where a class or a compiled function comes from that goes by its name."""
    if not hasattr(value, "__qualname__") or "<" in value.__qualname__:
        return None
    module = sys.modules.get(getattr(value, "__module__", None) or "builtins")
    return _origin(module) if module else None


def _origin(module: ModuleType) -> str | None:
    """A module's name, with the version where that may decide numbers; None for a user's own."""
    root, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if root == "analysis" or root in sys.builtin_module_names:
        return module.__name__
    if file is None or not file.startswith((_PYTHON, *_PACKAGES)):
        return None
    if root in _LAST_BITS or not file.startswith(_PACKAGES):
        return module.__name__
    return f"{module.__name__} {_version(root)}"


@cache
def _version(root: str) -> str:
    return ", ".join(version(name) for name in packages_distributions().get(root, ()))


def _describe_function(function: FunctionType, above: tuple[int, ...]) -> Any:
    """By the file that its code is in: its name can be another function's, as `wraps` copies it."""
    file = function.__code__.co_filename
    if file.startswith(_METHODS):
        return f"{function.__module__}.{function.__qualname__}"
    if file.startswith(_HERE) and "<" not in function.__qualname__:
        return statements(textwrap.dedent(inspect.getsource(function.__code__)))
    if not file.startswith((_PYTHON, *_PACKAGES)):
        return _describe_own(function, above)
    if wrapped := getattr(function, "__wrapped__", None):  # by a decorator, such as torch.no_grad
        found = _describe(wrapped, above)
        return found if file.startswith(_CHECKING) else [function.__code__.co_qualname, found]
    module = sys.modules.get(function.__module__)
    return f"{_origin(module) if module else file}.{function.__qualname__}"


def _describe_own(function: FunctionType, above: tuple[int, ...]) -> Any:
    """Its code, its defaults, and the values of the names that it reads from outside."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = sorted(_names(function.__code__))
    outside = {name: function.__globals__[name] for name in names if name in function.__globals__}
    # What it may read of a module of the user's.
    own = [
        {name: getattr(module, name) for name in names if hasattr(module, name)}
        for module in outside.values()
        if isinstance(module, ModuleType) and not _origin(module)
    ]
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, outside)
    return [_describe(part, above) for part in (*parts, own)]


def _describe_code(code: CodeType, above: tuple[int, ...]) -> Any:
    """Its instructions and constants, without lines and files."""
    instructions = [[step.opname, str(step.arg)] for step in dis.get_instructions(code)]
    return [instructions, code.co_names, [_describe(part, above) for part in code.co_consts]]


def _names(code: CodeType) -> set[str]:
    nested = [part for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*(_names(part) for part in nested))


def _members(kind: type) -> dict[str, Any]:
    hidden = ("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__")
    return {name: value for name, value in vars(kind).items() if name not in hidden}
