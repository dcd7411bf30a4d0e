"""Figures that others published of GPT-2 small: `data/literature/`, whose README says which.

Examples:
    >>> from analysis.studies.literature import literature
    >>> literature("heads").filter(role="negative name movers").select("layer", "head").rows()
    [(10, 7), (11, 10)]
"""

import polars as pl

from analysis import paths


def literature(name: str) -> pl.DataFrame:
    """The published figures of this name."""
    return pl.read_csv(paths.LITERATURE / f"{name}.csv")
