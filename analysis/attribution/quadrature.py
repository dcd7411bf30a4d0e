"""Rules for the integral over the path: nodes α in [0, 1] and weights that sum to 1."""

from collections.abc import Callable

import numpy as np

from analysis.checks import one_of, whole
from analysis.choices import RULES, Rule


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _riemann(offset: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


def _trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


_RULES: dict[Rule, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss-legendre": _gauss_legendre,
    "left": lambda steps: _riemann(0.0, steps),
    "right": lambda steps: _riemann(1.0, steps),
    "midpoint": lambda steps: _riemann(0.5, steps),
    "trapezoid": _trapezoid,
}


def quadrature(rule: Rule, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule with `steps` evaluations of the gradient.

    Errors fall as O(1/steps) for left and right, O(1/steps²) for midpoint and trapezoid, and
    geometrically for Gauss-Legendre where the integrand is smooth; trapezoid needs two steps.
    """
    one_of("rule", rule, RULES)
    nodes, weights = _RULES[rule](whole("steps", steps, least=2 if rule == "trapezoid" else 1))
    return nodes.tolist(), weights.tolist()
