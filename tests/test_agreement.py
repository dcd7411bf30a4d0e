import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, linregress, pearsonr, spearmanr

from analysis.agreement import (
    average,
    average_correlation,
    concordance,
    correlation_of_means,
    correlations,
    jaccard_at,
    kendall,
    mean_over_prompts,
    measure_overlap,
    of_means,
    overlap_at,
    pearson,
    sign_agreement,
    slope,
    spearman,
    split_halves,
    top,
)

STATISTICS = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "sign agreement": sign_agreement,
    "concordance": concordance,
    "overlap@4": overlap_at(4),
    "jaccard@4": jaccard_at(4),
}

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
    assert (np.abs(correlations(a, scale * a)) <= 1).all(), "rounding never shows"


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
    for measure, sides in [
        (average_correlation, (a, b)),
        (correlation_of_means, (a, b)),
        (measure_overlap, (a > 0, b > 0)),
    ]:
        first, again, other = (measure(*sides, seed=seed) for seed in (1, 1, 2))
        assert first == again != other
        assert first.mean == other.mean


def test_constant_prompts_have_no_r_and_are_left_out():
    a, b = scores(0)
    a[0] = 0.1
    assert np.isnan(correlations(a, b)[0])
    assert average_correlation(a, b) == average_correlation(a[1:], b[1:])
    assert np.isnan(average_correlation(np.ones((2, 3)), np.ones((2, 3))).mean)


def test_one_prompt_has_a_value_but_no_interval_and_two_have_one():
    a, b = scores(0, prompts=1)
    assert np.isfinite(average_correlation(a, b).mean)
    assert np.isnan(average_correlation(a, b).low)
    assert np.isnan(correlation_of_means(a, b).low)
    a, b = scores(0, prompts=2)
    for estimate in (
        average_correlation(a, b),
        correlation_of_means(a, b),
        *split_halves(pearson, a, b),
    ):
        assert np.isfinite(estimate).all(), "two have one"


def test_overlap_by_hand():
    a = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    b = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert measure_overlap(a, b).mean == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert measure_overlap(a[1:], a[1:]).mean == 1


@given(seeds)
def test_overlap_is_symmetric_and_one_with_itself(seed):
    a, b = (side > 0 for side in scores(seed))
    assert measure_overlap(a, b).mean == pytest.approx(measure_overlap(b, a).mean)
    assert measure_overlap(a, a).mean == 1
    assert 0 <= measure_overlap(a, b).mean <= 1


@given(seeds)
def test_statistics_are_scipys(seed):
    a, b = (side.reshape(6, 15).round(1) for side in scores(seed))
    by_row = {
        spearman: lambda x, y: spearmanr(x, y).statistic,
        kendall: lambda x, y: kendalltau(x, y).statistic,
        slope: lambda x, y: linregress(x, y).slope,
    }
    for ours, theirs in by_row.items():
        expected = [theirs(x, y) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, atol=1e-12)


@pytest.mark.parametrize("name", STATISTICS)
@given(seed=seeds, scale=st.floats(0.01, 100), order=st.permutations(range(15)))
def test_statistics_are_symmetric_and_blind_to_order_and_common_scale(name, seed, scale, order):
    a, b = (side.reshape(6, 15) for side in scores(seed))
    statistic = STATISTICS[name]
    expected = statistic(a, b)
    np.testing.assert_allclose(statistic(b, a), expected, atol=1e-12)
    np.testing.assert_allclose(statistic(a[:, order], b[:, order]), expected, atol=1e-12)
    np.testing.assert_allclose(statistic(scale * a, scale * b), expected, atol=1e-12)
    np.testing.assert_allclose(statistic(a, a), 1, atol=1e-12)


@given(seed=seeds, scale=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_concordance_and_slope_see_the_scale(seed, scale, shift):
    """Lin's concordance of a with s a + t is 2 s v / (v + s² v + (mean a - mean b)²)."""
    a = scores(seed)[0].reshape(6, 15)
    b = scale * a + shift
    np.testing.assert_allclose(slope(a, b), scale, rtol=1e-9)
    variance = a.var(axis=1)
    apart = (a.mean(axis=1) - b.mean(axis=1)) ** 2
    expected = 2 * scale * variance / (variance * (1 + scale**2) + apart)
    np.testing.assert_allclose(concordance(a, b), expected, rtol=1e-9)


def test_constant_sides_are_defined():
    constant, other = np.ones((1, 4)), np.arange(4.0)[None]
    for statistic in (pearson, spearman, kendall):
        for sides in ((constant, other), (other, constant), (constant, constant)):
            assert np.isnan(statistic(*sides)).all()
    assert np.isnan(slope(constant, other)).all()
    assert np.isnan(concordance(constant, constant)).all()
    assert concordance(constant, other) == 0


def test_overlap_at_k_by_hand():
    a, b = np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 5.0, -4.0, 1.0]])
    assert top(a, 2).tolist() == [[True, True, False, False]]
    assert overlap_at(1)(a, b) == 0
    assert overlap_at(2)(a, b) == 0.5
    assert jaccard_at(2)(a, b) == pytest.approx(1 / 3)
    assert overlap_at(4)(a, b) == overlap_at(9)(a, b) == 1
    for tied in ([0.0, 0.0, 0.0, 0.0], [3.0, 1.0, -1.0, 1.0]):
        assert top(np.array([tied]), 2).tolist() == [[True, True, False, False]], "the first ones"
    many = np.random.default_rng(0).normal(size=(3, 1000))
    for k in (1, 30, 999):
        last = np.sort(np.abs(many), axis=1)[:, -k, None]
        assert (top(many, k) == (np.abs(many) >= last)).all()


@given(seed=seeds, k=st.integers(0, 15), scale=st.floats(1e-3, 1e3))
def test_every_prompt_has_as_many_top_components(seed, k, scale):
    """However much larger another prompt's scores are."""
    values = scores(seed)[0].reshape(6, 15)
    values[0] *= scale
    assert (top(values, k).sum(axis=1) == k).all()


def test_overlap_at_k_by_chance_is_k_over_the_components():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 400, 50))
    assert average(overlap_at(10), a, b).mean == pytest.approx(0.2, abs=0.02)


@given(seeds)
def test_statistics_of_means_share_their_resamples(seed):
    a, b = scores(seed)
    both = of_means({"r": pearson, "again": pearson, "rho": spearman}, a, b, resamples=50)
    assert both["r"] == both["again"] == of_means({"r": pearson}, a, b, resamples=50)["r"]
    means = a.mean(axis=0).reshape(1, -1), b.mean(axis=0).reshape(1, -1)
    assert both["rho"].mean == pytest.approx(float(spearman(*means)[0]))


def test_split_halves_tell_noise_from_disagreement():
    """Two methods that measure one thing, each with noise of its own, and one noise-free pair."""
    random = np.random.default_rng(0)
    truth = random.normal(size=60)
    a, b = (truth + 3 * random.normal(size=(40, 60)) for _ in range(2))
    noisy = split_halves(pearson, a, b)
    assert noisy.across.mean == pytest.approx(noisy.first.mean, abs=0.1)
    assert noisy.across.mean < 0.9
    exact = split_halves(pearson, np.tile(truth, (4, 1)), np.tile(-truth, (4, 1)))
    assert (exact.first.mean, exact.across.mean) == (pytest.approx(1), pytest.approx(-1))
    with pytest.raises(ValueError, match="two prompts"):
        split_halves(pearson, a[:1], b[:1])


def test_split_halves_never_share_a_prompt():
    """A method and itself agree across halves as the method does, not perfectly."""
    a, b = (side.reshape(40, -1) for side in scores(0, prompts=40, noise=3))
    same, turned, both = (split_halves(pearson, *pair) for pair in ((a, a), (b, a), (a, b)))
    assert same.across == same.first == same.second
    assert (turned.first, turned.second) == (both.second, both.first)
    assert both.across not in (both.first, both.second)
    assert split_halves(pearson, a, b, seed=1) != both == split_halves(pearson, a, b)


def test_a_splits_numbers_are_those_of_the_splits():
    """Halves of five prompts have two and three; the statistics of 200 splits are given."""
    sizes = []

    def statistic(first, second):
        sizes.append([np.round(side, 6) for side in (first, second)])
        return np.arange(200.0) ** 2

    found = split_halves(statistic, np.eye(5), np.eye(5))
    squares = np.arange(200.0) ** 2
    low, high = np.quantile(squares, (0.025, 0.975))
    assert found.across == pytest.approx((squares.mean(), squares.std(ddof=1), low, high))
    first, second = sizes[0]
    assert set(first.ravel()) == {0, 0.5} and set(second.ravel()) == {0, 0.333333}
    assert ((first > 0) ^ (second > 0)).all()
    assert first.mean(axis=0) == pytest.approx(np.full(5, 1 / 5), abs=0.08)


def test_intervals_are_as_wide_as_normal_ones_for_many_normal_prompts():
    values = np.random.default_rng(0).normal(size=400)
    error = values.std(ddof=1) / 20
    estimate = mean_over_prompts(values)
    assert estimate.mean - estimate.low == pytest.approx(1.96 * error, rel=0.08)
    assert estimate.high - estimate.mean == pytest.approx(1.96 * error, rel=0.08)
    of_one = of_means({"first": lambda a, b: a[:, 0]}, values[:, None], values[:, None])["first"]
    assert of_one.mean == pytest.approx(estimate.mean) and of_one.sd == pytest.approx(
        error, rel=0.08
    )
    assert of_one.low == pytest.approx(estimate.low, abs=0.2 * error)


def test_intervals_of_r_of_the_means_cover_the_true_one():
    """60 prompts of two methods that share the prompts' noise, 150 times, known true means."""
    random = np.random.default_rng(0)
    first = random.normal(size=40)
    second = first + 0.3 * random.normal(size=40)
    truth = pearson(first[None], second[None])[0]
    covered = []
    for seed in range(150):
        shared = 0.5 * random.normal(size=(60, 40))
        own = 0.15 * random.normal(size=(60, 40))
        found = of_means({"r": pearson}, first + shared, second + shared + own, seed, 300)["r"]
        covered.append(found.low <= truth <= found.high)
    assert 0.9 <= np.mean(covered) <= 0.98


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
    for one in (scores(0)[0].reshape(6, 15), np.array([[1.0, 0.5]])):
        with pytest.raises(ValueError, match="masks"):
            measure_overlap(one > 0, one)
