"""Networks whose answer is known: a gate of two inputs, one of them the scored component.

The clean run has both inputs on, the corrupted run both off, and the metric is the gate's output.
Where the other input bypasses the scored component's layer, it stays as the base run has it, and
IG meets the gate where AP does. Where both inputs are in one layer, the layer-joint path moves them
together from the one run to the other, along the same points in both directions: IG only changes
its sign, so it is never latent, whatever the gate.
"""

from collections.abc import Callable

import polars as pl
import torch
from torch import Tensor

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.parts import DIRECTIONS, Site
from analysis.attribution.quadrature import quadrature
from analysis.latent import latent_components

# Linear in each input: the smooth functions that a gate's four corners determine.
GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AND": lambda a, b: a * b,
    "OR": lambda a, b: a + b - a * b,
    "XOR": lambda a, b: a + b - 2 * a * b,
}
ARRANGEMENTS = ("across layers", "one layer")
# Along the path a gate's gradient is linear, and one midpoint is exact.
_PATH = quadrature("midpoint", 1)


def closed_form_site(
    function: Callable[[Tensor], Tensor], base: list[float], source: list[float]
) -> Site:
    """A layer of scalar components on one prompt at one position; they write to own dimensions.

    `function` maps what they write, (..., component), to the metric (...).

    Examples:
        >>> from analysis.attribution.activation_patching import patch_each
        >>> from analysis.attribution.integrated_gradients import integrate_jointly
        >>> from analysis.attribution.quadrature import quadrature
        >>> from analysis.gates import closed_form_site

        m = a²b between (0, 0) and (1, 1): each alone does nothing, and IG gives ⅔ and ⅓.

        >>> site = closed_form_site(
        ...     lambda a: a[..., 0] ** 2 * a[..., 1], [0.0, 0.0], [1.0, 1.0]
        ... )
        >>> patch_each(site).tolist()
        [[0.0, 0.0]]
        >>> integrate_jointly(site, *quadrature("gauss-legendre", 2)).round(decimals=3).tolist()
        [[0.667, 0.333]]
    """
    start, end = (torch.tensor([values], dtype=torch.float64) for values in (base, source))
    return Site(
        kind="neurons",
        layer=0,
        difference=(end - start)[:, None, :, None],
        writes=torch.eye(len(base), dtype=torch.float64).unsqueeze(1),
        base=function(start),
        resume=lambda change: function(start + change.squeeze(-2)),
        batch=2,
        gradient_batch=2,
    )


def gate_site(gate: str, arrangement: str, direction: str) -> Site:
    """The layer of the scored component, which is the first in it.

    Examples:
        >>> from analysis.attribution.activation_patching import patch_each
        >>> from analysis.gates import gate_site
        >>> for direction in ("noising", "denoising"):
        ...     print(
        ...         direction, patch_each(gate_site("AND", "across layers", direction)).tolist()
        ...     )
        noising [[-1.0]]
        denoising [[0.0]]
    """
    base, source = (1.0, 0.0) if direction == "noising" else (0.0, 1.0)
    output = GATES[gate]
    if arrangement == "one layer":
        return closed_form_site(lambda a: output(a[..., 0], a[..., 1]), [base] * 2, [source] * 2)
    other = torch.tensor(base, dtype=torch.float64)
    return closed_form_site(lambda a: output(a[..., 0], other), [base], [source])


def gate_scores() -> pl.DataFrame:
    """A row a gate and arrangement: the scored component's IG and AP, and whether it is latent.

    Every component that does not score 0 is highlighted.

    Examples:
        >>> from analysis.gates import gate_scores
        >>> gates = gate_scores()
        >>> print(gates.select("gate", "arrangement", "latent by IG", "latent by AP"))
        shape: (6, 4)
        ┌──────┬───────────────┬──────────────┬──────────────┐
        │ gate ┆ arrangement   ┆ latent by IG ┆ latent by AP │
        │ ---  ┆ ---           ┆ ---          ┆ ---          │
        │ str  ┆ str           ┆ bool         ┆ bool         │
        ╞══════╪═══════════════╪══════════════╪══════════════╡
        │ AND  ┆ across layers ┆ true         ┆ true         │
        │ OR   ┆ across layers ┆ true         ┆ true         │
        │ XOR  ┆ across layers ┆ false        ┆ false        │
        │ AND  ┆ one layer     ┆ false        ┆ true         │
        │ OR   ┆ one layer     ┆ false        ┆ true         │
        │ XOR  ┆ one layer     ┆ false        ┆ false        │
        └──────┴───────────────┴──────────────┴──────────────┘
    """
    return pl.DataFrame([_row(gate, arrangement) for arrangement in ARRANGEMENTS for gate in GATES])


def _row(gate: str, arrangement: str) -> dict[str, str | float | bool]:
    row: dict[str, str | float | bool] = {"gate": gate, "arrangement": arrangement}
    latent: dict[str, bool] = {}
    sites = [gate_site(gate, arrangement, direction) for direction in DIRECTIONS]
    methods = {"IG": lambda site: integrate_jointly(site, *_PATH), "AP": patch_each}
    for name, method in methods.items():
        scores = [method(site) for site in sites]
        for direction, values in zip(DIRECTIONS, scores, strict=True):
            row[f"{name} {direction}"] = float(values[0, 0])
        latent[f"latent by {name}"] = bool(latent_components(*scores, fraction=1.0)[0, 0])
    return row | latent
