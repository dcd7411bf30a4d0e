"""Integrals to a tolerance: each takes as many nodes of the nested rule as it needs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.attribution.quadrature import LEVELS, nested

# How far a score may still have moved between the last two levels, in tolerances. That change is
# the error of the level before; where the rule converges, the last level's is far smaller: on the
# testbed no score was off by more than half a tolerance.
CHANGE = 10

# Each component's Δa · ∂m/∂a at some nodes, for the integrals that are pending, and how far the
# metric has moved there from the path's start; on the CPU.
Slopes = Float[Tensor, "node pending component"]
Integrand = Callable[
    [Float[Tensor, " node"], Int[Tensor, " pending"]], tuple[Slopes, Float[Tensor, "node pending"]]
]


class Integrals(NamedTuple):
    """A row per integral: its components, and what they took.

    `effect` is how far the metric moves along the whole path, which exact components sum to;
    `nodes` counts the evaluations, and `reached` says whether they were enough.
    """

    values: Float[Tensor, "integral component"]
    effect: Float[Tensor, " integral"]
    nodes: Int[Tensor, " integral"]
    reached: Bool[Tensor, " integral"]


def integrate(
    integrand: Integrand,
    start: Float[Tensor, "integral component"],
    enough: float,
    batch: int,
    complete: bool = True,
) -> Integrals:
    """Integrals over α from 0 to 1, each by as few nodes as leave no error above `enough`.

    Each level of the rule doubles the number of nodes and keeps those of the level before. An
    integral stops where its components sum to the metric's move within `enough`, and none of them
    has changed by more than `CHANGE` times that since the level before. Where they need not sum to
    it (`complete=False`), none may have changed by more than `enough`. What other integrals need
    makes no difference to one.

    Args:
        integrand: gives the slopes at other nodes than the path's start.
        start: the slopes there.
        batch: how many evaluations to make at once.
    """
    rule, pending, finished = nested(), torch.arange(len(start)), []
    allowed = CHANGE * enough if complete else enough
    sums, effect = torch.einsum("l,ic->lic", rule.weights[:, 0].to(start), start), start[:0, 0]
    new = torch.cat(rule.added[:2])  # a change takes two levels; the path's end comes first
    for level in range(1, LEVELS + 1):
        for some in new.split(max(1, batch // len(pending))):
            slopes, moves = integrand(rule.nodes[some], pending)
            sums = sums + torch.einsum("lk,kic->lic", rule.weights[:, some].to(slopes), slopes)
            effect = effect if len(effect) else moves[0]
        change = (sums[level] - sums[level - 1]).abs().amax(dim=1)
        gap = (sums[level].sum(dim=1) - effect).abs() if complete else torch.zeros_like(change)
        reached = (gap <= enough) & (change <= allowed)
        done = reached | (level == LEVELS)
        taken = torch.full_like(pending, 2**level + 1)
        finished.append([of[done] for of in (pending, sums[level], effect, taken, reached)])
        pending, sums, effect = pending[~done], sums[:, ~done], effect[~done]
        if not len(pending):
            break
        new = rule.added[level + 1]
    rows, *columns = map(torch.cat, zip(*finished, strict=True))
    return Integrals(*(column[rows.argsort()] for column in columns))
