"""Metrics of a layer given in closed form, so that facts can be checked by hand."""

from itertools import permutations
from math import factorial

import torch

from analysis.gates import closed_form_site as toy_site
from analysis.sites import Site

__all__ = ["corner", "shapley", "toy_site"]


def corner(site: Site, changed: set[int]) -> float:
    """The metric with these components at the source and the others at the base."""
    difference = site.difference[0, 0, :, 0]
    chosen = torch.tensor([float(index in changed) for index in range(len(difference))])
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
