"""The reference: a page for each room of the library, written from its docstrings."""

from analysis.reference.pages import write_reference

__all__ = ["write_reference"]
