"""What a function computes, as a hash: its code and all that it refers to, not its name.

Two metrics of one name are two metrics; one that reads another number from its surroundings is
another one. The library's functions, and other libraries', go by their names: `ALGORITHM` and what
is kept of versions stand for them.
"""

import dis
import json
import sys
import sysconfig
from functools import partial
from hashlib import sha256
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_HERE = "analysis."


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
            return value.__name__
        case CodeType():
            return _describe_code(value, above)
        case MethodType():
            return [_describe(part, above) for part in (value.__func__, value.__self__)]
        case partial():
            return [_describe(part, above) for part in (value.func, value.args, value.keywords)]
    if _goes_by_name(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, FunctionType):
        return _describe_function(value, above)
    if isinstance(value, type):
        return [_describe(part, above) for part in (value.__bases__, _members(value))]
    if hasattr(value, "__dict__"):
        return [_describe(part, above) for part in (type(value), vars(value))]
    raise ValueError(
        f"A metric refers to {value!r}, and it can't be told whether another run has the same: its "
        "results can't be kept."
    )


def _goes_by_name(value: Any) -> bool:
    """A function or class of this library or an installed one, at the top of its module."""
    if not hasattr(value, "__qualname__") or "<" in value.__qualname__:
        return False
    if isinstance(value, BuiltinFunctionType) or not hasattr(value, "__module__"):
        return True
    if str(value.__module__).startswith(_HERE):
        return True
    return _file_of(value).startswith(_INSTALLED)


def _file_of(value: Any) -> str:
    if isinstance(value, FunctionType):
        return value.__code__.co_filename
    module = sys.modules.get(value.__module__)
    return getattr(module, "__file__", None) or _INSTALLED[0]  # a module without a file is built in


def _describe_function(function: FunctionType, above: tuple[int, ...]) -> Any:
    """Its code, its defaults, and the values of the names that it reads from outside."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    outside = {
        name: function.__globals__[name]
        for name in sorted(_names(function.__code__))
        if name in function.__globals__
    }
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, outside)
    return [_describe(part, above) for part in parts]


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
