"""Frames made up by hand. No two of their numbers are equal, so that whatever is swapped shows."""

import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike

from analysis import Scores

REPORT = Path(__file__).parents[2] / "report"
BELOW, ABOVE = 0.03, 0.02


def estimate(mean: float) -> dict[str, float]:
    """The columns of an estimate whose interval reaches further down than up."""
    return {"mean": mean, "sd": 7 + mean, "low": mean - BELOW, "high": mean + ABOVE}


def shown(mean: float) -> str:
    """What a page shows of it."""
    text = f"{mean:.2f} [{mean - BELOW:.2f}, {mean + ABOVE:.2f}]"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def plain(text: str) -> str:
    """A sentence with spaces that are easily typed."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def every(digits: dict[str, dict[str, float]]) -> list[dict]:
    """A row for each choice of names; its mean is the sum of their numbers.

    With a digit for each column a mean says which row it is from.
    """
    return [
        dict(zip(digits, names, strict=True)) | estimate(code(digits, names))
        for names in product(*digits.values())
    ]


def code(digits: dict[str, dict[str, float]], names: Iterable[str]) -> float:
    """The mean of the row with these names."""
    return sum(of[name] for of, name in zip(digits.values(), names, strict=True))


def signs(pattern: str) -> list[dict[str, float]]:
    """Estimates above zero, below it and around it, for `+`, `-` and `0`; no two are equal."""
    ends = {"+": (0.1, 0.3), "-": (-0.9, -0.6), "0": (-0.5, 0.2)}
    return [
        {"mean": ends[sign][0] + 0.1 + place / 100, "sd": 7.0 + place}
        | {"low": ends[sign][0] + place / 100, "high": ends[sign][1] + place / 100}
        for place, sign in enumerate(pattern)
    ]


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
