import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.quadrature import nested, quadrature
from analysis.choices import RULES

ENDED = ("left", "right")


def integrate(rule: str, steps: int, function) -> float:
    nodes, weights = quadrature(rule, steps)
    return sum(weight * function(node) for node, weight in zip(nodes, weights, strict=True))


doubled = st.integers(0, 8).map(lambda level: 2**level + 1)


def of_any_rule(rule: str):
    return st.tuples(st.just(rule), doubled if rule == "clenshaw-curtis" else st.integers(2, 64))


@given(rule=st.sampled_from(RULES).flatmap(of_any_rule))
def test_nodes_lie_on_the_path_and_weights_sum_to_one(rule):
    nodes, weights = quadrature(*rule)
    assert len(nodes) == len(weights) == rule[1]
    assert nodes == sorted(nodes) and min(weights) > 0
    assert nodes == pytest.approx([1 - node for node in nodes[::-1]]) or rule[0] in ENDED
    assert weights == pytest.approx(weights[::-1])
    assert min(nodes) >= 0 and max(nodes) <= 1
    assert sum(weights) == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gauss_legendre_is_exact_for_polynomials(steps):
    degree = 2 * steps - 1
    assert integrate("gauss-legendre", steps, lambda x: x**degree) == pytest.approx(
        1 / (degree + 1)
    )


@given(steps=doubled, degree=st.integers(0, 256))
def test_clenshaw_curtis_is_exact_up_to_its_degree(steps, degree):
    """Polynomials of a degree below the number of nodes, and one more by symmetry."""
    degree %= steps + (steps > 2)
    found = integrate("clenshaw-curtis", steps, lambda x: x**degree)
    assert found == pytest.approx(1 / (degree + 1), abs=1e-14)


@given(steps=doubled, coefficients=st.lists(st.floats(-3, 3), min_size=1, max_size=40))
def test_clenshaw_curtis_is_numpys_integral_of_the_interpolating_polynomial(steps, coefficients):
    """Through the same nodes, by Chebyshev's series: nothing of the formula takes part."""

    def function(x):
        return np.tanh(np.polynomial.chebyshev.chebval(2 * x - 1, coefficients))

    (nodes, _), domain = quadrature("clenshaw-curtis", steps), [0, 1]
    series = np.polynomial.Chebyshev.fit(nodes, function(np.array(nodes)), steps - 1, domain)
    integral = series.integ()
    found = integrate("clenshaw-curtis", steps, function)
    assert found == pytest.approx(integral(1) - integral(0), abs=1e-12)


def test_levels_of_the_nested_rule_are_clenshaw_curtis_rules():
    rule, used = nested(), [0]
    for level, (weights, added) in enumerate(zip(rule.weights, rule.added, strict=True)):
        used = sorted([*used, *added.tolist()])
        nodes, expected = quadrature("clenshaw-curtis", 2**level + 1)
        assert rule.nodes[used].tolist() == pytest.approx(nodes, abs=1e-15)
        assert weights[used].tolist() == expected
        assert weights.sum() == pytest.approx(1)
    assert [len(added) for added in rule.added] == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


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
@pytest.mark.parametrize(
    "rule, steps", [("left", 0), ("trapezoid", 1), ("simpson", 4), ("clenshaw-curtis", 4)]
)
def test_bad_rules_and_steps_are_named(rule, steps):
    with pytest.raises(ValueError, match=f"{steps}|{rule}"):
        quadrature(rule, steps)
