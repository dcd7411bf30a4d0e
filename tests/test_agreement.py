import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, linregress, pearsonr, spearmanr, t

from analysis import Scores, activation_patching, agreement, integrated_gradients, load_task
from analysis.agreement import (
    average,
    average_correlation,
    concordance,
    correlation_across_prompts,
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
from analysis.choices import KINDS, Kind

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
def test_correlation_of_heads_means_is_scipys(seed):
    a, b = scores(seed)
    expected = pearsonr(a.mean(axis=0).ravel(), b.mean(axis=0).ravel()).statistic
    estimate = correlation_of_means(a, b, "heads")
    assert estimate.mean == pytest.approx(expected, abs=1e-12)
    assert estimate.low <= estimate.high


def sums_across(a: np.ndarray, b: np.ndarray) -> float:
    """Σ_{p≠q} of the covariances of a prompt's scores and another's, one by one."""
    prompts = range(len(a))
    return sum(np.cov(a[p], b[q])[0, 1] for p in prompts for q in prompts if p != q)


def r_across(a: np.ndarray, b: np.ndarray) -> float:
    return sums_across(a, b) / np.sqrt(sums_across(a, a) * sums_across(b, b))


def agreeing(seed: int, prompts: int = 6, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two methods that measure nearly the same, whose noise is half shared."""
    random = np.random.default_rng(seed)
    truth, shared = random.normal(size=15), noise * random.normal(size=(prompts, 15))
    first, second = (noise * random.normal(size=(prompts, 15)) for _ in range(2))
    return truth + shared + first, truth + random.normal(size=15) + shared + second


@given(seeds)
def test_correlation_across_prompts_is_a_double_loop_and_its_jackknife(seed):
    a, b = agreeing(seed)
    left_out = [r_across(np.delete(a, p, axis=0), np.delete(b, p, axis=0)) for p in range(6)]
    error = np.sqrt(5 / 6 * ((left_out - np.mean(left_out)) ** 2).sum())
    whole, reach = r_across(a, b), t.ppf(0.975, 5) * error
    expected = np.clip([whole, whole - reach, whole + reach], -1, 1)
    found = correlation_of_means(a.reshape(6, 3, 5), b.reshape(6, 3, 5), "neurons")
    assert found == correlation_across_prompts(a, b)
    assert (found.mean, found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.sd == pytest.approx(error, abs=1e-9)


def test_correlation_across_prompts_of_many_is_that_of_the_means():
    """A noise-free pair is Pearson's, whose interval is a point."""
    a, b = (np.tile(side[0], (9, 1)) for side in agreeing(0))
    r = pearsonr(a[0], b[0]).statistic
    assert correlation_across_prompts(a, b) == pytest.approx((r, 0, r, r), abs=1e-6)
    assert correlation_across_prompts(a, a) == pytest.approx((1, 0, 1, 1), abs=1e-6)
    assert correlation_across_prompts(a, -a) == pytest.approx((-1, 0, -1, -1), abs=1e-6)


def test_correlation_across_prompts_beyond_one_is_cut_and_has_an_interval():
    """Whether r itself or one without a prompt is beyond 1: the interval is on r, cut at 1."""
    beyond = 0
    for seed in range(30):
        a, b = agreeing(seed, noise=0.7)
        b = a + 0.7 * np.random.default_rng(seed).normal(size=a.shape)
        left_out = [r_across(np.delete(a, p, axis=0), np.delete(b, p, axis=0)) for p in range(6)]
        whole = r_across(a, b)
        if max(whole, *left_out) >= 1:
            beyond += whole > 1
            reach = t.ppf(0.975, 5) * np.sqrt(5 * np.var(left_out))
            expected = (min(whole, 1), np.sqrt(5 * np.var(left_out)), min(whole - reach, 1), 1)
            assert correlation_across_prompts(a, b) == pytest.approx(expected, abs=1e-9)
    assert beyond > 3


def test_correlation_across_prompts_is_nan_where_it_is_undefined():
    """One prompt; constant scores; prompts that share less than nothing. Two have no jackknife."""
    a, b = agreeing(0)
    opposed = np.stack([a[0], -a[0], a[1], -a[1]])
    for sides in ((a[:1], b[:1]), (np.full((4, 15), 0.1), b[:4]), (opposed, b[:4])):
        assert np.isnan(correlation_across_prompts(*sides)).all()
        assert np.isnan(correlation_across_prompts(*sides[::-1])).all()
    for seed in range(20):  # whatever rounding leaves of what is 0
        assert np.isnan(correlation_across_prompts(*agreeing(seed, prompts=1))).all()
    two = correlation_across_prompts(a[:2], b[:2])
    assert two.mean == pytest.approx(r_across(a[:2], b[:2])) and np.isnan(two[1:]).all()


def test_the_kind_decides_the_correlation_of_means():
    with pytest.raises(ValueError, match="no kind 'head': expected one of 'heads', 'neurons'"):
        inspect.unwrap(correlation_of_means)(*scores(0), "head")  # without the tests' type hook


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, scale=st.floats(0.01, 100), order=st.permutations(range(6)))
def test_correlation_of_means_is_blind_to_scale_side_and_order_of_prompts(kind, seed, scale, order):
    a, b = agreeing(seed)
    expected = correlation_of_means(a, b, kind)
    for sides in ((b, a), (scale * a, b), (a + scale, b)):
        assert correlation_of_means(*sides, kind) == pytest.approx(expected, abs=1e-9)
    shuffled = correlation_of_means(a[order], b[order], kind)
    assert shuffled.mean == pytest.approx(expected.mean)
    if kind == "neurons":
        assert shuffled == pytest.approx(expected, abs=1e-9), "nothing is drawn"


@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_average_correlation_is_symmetric_and_blind_to_positive_scale_and_shift(seed, scale, shift):
    a, b = scores(seed)
    expected = average_correlation(a, b).mean
    assert average_correlation(b, a).mean == pytest.approx(expected)
    assert average_correlation(scale * a + shift, b).mean == pytest.approx(expected)
    assert average_correlation(-a, b).mean == pytest.approx(-expected)
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
        (partial(correlation_of_means, kind="heads"), (a, b)),
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
    assert np.isnan(correlation_of_means(a, b, "heads").low)
    a, b = scores(0, prompts=2)
    for estimate in (
        average_correlation(a, b),
        correlation_of_means(a, b, "heads"),
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
    first, _, across = split_halves(pearson, a, b)
    assert across.mean == pytest.approx(first.mean, abs=0.1)
    assert across.mean < 0.9
    first, _, across = split_halves(pearson, np.tile(truth, (4, 1)), np.tile(-truth, (4, 1)))
    assert (first.mean, across.mean) == (pytest.approx(1), pytest.approx(-1))
    with pytest.raises(ValueError, match="two prompts"):
        split_halves(pearson, a[:1], b[:1])


def test_split_halves_never_share_a_prompt():
    """A method and itself agree across halves as the method does, not perfectly."""
    a, b = (side.reshape(40, -1) for side in scores(0, prompts=40, noise=3))
    same, turned, both = (split_halves(pearson, *pair) for pair in ((a, a), (b, a), (a, b)))
    assert same[0] == same[1] == same[2]
    assert turned[:2] == both[1::-1]
    assert both[2] not in both[:2]
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
    assert found[2] == pytest.approx((squares.mean(), squares.std(ddof=1), low, high))
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


def coverage(kind: Kind, truth: float, draw: Callable, samples: int = 200) -> tuple[float, float]:
    """How often 95 % intervals of r of the means hold the true r: those printed, the bootstrap's.

    `draw` gives both methods' scores of prompts drawn independently.
    """
    random, hits = np.random.default_rng(0), np.zeros(2)
    for seed in range(samples):
        drawn = draw(random)
        printed = correlation_of_means(*drawn, kind, seed)
        bootstrap = of_means({"r": pearson}, *drawn, seed, resamples=200)["r"]
        hits += [found.low <= truth <= found.high for found in (printed, bootstrap)]
    return tuple(hits / samples)


@pytest.fixture(scope="module")
def population(testbed) -> tuple[Scores, Scores]:
    """Sixteen prompts of a task whose neurons' scores are noisy, taken as all that there are."""
    pairs = load_task("capital-country", testbed, n=16)
    methods = activation_patching, integrated_gradients
    ap, ig = (method(testbed, pairs, direction="denoising") for method in methods)
    return ap, ig


@pytest.mark.parametrize("kind", KINDS)
def test_printed_intervals_cover_r_of_the_means_on_the_testbeds_scores(population, kind):
    """Fifty prompts at a time; the bootstrap, which is printed for heads, misses for neurons."""
    a, b = (scores.of(kind).flatten(1).double().numpy() for scores in population)
    (truth,) = pearson(a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True))

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        prompts = random.integers(0, len(a), size=50)
        return a[prompts], b[prompts]

    printed, bootstrap = coverage(kind, truth, draw)
    assert 0.9 <= printed <= 0.98
    assert (bootstrap < 0.5) if kind == "neurons" else (bootstrap >= 0.9)


def test_printed_intervals_of_neurons_cover_a_known_truth():
    """Thirty prompts, as much noise as signal, half of it shared by the methods."""
    truths = np.random.default_rng(1).normal(size=(2, 300))
    truths[1] += 2 * truths[0]
    truth = pearsonr(*truths).statistic

    def draw(random: np.random.Generator) -> list[np.ndarray]:
        shared = random.normal(size=(30, 300))
        return [of + shared + random.normal(size=(30, 300)) for of in truths]

    printed, bootstrap = coverage("neurons", truth, draw)
    assert 0.9 <= printed <= 0.98
    assert bootstrap < 0.1


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


def sampled(
    seed: int, prompts: int = 12, drawn: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random, strata = np.random.default_rng(seed), np.repeat([0, 1, 2], drawn)
    truth = random.normal(size=3 * drawn)
    a, b = (truth + random.normal(size=(prompts, 3 * drawn)) for _ in range(2))
    return a, 2 * b, strata


def test_r_and_slope_of_sampled_components_are_those_of_different_prompts():
    a, b, strata = sampled(0)
    r, slope = agreement.of_sampled_components(a, b, strata, size=50)
    assert r.mean == pytest.approx(agreement.correlation_across_prompts(a, b).mean)
    assert slope.mean == pytest.approx(agreement.slope_across_prompts(a, b).mean)


def test_sampled_components_are_left_out_one_at_a_time():
    a, b, _ = sampled(1)
    without = [np.delete(of, 4, axis=1) for of in (a, b)]
    centred = [of - of.mean(axis=1, keepdims=True) for of in without]
    expected = sum(centred[0][p] @ centred[1][q] for p in range(12) for q in range(12) if p != q)
    assert agreement._sums_without_each(a, b)[4] == pytest.approx(expected)


def test_what_was_drawn_entirely_adds_no_width_and_what_was_not_does():
    a, b, strata = sampled(2)
    whole, part = (agreement.of_sampled_components(a, b, strata, size) for size in (5, 500))
    slope = agreement.slope_across_prompts(a, b)
    assert (whole[1].low, whole[1].high) == pytest.approx((slope.low, slope.high))
    assert part[1].low < whole[1].low and part[1].high > whole[1].high


def test_r_past_one_has_no_interval():
    a, b, strata = sampled(2)
    assert (agreement.correlation_across_prompts(a, b)).mean == 1
    r, _ = agreement.of_sampled_components(a, b, strata, size=50)
    assert r.mean == pytest.approx(1) and np.isnan([r.low, r.high]).all()


def test_intervals_of_sampled_components_cover_a_known_truth():
    """12 of 120 components of each stratum and 20 prompts, as much noise as signal."""
    random = np.random.default_rng(0)
    one = random.normal(size=360)
    other = one + 0.5 * random.normal(size=360)
    truths = pearsonr(one, other).statistic, np.cov(one, other)[0, 1] / one.var(ddof=1)
    hits, strata = np.zeros(2), np.repeat([0, 1, 2], 12)
    for _ in range(300):
        draws = [random.choice(120, 12, replace=False) + 120 * stratum for stratum in range(3)]
        at = np.concatenate(draws)
        a, b = (of[at] + random.normal(size=(20, 36)) for of in (one, other))
        found = agreement.of_sampled_components(a, b, strata, 120)
        hits += [of.low <= truth <= of.high for of, truth in zip(found, truths, strict=True)]
    assert (hits / 300 >= 0.9).all() and (hits / 300 <= 0.99).all()


@pytest.mark.parametrize("strata", [[0] * 15, [0] * 14 + [1], [*range(15)], [0, 1]])
def test_strata_that_are_no_design_are_one_sentence(strata):
    a, b, _ = sampled(3)
    size = 10
    with pytest.raises(ValueError, match="expected an entry for each of 15"):
        agreement.of_sampled_components(a, b, strata, size)
