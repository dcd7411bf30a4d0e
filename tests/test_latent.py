from itertools import permutations, product
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.latent import (
    compare_with_controls,
    highlight_components,
    latent_components,
    log_covariates,
)

SHAPE = (3, 60)


@given(seed=st.integers(0, 99), tenths=st.integers(1, 10), count=st.integers(1, 40))
def test_the_top_fraction_of_each_prompt_is_highlighted(seed, tenths, count):
    scores = np.random.default_rng(seed).normal(size=(3, 2, count))
    mask = highlight_components(scores, tenths / 10)
    expected = ceil(tenths * 2 * count / 10)
    assert mask.shape == scores.shape
    assert (mask.sum(axis=(1, 2)) == expected).all()
    for prompt in range(3):
        inside, outside = (
            np.abs(scores[prompt][mask[prompt]]),
            np.abs(scores[prompt][~mask[prompt]]),
        )
        assert inside.min() >= max(outside, default=0)
    assert (mask == highlight_components(-scores, tenths / 10)).all()


def test_ties_and_zeros_are_defined():
    scores = np.array([[1.0, -1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    mask = highlight_components(scores, 0.5)
    assert mask.tolist() == [[True, True, False, False], [False, False, False, True]]
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"fraction={fraction}"):
            highlight_components(scores, fraction)


@given(seed=st.integers(0, 99))
def test_latent_is_highlighted_in_one_direction_only(seed):
    noising, denoising = np.random.default_rng(seed).normal(size=(2, 4, 20))
    latent = latent_components(noising, denoising, 0.2)
    assert (latent == latent_components(denoising, noising, 0.2)).all()
    assert not latent_components(noising, -noising, 0.2).any()
    both = highlight_components(noising, 0.2) & highlight_components(denoising, 0.2)
    assert (latent.sum(axis=1) == 8 - 2 * both.sum(axis=1)).all()


def test_covariates_are_logs_of_mean_sizes():
    found = log_covariates(IG=([[-1.0, 0.0]], [[3.0, 0.0]]), moved=([[2.0, 1.0]],))
    np.testing.assert_allclose(found["IG"], [[np.log(2), -np.inf]])
    np.testing.assert_allclose(found["moved"], [[np.log(2), 0]])


def compared(seed: int, planted: float = 0.0, confounded: float = 0.0):
    """Latent components of large covariate; the outcome follows it, and what is planted."""
    random = np.random.default_rng(seed)
    covariate = random.normal(size=SHAPE) + 3 * np.arange(3)[:, None]
    own = random.random(SHAPE) < 0.1 * (1 + confounded * (covariate > covariate.mean()))
    outcome = random.normal(size=(5, *SHAPE)) * 0.3 + random.normal(size=SHAPE)
    outcome = outcome + 2 * np.arange(3)[:, None] + confounded * covariate + planted * own
    return compare_with_controls(
        own, outcome, {"covariate": covariate}, permutations=199, seed=seed
    )


def test_the_false_positive_rate_is_nominal():
    """At 5 % of 400 data sets without any effect: 20, two-sided 99.9 % within [7, 35]."""
    positives = sum(compared(seed).p <= 0.05 for seed in range(400))
    assert 7 <= positives <= 35


def test_matching_removes_a_covariates_effect():
    """An outcome that follows the covariate is no effect of the label, though raw means differ."""
    found = [compared(seed, confounded=1.0) for seed in range(30)]
    assert np.mean([one.p <= 0.05 for one in found]) < 0.2
    assert abs(np.mean([one.balance["covariate"] for one in found])) < 0.1


def test_a_planted_effect_is_measured_in_standard_deviations_within_layers():
    found = [compared(seed, planted=1.5) for seed in range(10)]
    assert all(one.p <= 0.05 for one in found)
    # The planted differences widen the spread that is the unit: sd² = 1 + 0.3²/5 + 0.09 1.5².
    assert np.mean([one.effect for one in found]) == pytest.approx(1.5 / np.sqrt(1.22), rel=0.15)
    for one in found:
        assert one.low < one.effect < one.high
        assert one.controls == 3 * one.compared and one.unmatched == 0


def test_controls_are_the_nearest_of_the_same_layer_and_none_is_used_twice():
    """Two latent components want the same control; the total distance decides."""
    latent = np.array([[True, True, False, False, False], [False] * 5])
    covariate = np.array([[0.0, 1.0, 0.9, 3.0, -9.0], [0.0, 1.0, 0.9, 3.0, 4.0]])
    outcome = np.array([[[1.0, 1.0, 0.5, 0.0, -9.0], [7.0] * 5]])
    found = compare_with_controls(latent, outcome, {"x": covariate}, controls=1)
    assert (found.compared, found.controls, found.unmatched) == (2, 2, 0)
    spread = np.sqrt(np.square(outcome[0] - outcome[0].mean(axis=1, keepdims=True)).mean())
    assert found.effect == pytest.approx((0.5 + 1.0) / 2 / spread)
    x_spread = np.sqrt(np.square(covariate - covariate.mean(axis=1, keepdims=True)).mean())
    assert found.balance["x"] == pytest.approx((0 - 0.9 + 1 - 3) / 2 / x_spread)
    assert np.isnan(found.low), "one prompt has no interval"


@given(seed=st.integers(0, 99))
def test_the_total_distance_to_the_controls_is_the_smallest(seed):
    """Of two latent components and five others, in two covariates, among all assignments."""
    random = np.random.default_rng(seed)
    latent = np.array([[False, True, False, False, True, False, False]])
    covariates = {name: random.normal(size=(1, 7)) for name in ("one", "two")}
    outcome = random.normal(size=(1, 1, 7))
    found = compare_with_controls(latent, outcome, covariates, controls=2)
    points = np.stack([values[0] / values.std() for values in covariates.values()], axis=1)
    apart = np.linalg.norm(points[[1, 4], None] - points[None], axis=2)
    best = min(permutations([0, 2, 3, 5, 6], 4), key=lambda four: apart[[0, 0, 1, 1], four].sum())
    rest = np.array(best).reshape(2, 2)
    expected = (outcome[0, 0, [1, 4]] - outcome[0, 0, rest].mean(axis=1)).mean()
    assert found.effect == pytest.approx(expected / outcome.std())


@pytest.mark.parametrize("sign", [1, -1])
def test_p_is_the_share_of_exchanges_that_differ_as_much(sign):
    """Three layers with a latent component and one or two controls: all 12 exchanges by hand."""
    latent = np.array([[True, False, False], [True, False, False], [True, False, False]])
    outcome = sign * np.array([[3.0, 1.0, 0.5], [2.0, 0.0, np.nan], [1.0, 1.5, np.nan]])
    sets = [row[np.isfinite(row)] for row in outcome]
    differences = [[one - (row.sum() - one) / (len(row) - 1) for one in row] for row in sets]
    totals = [sum(exchanged) for exchanged in product(*differences)]
    observed = abs(totals[0])
    exact = np.mean([abs(total) >= observed - 1e-9 for total in totals])
    assert 0.1 < exact < 0.5
    found = compare_with_controls(latent, outcome[None], {"x": np.zeros((3, 3))}, permutations=4000)
    assert found.p == pytest.approx(exact, abs=0.03)
    few = compare_with_controls(latent, outcome[None], {"x": np.zeros((3, 3))}, permutations=1)
    assert few.p in (0.5, 1.0), "the data count as one of two"


def test_a_layer_with_too_few_controls_leaves_latent_components_unmatched():
    latent = np.array([[True, True, True, False], [True, True, True, True]])
    values = np.arange(8.0).reshape(2, 4)
    found = compare_with_controls(latent, values[None], {"x": values})
    assert (found.compared, found.controls, found.unmatched) == (1, 1, 6)


@pytest.mark.parametrize("latent", [False, True])
def test_nothing_to_compare_is_nan_and_counted(latent):
    """No latent component, or no control."""
    values = np.ones((2, 4))
    found = compare_with_controls(np.full((2, 4), latent), values[None], {"x": values})
    assert np.isnan([found.effect, found.low, found.high, found.p, found.balance["x"]]).all()
    assert (found.compared, found.controls, found.unmatched) == (0, 0, 8 * latent)


def test_components_with_values_that_are_not_finite_are_left_out():
    latent = np.array([[True, True, False, False, False]])
    covariate = np.array([[0.0, -np.inf, 0.0, -np.inf, 1.0]])
    outcome = np.array([[[1.0, 5.0, 0.0, 7.0, np.nan]]])
    found = compare_with_controls(latent, outcome, {"x": covariate})
    assert (found.compared, found.controls, found.unmatched) == (1, 1, 0)
    assert found.effect == pytest.approx(2), "1 - 0, with a spread of 1/2"


def test_an_outcome_without_spread_is_no_effect():
    latent = np.array([[True, False, False]])
    found = compare_with_controls(latent, np.ones((3, 1, 3)), {"x": np.arange(3.0)[None]})
    assert found.effect == 0 and found.p == 1
