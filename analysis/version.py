"""The library's version, stated once: part of what kept results depend on."""

__version__ = "1.0.0"
