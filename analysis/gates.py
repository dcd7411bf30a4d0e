"""Networks whose answer is known: a gate of two inputs, one of them the scored component.

The clean run has both inputs on, the corrupted run both off, and the metric is the gate's output.
Where the other input bypasses the scored component's layer, it stays as the base run has it, and
IG equals AP. Where both inputs are in one layer, the layer-joint path moves them together along the
same points in both directions, so IG only changes its sign, whatever the gate.

Examples:
    >>> from analysis.attribution.activation_patching import patch_each
    >>> from analysis.gates import closed_form_site

    m = a²b between (0, 0) and (1, 1): each component alone does nothing.

    >>> site = closed_form_site(lambda a: a[..., 0] ** 2 * a[..., 1], [0.0] * 2, [1.0] * 2)
    >>> patch_each(site).tolist()
    [[0.0, 0.0]]
"""

from collections.abc import Callable
from itertools import product

import polars as pl
import torch
from torch import Tensor

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.choices import DIRECTIONS, Direction
from analysis.latent import latent_components
from analysis.sites import Site

# Linear in each input: the smooth functions that the four corners of a truth table determine.
GATES: dict[str, Callable[[Tensor, Tensor | float], Tensor]] = {
    "AND": lambda a, b: a * b,
    "OR": lambda a, b: a + b - a * b,
    "XOR": lambda a, b: a + b - 2 * a * b,
}
ARRANGEMENTS = ("across layers", "one layer")
# Along the path a gate's gradient is linear, and one midpoint is exact.
_METHODS = {
    "IG": lambda site: integrate_jointly(site, *quadrature("midpoint", 1)),
    "AP": patch_each,
}


def closed_form_site(
    function: Callable[[Tensor], Tensor], base: list[float], source: list[float]
) -> Site:
    """A layer of scalar components on one prompt; `function` maps them (..., component) to m."""
    start, end = (torch.tensor([values], dtype=torch.float64) for values in (base, source))
    return Site(
        kind="neurons",
        layer=0,
        difference=(end - start)[:, None, :, None],
        writes=torch.eye(len(base), dtype=torch.float64).unsqueeze(1),
        base=function(start),
        resume=lambda change, prompts=None: function(start + change.squeeze(-2)),
        batch=2,
        gradient_batch=2,
    )


def gate_site(gate: str, arrangement: str, direction: Direction) -> Site:
    """The layer of the scored component, which is the first in it."""
    base, source = (1.0, 0.0) if direction == "noising" else (0.0, 1.0)
    output = GATES[gate]
    if arrangement == "one layer":
        return closed_form_site(lambda a: output(a[..., 0], a[..., 1]), [base] * 2, [source] * 2)
    return closed_form_site(lambda a: output(a[..., 0], base), [base], [source])


def gate_scores() -> pl.DataFrame:
    """The scored component's IG and AP by gate, arrangement and direction.

    `latent` says whether it scores 0 in just one direction.
    """
    rows = []
    for arrangement, gate, (name, method) in product(ARRANGEMENTS, GATES, _METHODS.items()):
        sites = [gate_site(gate, arrangement, direction) for direction in DIRECTIONS]
        scores = [method(site).numpy() for site in sites]
        latent = bool(latent_components(*scores, fraction=1.0)[0, 0])
        rows.append((gate, arrangement, name, *(score[0, 0].item() for score in scores), latent))
    columns = ["gate", "arrangement", "method", *DIRECTIONS, "latent"]
    return pl.DataFrame(rows, columns, orient="row")
