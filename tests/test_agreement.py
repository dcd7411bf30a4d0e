import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from analysis.agreement import (
    average_correlation,
    correlation_of_means,
    correlations,
    mean_over_prompts,
    measure_overlap,
)

seeds = st.integers(0, 10_000)


def scores(seed: int, prompts: int = 6, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    first = random.normal(size=(prompts, 3, 5))
    return first, first + noise * random.normal(size=first.shape)


@given(seeds)
def test_correlations_are_scipys(seed):
    a, b = scores(seed)
    expected = [pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(correlations(a, b), expected, atol=1e-12)
    assert average_correlation(a, b).mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert average_correlation(a, b).sd == pytest.approx(np.std(expected, ddof=1), abs=1e-12)


@given(seeds)
def test_correlation_of_means_is_scipys(seed):
    a, b = scores(seed)
    expected = pearsonr(a.mean(axis=0).ravel(), b.mean(axis=0).ravel()).statistic
    estimate = correlation_of_means(a, b)
    assert estimate.mean == pytest.approx(expected, abs=1e-12)
    assert estimate.low <= estimate.high


@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_correlation_is_symmetric_and_blind_to_positive_scale_and_shift(seed, scale, shift):
    a, b = scores(seed)
    for correlate in (average_correlation, correlation_of_means):
        expected = correlate(a, b).mean
        assert correlate(b, a).mean == pytest.approx(expected)
        assert correlate(scale * a + shift, b).mean == pytest.approx(expected)
        assert correlate(-a, b).mean == pytest.approx(-expected)


@given(seed=seeds, order=st.permutations(range(15)))
def test_the_order_of_components_does_not_matter(seed, order):
    a, b = (side.reshape(6, 15) for side in scores(seed))
    assert average_correlation(a[:, order], b[:, order]).mean == pytest.approx(
        average_correlation(a, b).mean
    )


def test_torch_and_numpy_are_the_same():
    a, b = scores(0)
    assert average_correlation(torch.tensor(a), torch.tensor(b)) == average_correlation(a, b)


def test_a_seed_decides_the_interval():
    a, b = scores(0)
    assert average_correlation(a, b, seed=1) == average_correlation(a, b, seed=1)
    assert average_correlation(a, b, seed=1) != average_correlation(a, b, seed=2)


def test_constant_prompts_have_no_r_and_are_left_out():
    a, b = scores(0)
    a[0] = 0.1
    assert np.isnan(correlations(a, b)[0])
    assert average_correlation(a, b) == average_correlation(a[1:], b[1:])
    assert np.isnan(average_correlation(np.ones((2, 3)), np.ones((2, 3))).mean)


def test_one_prompt_has_a_value_but_no_interval():
    a, b = scores(0, prompts=1)
    assert np.isfinite(average_correlation(a, b).mean)
    assert np.isnan(average_correlation(a, b).low)
    assert np.isnan(correlation_of_means(a, b).low)


def test_overlap_by_hand():
    a = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    b = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert measure_overlap(a, b).mean == pytest.approx((1 / 3 + 0 + 1) / 3)


@given(seeds)
def test_overlap_is_symmetric_and_one_with_itself(seed):
    a, b = (side > 0 for side in scores(seed))
    assert measure_overlap(a, b).mean == pytest.approx(measure_overlap(b, a).mean)
    assert measure_overlap(a, a).mean == 1
    assert 0 <= measure_overlap(a, b).mean <= 1


def test_intervals_cover_a_known_truth():
    """The mean of 30 exponential draws, 300 times: nominal 95 % should cover at 90 to 98 %."""
    random = np.random.default_rng(0)
    estimates = [mean_over_prompts(random.exponential(size=30), seed=s) for s in range(300)]
    covered = np.mean([estimate.low <= 1 <= estimate.high for estimate in estimates])
    assert 0.88 <= covered <= 0.98


def test_estimates_read_well():
    text = str(mean_over_prompts([1.0, 1.0, 1.0]))
    assert text.split() == ["1.00", "[1.00,", "1.00]"]
    assert " " not in text, "an interval stays on one line"


@pytest.mark.parametrize(
    ("a", "b"), [(np.ones((2, 3)), np.ones((2, 4))), (np.ones(3), np.ones(3)), ([], [])]
)
def test_shapes_that_cannot_be_compared_are_named(a, b):
    with pytest.raises(ValueError, match="same shape"):
        average_correlation(a, b)


def test_overlap_of_anything_but_masks_is_an_error():
    with pytest.raises(ValueError, match="masks"):
        measure_overlap(*scores(0))
