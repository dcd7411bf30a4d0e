"""What a caller may choose, checked at the library's edge; a wrong choice gets one sentence."""

import math
from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import Any


def one_of(what: str, value: Any, allowed: Iterable[str], hint: str = "") -> None:
    """Raises a ValueError unless the value is among those allowed."""
    choices = list(allowed)
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"There is no {what} {value!r}: expected one of {expected}{hint}.")


def some_of(what: str, values: Any, allowed: Iterable[str]) -> None:
    """Raises a ValueError unless the values are a tuple or list of those allowed."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{what}s={values!r} was given: expected a tuple, such as ({values!r},).")
    for value in values:
        one_of(what, value, allowed)


def made_by(maker: str, what: str, value: Any, kind: type) -> None:
    """Raises a ValueError unless the value is what the library's function of this name returns."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{what} is of the type {type(value).__name__}: expected what {maker} returns."
        )


def whole(what: str, value: Any, least: int | None = None) -> int:
    """The value as a whole number, of at least so much, or a ValueError."""
    bound = "" if least is None else f" of at least {least}"
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise ValueError(f"{what}={value!r} was given: expected a whole number{bound}.")
    return number


def positive(what: str, value: Any) -> float:
    """The value as a finite number above 0, or a ValueError."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except TypeError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{what}={value!r} was given: expected a number above 0.")
    return number


def folder(what: str, value: Any) -> Path | None:
    """The value as a folder's path; None stays None.

    Raises:
        ValueError: for what is no path, and for the path of a file.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{what}={value!r} was given: expected the name of a folder, or None.")
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{what}={str(value)!r} is a file: name a folder.")
    return path
