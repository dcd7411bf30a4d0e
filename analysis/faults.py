"""What other libraries raise, in one sentence of ours."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explained(fault: str, why: bool = True) -> Iterator[None]:
    """Whatever another library raises is this fault, and `why` the first line of what it said."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        raise ValueError(f"{fault}: {said}" if why else fault) from error
