"""Rules for the integral over the path: nodes α in [0, 1] and weights that sum to 1."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.checks import one_of, whole
from analysis.choices import RULES, Rule

LEVELS = 10  # of the nested rule: 1,025 nodes at most


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _riemann(offset: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


def _trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


def _clenshaw_curtis(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Clenshaw & Curtis (1960): the integral of the polynomial through the Chebyshev nodes.

    At n = steps - 1 = 2ᵏ intervals and θⱼ = πj/n, the weight of α = (1 - cos θⱼ)/2 is
    cⱼ/(2n) · (1 - Σ_{i ≤ n/2} bᵢ cos(2iθⱼ)/(4i² - 1)), with bᵢ = 1 for i = n/2 and else 2, and
    cⱼ = 1 at both ends and else 2.
    """
    intervals = steps - 1
    if intervals < 1 or intervals & (intervals - 1):
        raise ValueError(
            f"steps={steps} was given: expected 2^k + 1 for the rule clenshaw-curtis, such as 3, 5 "
            "or 9."
        )
    if intervals == 1:
        return _trapezoid(2)
    angles, i = np.pi * np.arange(steps) / intervals, np.arange(1, intervals // 2 + 1)
    terms = np.where(2 * i == intervals, 1, 2) / (4 * i**2 - 1) * np.cos(2 * np.outer(angles, i))
    weights = (1 - terms.sum(axis=1)) / intervals
    weights[[0, -1]] /= 2
    return (1 - np.cos(angles)) / 2, weights


_RULES: dict[Rule, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss-legendre": _gauss_legendre,
    "left": lambda steps: _riemann(0.0, steps),
    "right": lambda steps: _riemann(1.0, steps),
    "midpoint": lambda steps: _riemann(0.5, steps),
    "trapezoid": _trapezoid,
    "clenshaw-curtis": _clenshaw_curtis,
}


def quadrature(rule: Rule, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule with `steps` evaluations of the gradient.

    Errors fall as O(1/steps) for left and right, O(1/steps²) for midpoint and trapezoid, and
    geometrically for Gauss-Legendre and Clenshaw-Curtis where the integrand is smooth; trapezoid
    needs two steps, and Clenshaw-Curtis 2ᵏ + 1.
    """
    one_of("rule", rule, RULES)
    nodes, weights = _RULES[rule](whole("steps", steps, least=2 if rule == "trapezoid" else 1))
    return nodes.tolist(), weights.tolist()


class Nested(NamedTuple):
    """Clenshaw-Curtis at every level k up to `LEVELS`: 2ᵏ + 1 nodes, the next level's among them.

    `nodes` are the finest level's, `weights` each level's, 0 at those that it doesn't use, and
    `added` the indices of the nodes that each level adds to the path's start, its end first.
    """

    nodes: Float[Tensor, " node"]
    weights: Float[Tensor, "level node"]
    added: list[Int[Tensor, " new"]]


@cache
def nested() -> Nested:
    """The nested rule, made once."""
    finest = 2**LEVELS
    weights, added = np.zeros((LEVELS + 1, finest + 1)), []
    for level in range(LEVELS + 1):
        used = np.arange(0, finest + 1, finest // 2**level)
        weights[level, used] = _clenshaw_curtis(len(used))[1]
        added.append(torch.tensor((used[1::2] if level else used[1:]).tolist()))
    nodes = torch.from_numpy(_clenshaw_curtis(finest + 1)[0])
    return Nested(nodes, torch.from_numpy(weights), added)
