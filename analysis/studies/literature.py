"""Figures that others published of GPT-2 small: `data/literature/*.csv`, nothing computed here.

- `correlations`: r of IG with AP over 100 prompts per task, as the original study reports it (mean
  and standard deviation of a signed r, neurons and heads); and from the head scores of every prompt
  in its repository the mean |r| (`absolute`) and on how many prompts the denominator of AP is
  negative (`flips`).
- `readings`: the same prompts' mean clean metric, read at the end of the padding (`wrong`) and at
  the last token (`right`), and how many of the 100 end in padding. Greater-than's prompts have one
  length, and were not recomputed.
- `metrics`: the mean metric on the data sets of Hanna et al. (2024), from the same repository.
  IOI's corrupted prompts name a third person there.
- `heads`: the heads of known circuits, of Wang et al. (2023) for IOI and of Hanna et al. (2023) for
  greater-than, as the code of Conmy et al. (2023) lists them.
"""

import polars as pl

from analysis import paths


def literature(name: str) -> pl.DataFrame:
    """The published figures of this name.

    Examples:
        >>> from analysis.studies.literature import literature
        >>> literature("metrics").columns
        ['task', 'clean', 'corrupted']
        >>> literature("heads").filter(role="negative name movers").select("layer", "head").rows()
        [(10, 7), (11, 10)]
    """
    return pl.read_csv(paths.LITERATURE / f"{name}.csv")
