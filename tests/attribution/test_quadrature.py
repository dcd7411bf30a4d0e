import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.quadrature import quadrature
from analysis.choices import RULES


def integrate(rule: str, steps: int, function) -> float:
    nodes, weights = quadrature(rule, steps)
    return sum(weight * function(node) for node, weight in zip(nodes, weights, strict=True))


@given(rule=st.sampled_from(RULES), steps=st.integers(2, 64))
def test_nodes_lie_on_the_path_and_weights_sum_to_one(rule, steps):
    nodes, weights = quadrature(rule, steps)
    assert len(nodes) == len(weights) == steps
    assert min(nodes) >= 0 and max(nodes) <= 1
    assert sum(weights) == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gauss_legendre_is_exact_for_polynomials(steps):
    degree = 2 * steps - 1
    assert integrate("gauss-legendre", steps, lambda x: x**degree) == pytest.approx(
        1 / (degree + 1)
    )


@pytest.mark.parametrize(
    "rule, order", [("left", 1), ("right", 1), ("midpoint", 2), ("trapezoid", 2)]
)
def test_errors_fall_at_the_rules_order(rule, order):
    few, many = 8, 64
    errors = [abs(integrate(rule, steps, np.exp) - (np.e - 1)) for steps in (few, many)]
    assert np.log(errors[0] / errors[1]) / np.log(many / few) == pytest.approx(order, abs=0.15)


def test_ends_of_the_rules():
    assert quadrature("left", 2)[0] == [0, 0.5]
    assert quadrature("right", 2)[0] == [0.5, 1]
    assert quadrature("midpoint", 2)[0] == [0.25, 0.75]
    assert quadrature("trapezoid", 3) == ([0, 0.5, 1], [0.25, 0.5, 0.25])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rule, steps", [("left", 0), ("trapezoid", 1), ("simpson", 4)])
def test_bad_rules_and_steps_are_named(rule, steps):
    with pytest.raises(ValueError, match=f"{steps}|{rule}"):
        quadrature(rule, steps)
