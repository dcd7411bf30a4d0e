"""The library's version, and its numbers', each stated once."""

__version__ = "2.0.0"

# Part of what kept results depend on. To be raised whenever the same model, prompts and settings
# give other numbers than before; `tests/test_algorithm.py` holds some of them.
ALGORITHM = 2
