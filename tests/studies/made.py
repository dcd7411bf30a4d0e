"""Frames made up by hand. No two of their numbers are equal, so that whatever is swapped shows."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike

from analysis import Scores

REPORT = Path(__file__).parents[2] / "report"


def scores(
    method: str = "AP",
    heads: ArrayLike | None = None,
    neurons: ArrayLike | None = None,
    base: Sequence[float] = (),
    source: Sequence[float] = (),
    **other,
) -> Scores:
    """Scores of IOI, noising, from nested lists (prompt, layer, component) of at least one kind."""
    shape = np.shape(neurons if heads is None else heads)[:2]
    given = {"heads": heads, "neurons": neurons, "base": base, "source": source}
    arrays = {name: np.zeros((*shape, 0)) if of is None else of for name, of in given.items()}
    tensors = {name: torch.tensor(np.asarray(of, np.float32)) for name, of in arrays.items()}
    about = {"method": method, "task": "ioi", "direction": "noising", "baseline": "source"}
    gaps = {"heads_gap": torch.zeros(shape), "neurons_gap": torch.zeros(shape)}
    return Scores(**(about | tensors | gaps | {"prompts": torch.arange(shape[0])} | other))


def table(frame: pl.DataFrame) -> list[tuple]:
    """A table's header and its rows."""
    return [tuple(frame.columns), *frame.rows()]


def random_scores(method: str, seed: int, prompts: int = 12, noise: float = 0.5) -> Scores:
    """Two layers of 6 heads and 15 neurons; what is true of them is the same for every seed."""
    truth, random = np.random.default_rng(99), np.random.default_rng(seed)
    heads, neurons = (
        truth.normal(size=(2, count)) + noise * random.normal(size=(prompts, 2, count))
        for count in (6, 15)
    )
    base = random.normal(size=prompts)
    return scores(method, heads, neurons, base, base + 3 + random.normal(size=prompts))


def cell(page: str, first: str, **names: Any) -> dict[str, Any]:
    """What a page's first cell imports and the cell that has a line with this beginning names.

    The cell runs with `names` in place of what cells above it computed, up to its chart or table.
    """
    text = (REPORT / f"{page}.qmd").read_text()
    cells = re.findall(r"^```\{python\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    imports = "".join(re.findall(r"^(?:from|import) .*?(?:\(\n(?:.*\n)*?\))?$\n", cells[0], re.M))
    (chosen,) = (code for code in cells if re.search(rf"^{re.escape(first)}", code, re.MULTILINE))
    found: dict[str, Any] = {}
    exec(imports, found)
    found |= names
    shown = re.compile(r"^(charts\.|claim\(|badge\()", re.MULTILINE)
    exec(compile(shown.split(chosen)[0], f"a cell of {page}.qmd", "exec"), found)
    return found
