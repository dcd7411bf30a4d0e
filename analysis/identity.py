"""What a function computes, as a hash: its code and all that it refers to, not its name.

A metric of this library goes by its source, which is the same on every version of Python; the
library's methods go by their names, as `ALGORITHM` stands for them. Python, PyTorch and NumPy go by
names too, other installed packages by names and versions.
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
from types import CodeType, EllipsisType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from analysis.metrics import LabelMetric

_HERE = str(Path(__file__).parent)
_METHODS = str(Path(__file__).parent / "attribution")
_PYTHON = sysconfig.get_paths()["stdlib"]
_PACKAGES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
_distributions = cache(packages_distributions)


def identify(value: Any) -> str:
    """A hash that two values share only if they compute the same; an error where none can tell."""
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
        case torch.dtype() | torch.device() | slice() | range():
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
        case ModuleType():
            return _origin(value) or value.__name__
        case CodeType():
            steps = [[step.opname, str(step.arg)] for step in dis.get_instructions(value)]
            return [steps, value.co_names, [_describe(part, above) for part in value.co_consts]]
        case FunctionType():
            return _describe_function(value, above)
        case MethodType():
            parts = value.__func__, value.__self__
        case partial():
            parts = value.func, value.args, value.keywords
        case LabelMetric():
            parts = type(value), value.normalised, value.compares, value.of_columns
        case _ if origin := _named(value):
            return f"{origin}.{value.__qualname__}"
        case type():
            hidden = ("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__")
            members = {name: it for name, it in vars(value).items() if name not in hidden}
            parts = value.__bases__, members
        case _ if hasattr(value, "__dict__"):
            parts = type(value), vars(value)
        case _:
            raise ValueError(
                f"A metric refers to {value!r}, and it can't be told whether another run has the "
                "same: its results can't be kept."
            )
    return [_describe(part, above) for part in parts]


def statements(source: str) -> str:
    """What a source does: without its comments, its docstrings and constants that stand alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _named(value: Any) -> str | None:
    """Where a class or a compiled function comes from that goes by its name."""
    if "<" in getattr(value, "__qualname__", "<"):
        return None
    module = sys.modules.get(getattr(value, "__module__", None) or "builtins")
    return _origin(module) if module else None


def _origin(module: ModuleType) -> str | None:
    """A module's name, with the version where that may decide numbers; None for a user's own."""
    name, file = module.__name__, getattr(module, "__file__", None) or ""
    root = name.partition(".")[0]
    if root == "analysis" or root in sys.builtin_module_names:
        return name
    if not file.startswith((_PYTHON, *_PACKAGES)):
        return None
    if root in ("torch", "numpy") or not file.startswith(_PACKAGES):  # versions are provenance
        return name
    return f"{name} {', '.join(map(version, _distributions().get(root, ())))}"


def _describe_function(function: FunctionType, above: tuple[int, ...]) -> Any:
    """By the file that its code is in: its name can be another function's, as `wraps` copies it."""
    file, name = function.__code__.co_filename, function.__qualname__
    if file.startswith(_METHODS):
        return f"{function.__module__}.{name}"
    if file.startswith(_HERE) and "<" not in name:
        return statements(textwrap.dedent(inspect.getsource(function.__code__)))
    if not file.startswith((_PYTHON, *_PACKAGES)):
        return [_describe(part, above) for part in _read_by(function)]
    if wrapped := getattr(function, "__wrapped__", None):  # by a decorator, such as torch.no_grad
        found = _describe(wrapped, above)
        checks_shapes = "jaxtyping" in Path(file).parts  # while tests run
        return found if checks_shapes else [function.__code__.co_qualname, found]
    module = sys.modules.get(function.__module__)
    return f"{_origin(module) if module else file}.{name}"


def _read_by(function: FunctionType) -> tuple[Any, ...]:
    """Its code, its defaults, the values of names from outside, and those of the user's modules."""
    code, globals_ = function.__code__, function.__globals__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = sorted(_names(code))
    outside = {name: globals_[name] for name in names if name in globals_}
    modules = [it for it in outside.values() if isinstance(it, ModuleType) and not _origin(it)]
    own = [{name: getattr(it, name) for name in names if hasattr(it, name)} for it in modules]
    return code, function.__defaults__, function.__kwdefaults__, cells, outside, own


def _names(code: CodeType) -> set[str]:
    nested = [part for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*(_names(part) for part in nested))
