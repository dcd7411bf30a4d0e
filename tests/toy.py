"""Metrics of a layer given in closed form, so that facts can be checked by hand.

A toy layer has scalar components, all at one position, each writing to a dimension of its own of
the residual stream; the metric is any function of what they write.
"""

from collections.abc import Callable
from itertools import permutations
from math import factorial

import torch
from torch import Tensor

from analysis.attribution.parts import Site


def toy_site(function: Callable[[Tensor], Tensor], base: list[float], source: list[float]) -> Site:
    """One prompt, one position; `function` maps (..., component) to the metric (...)."""
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


def corner(site: Site, changed: set[int]) -> float:
    """The metric with these components at the source and the others at the base."""
    difference = site.difference[0, 0, :, 0]
    chosen = torch.tensor([float(place in changed) for place in range(len(difference))])
    return site.resume((chosen * difference)[None, None]).item()


def shapley(site: Site) -> list[float]:
    """The Shapley value of the on/off game, by all orders."""
    count = site.difference.shape[2]
    values = [0.0] * count
    for order in permutations(range(count)):
        changed: set[int] = set()
        for place in order:
            before = corner(site, changed)
            changed = changed | {place}
            values[place] += (corner(site, changed) - before) / factorial(count)
    return values
