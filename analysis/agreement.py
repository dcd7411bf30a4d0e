"""How far two methods' scores agree: functions of arrays that know no model.

Arrays are (prompt, component...), torch or numpy; trailing axes are flattened. Different shapes or
no prompt raise a ValueError. A *statistic* compares rows, which are prompts or prompt-averaged
scores: two matrices (row, component) give one number per row, NaN where it is undefined.

Intervals hold at 95 % and are over prompts, the units that were sampled, with both methods' scores
of a prompt drawn together. They are percentile bootstrap intervals, but for neurons' correlation of
means, where averaged noise makes these miss: see `correlation_of_means`.

Examples:
    >>> import numpy as np
    >>> from analysis import agreement
    >>> from analysis.agreement import concordance, kendall, overlap_at, pearson, spearman
    >>> a, b = np.array([[5.0, -4.0, 1.0, 0.0]]), np.array([[9.0, -8.0, 0.5, 1.0]])
    >>> statistics = (pearson, spearman, kendall, concordance, overlap_at(2))
    >>> [statistic(a, b).round(2).item() for statistic in statistics]
    [0.99, 0.8, 0.67, 0.82, 1.0]

    Two methods that measure the same, each with as much noise as signal:

    >>> random = np.random.default_rng(0)
    >>> truth = random.normal(size=500)
    >>> ap, ig = (truth + random.normal(size=(20, 500)) for _ in range(2))
    >>> print(agreement.average_correlation(ap, ig))
    0.50 [0.49, 0.51]
    >>> for kind in ("heads", "neurons"):
    ...     print(kind, agreement.correlation_of_means(ap, ig, kind))
    heads 0.96 [0.89, 0.94]
    neurons 1.00 [0.99, 1.00]
    >>> print(agreement.measure_overlap(ap > 0, ig > 0))
    0.50 [0.49, 0.51]
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, kendalltau, rankdata, t

from analysis.checks import one_of
from analysis.choices import KINDS, Kind

RESAMPLES = 1000
BATCH = 200
LEVEL = 0.95
NEARLY_ONE = 1 - 1e-7  # where atanh is still finite
ROUNDING = 1e-12  # relative to the terms of a sum, whose rounding errors are smaller

Rows = Float[np.ndarray, "row component"]
Name = TypeVar("Name", bound=Hashable)
Statistic = Callable[[Rows, Rows], Float[np.ndarray, " row"]]


class Estimate(NamedTuple):
    """A statistic over prompts, its sd (a mean's is that of the prompts), and an interval."""

    mean: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        """The interval in brackets where there is one; a dash where nothing is defined."""
        mean, low, high = (f"{value:z.2f}" for value in (self.mean, self.low, self.high))
        interval = f" [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")
        return "–" if mean == "nan" else mean if "nan" in (low, high) else mean + interval


def pearson(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Pearson's r; NaN where either side is constant."""
    a, b = _centred(a), _centred(b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.clip(_ratio((a * b).sum(axis=1), norms), -1, 1)


def spearman(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Spearman's ρ, Pearson's r of the ranks; ties share their mean rank."""
    return pearson(rankdata(a, axis=1), rankdata(b, axis=1))


def kendall(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Kendall's τ-b, by how many pairs of components are in the same order; NaN for a constant."""
    return np.array([kendalltau(*row)[0] for row in zip(a, b, strict=True)], dtype=float)


def sign_agreement(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The share of components with scores of the same sign; 0 agrees with 0 alone."""
    return (np.sign(a) == np.sign(b)).mean(axis=1)


def slope(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The slope of b on a by least squares: 1 where b has a's scale; NaN where a is constant."""
    a, b = _centred(a), _centred(b)
    return _ratio((a * b).sum(axis=1), (a * a).sum(axis=1))


def concordance(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Lin's concordance 2 cov / (var a + var b + (mean a - mean b)²): 1 on the identity line only.

    NaN where both sides are constant and the same.
    """
    means = a.mean(axis=1) - b.mean(axis=1)
    covariance = (_centred(a) * _centred(b)).mean(axis=1)
    return _ratio(2 * covariance, a.var(axis=1) + b.var(axis=1) + means**2)


def overlap_at(k: int) -> Statistic:
    """The share of the k components largest by |score| that both sides have: overlap@k.

    By chance it is k over the number of components.
    """
    return lambda a, b: (top(a, k) & top(b, k)).sum(axis=1) / min(k, a.shape[1])


def jaccard_at(k: int) -> Statistic:
    """Jaccard's index |A ∩ B| / |A ∪ B| of the k components largest by |score|."""
    return lambda a, b: _jaccard(top(a, k), top(b, k))


def top(values: Rows, k: int) -> np.ndarray:
    """A mask of each row's k components largest by |score|; the first of equal ones is taken."""
    sizes = np.abs(values)
    if not 0 < k < sizes.shape[1]:
        return np.full(sizes.shape, k > 0)
    threshold = -np.partition(-sizes, k - 1, axis=1)[:, k - 1 : k]
    above, equal = sizes > threshold, sizes == threshold
    remaining = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1) <= remaining))


def correlations(a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, " prompt"]:
    """Pearson's r over components for each prompt; NaN where either side is constant."""
    return pearson(*_matrices(a, b))


def average(statistic: Statistic, a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of a statistic of each; prompts on which it is NaN are left out."""
    values = statistic(*_matrices(a, b))
    return mean_over_prompts(values[np.isfinite(values)], seed)


def average_correlation(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of Pearson's r over components, signed.

    Prompts on which either side is constant have no r and are left out; NaN if none remains.
    """
    return average(pearson, a, b, seed)


def of_means(
    statistics: Mapping[Name, Statistic],
    a: ArrayLike,
    b: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[Name, Estimate]:
    """Statistics of the two prompt-averaged scores; the sd is that of the bootstrap.

    All statistics see the same resamples. A resample has fewer different prompts, and so noisier
    means: where noise is large, Pearson's r lies at the upper end of its interval, or above it.
    """
    first, second = _matrices(a, b)
    everything = np.arange(len(first))

    def values(prompts: np.ndarray, axis: int = -1) -> np.ndarray:
        """Each statistic for each row of drawn prompts, by how often each prompt was drawn."""
        drawn = (prompts[..., None] == everything).sum(axis=-2) / len(everything)
        rows = np.atleast_2d(drawn)
        means = rows @ first, rows @ second
        found = [statistic(*means).reshape(drawn.shape[:-1]) for statistic in statistics.values()]
        return np.stack(found)

    numbers = np.stack([values(everything), *_interval(everything, values, seed, resamples)])
    return {name: Estimate(*of.tolist()) for name, of in zip(statistics, numbers.T, strict=True)}


def correlation_of_means(a: ArrayLike, b: ArrayLike, kind: Kind, seed: int = 0) -> Estimate:
    """The correlation over components of two prompt-averaged scores, as suits their kind.

    Of heads, Pearson's r of the means with a percentile bootstrap interval, see `of_means`. Of
    neurons, `correlation_across_prompts`: most of a neuron's score is noise that differs between
    prompts, and resampled means are noisier than the means, so that the bootstrap's intervals miss.
    The kind decides, never the value found.
    """
    one_of("kind", kind, KINDS)
    if kind == "heads":
        return of_means({"r": pearson}, a, b, seed)["r"]
    return correlation_across_prompts(a, b)


def correlation_across_prompts(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Pearson's r of the means, from products of different prompts only, free of their noise.

    With rows centred over components it is

        r = Σ_{p≠q} a_p·b_q / √(Σ_{p≠q} a_p·a_q · Σ_{p≠q} b_p·b_q),

    to which a prompt's noise, shared by both methods or not, adds nothing on average. NaN where a
    sum below the root is not above 0, as for one prompt. The sd is the delete-one jackknife's
    standard error, the interval so many of them as t's quantile for n - 1 degrees of freedom says.
    Noise can take r past ±1: value and interval are cut there.
    """
    sums = _sums_of_pairs(*_matrices(a, b))
    return _with_jackknife(_correlation(*sums), most=1.0)


def slope_across_prompts(a: ArrayLike, b: ArrayLike) -> Estimate:
    """The slope of b's means on a's, from products of different prompts only.

    Σ_{p≠q} a_p·b_q / Σ_{p≠q} a_p·a_q, with rows centred over components: a's noise does not flatten
    it. sd and interval are found as those of `correlation_across_prompts`.
    """
    return _with_jackknife(_slope(*_sums_of_pairs(*_matrices(a, b))), most=np.inf)


def of_sampled_components(
    a: ArrayLike, b: ArrayLike, strata: ArrayLike, size: int
) -> tuple[Estimate, Estimate]:
    """Pearson's r and the slope of b on a, over components of which only some were measured.

    Both are those of the sample, from products of different prompts. Their intervals count that
    prompts and that components were drawn: the variances of the delete-one jackknives over prompts
    and over each stratum's components add up, with Satterthwaite's degrees of freedom, for r on the
    scale of atanh. Each stratum counts alike, and what was drawn entirely adds no variance.

    Where noise takes r to 1 or past it, r is 1 and has no interval.

    They contain the true value less often than 95 % intervals should where few components matter
    most, as these are seldom drawn.

    Args:
        a: (prompt, component), the sampled components only.
        b: of the same shape.
        strata: each component's stratum, such as its layer; equally many are of each.
        size: how many components a stratum has, drawn or not.

    Raises:
        ValueError: for strata of different numbers of components, of one, or of more than `size`.
    """
    first, second = _matrices(a, b)
    drawn = _members(np.asarray(strata), first.shape[1], size)
    by_prompt = _sums_of_pairs(first, second)
    by_component = [_sums_without_each(*sides) for sides in _pairs(first, second)]

    def estimate(statistic: Callable, scale: Callable, back: Callable) -> Estimate:
        value, *without = scale(statistic(*by_prompt))
        of_strata = scale(statistic(*by_component))[drawn]
        spreads = (1 - drawn.shape[1] / size) * _jackknife(of_strata)
        parts = [(_jackknife(np.array(without)), len(first) - 1)]
        parts += [(spread, drawn.shape[1] - 1) for spread in spreads.tolist()]
        past_one = scale is _atanh and abs(back(value)) >= NEARLY_ONE * (1 - ROUNDING)
        reach = np.nan if past_one else _reach(parts)
        ends = back(value - reach), back(value), back(value + reach)
        return Estimate(float(ends[1]), np.nan, float(ends[0]), float(ends[2]))

    return estimate(_correlation, _atanh, np.tanh), estimate(_slope, np.asarray, np.asarray)


def measure_overlap(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of two masks' Jaccard index |A ∩ B| / |A ∪ B|; 1 if both are empty."""
    first, second = _matrices(a, b)
    if not np.isin([first, second], (0, 1)).all():
        raise ValueError("measure_overlap compares masks: expected True and False only.")
    return mean_over_prompts(_jaccard(first != 0, second != 0), seed)


def mean_over_prompts(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of one number per prompt, with its interval; NaN where there is none."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    _, low, high = _interval(numbers, np.mean, seed, RESAMPLES)
    sd = numbers.std(ddof=1) if len(numbers) > 1 else np.nan
    return Estimate(float(numbers.mean()), float(sd), float(low), float(high))


def split_halves(
    statistic: Statistic, a: ArrayLike, b: ArrayLike, splits: int = 200, seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """How stable each method is, and how far they agree on different prompts.

    On random halves of the prompts it compares a with itself and b with itself, which is the most
    that their noise allows, and a on one half with b on the other. Estimates are means over the
    splits, of two prompts or more; the interval is that of the splits, from their 2.5 % to 97.5 %.
    """
    first, second = _matrices(a, b)
    if len(first) < 2:
        raise ValueError("split_halves needs two prompts or more.")
    random = np.random.default_rng(seed)
    chosen = np.argsort(random.random((splits, len(first))), axis=1) < len(first) // 2
    halves = [half / half.sum(axis=1, keepdims=True) for half in (chosen, ~chosen)]
    (a_one, a_two), (b_one, b_two) = ([half @ side for half in halves] for side in (first, second))
    pairs = ((a_one, a_two), (b_one, b_two), (a_one, b_two))
    one, other, across = (_over_splits(statistic(*pair)) for pair in pairs)
    return one, other, across


def _over_splits(values: Float[np.ndarray, " split"]) -> Estimate:
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(float(values.mean()), float(values.std(ddof=1)), float(low), float(high))


def _interval(
    values: np.ndarray, statistic: Callable, seed: int, resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bootstrap's standard deviation and its percentile interval; NaN for one prompt."""
    if len(values) < 2:
        nothing = np.full(np.shape(statistic(values)), np.nan)
        return nothing, nothing, nothing
    result = bootstrap(
        (values,),
        statistic,
        vectorized=True,
        batch=BATCH,
        n_resamples=resamples,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return np.asarray(result.standard_error), np.asarray(interval.low), np.asarray(interval.high)


def _matrices(a: ArrayLike, b: ArrayLike) -> tuple[Rows, Rows]:
    first, second = (np.asarray(array, dtype=np.float64) for array in (a, b))
    if first.shape != second.shape or first.ndim < 2 or len(first) == 0:
        raise ValueError(
            "Two arrays of the same shape (prompt, component...) with at least one prompt are "
            f"expected, not {first.shape} and {second.shape}."
        )
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError(
            "The scores contain NaN, which stands for components that were not scored: select "
            "those that both sides have, such as scores.heads[:, layers, indices]."
        )
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _centred(rows: Rows) -> Rows:
    """Rows minus their means; exactly 0 where a row is constant."""
    constant = np.ptp(rows, axis=1, keepdims=True) == 0
    return np.where(constant, 0, rows - rows.mean(axis=1, keepdims=True))


def _pairs(a: Rows, b: Rows) -> tuple[tuple[Rows, Rows], ...]:
    """What a correlation is made of."""
    return (a, b), (a, a), (b, b)


def _sums_of_pairs(a: Rows, b: Rows) -> list[Float[np.ndarray, " left_out"]]:
    return [_sums_across(*sides) for sides in _pairs(_centred(a), _centred(b))]


def _correlation(shared: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return _ratio(shared, np.sqrt(np.maximum(one, 0) * np.maximum(other, 0)))


def _slope(shared: np.ndarray, one: np.ndarray, _: np.ndarray) -> np.ndarray:
    return _ratio(shared, np.maximum(one, 0))


def _with_jackknife(values: Float[np.ndarray, " left_out"], most: float) -> Estimate:
    """An estimate from its value and those without each prompt, cut where it is past `most`."""
    error = float(np.sqrt(_jackknife(values[1:])))
    reach = t.ppf((1 + LEVEL) / 2, len(values) - 2) * error
    found = [values[0], values[0] - reach, values[0] + reach]
    value, low, high = np.clip(found, -most, most).tolist()
    return Estimate(value, error, low, high)


def _jackknife(values: Float[np.ndarray, "*rows unit"]) -> Any:
    """The variance of a statistic, from its values without each unit."""
    return (values.shape[-1] - 1) * values.var(axis=-1)


def _reach(parts: list[tuple[Any, int]]) -> float:
    """Half an interval's width for the sum of independent variances, each with its degrees.

    Satterthwaite 1946.
    """
    variance = sum(part for part, _ in parts)
    below = sum(part**2 / degrees for part, degrees in parts if part)
    if not below:
        return float(variance)  # 0 or NaN
    return float(t.ppf((1 + LEVEL) / 2, variance**2 / below) * np.sqrt(variance))


def _atanh(r: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(r, -NEARLY_ONE, NEARLY_ONE))


def _members(strata: np.ndarray, components: int, size: int) -> np.ndarray:
    """The indices of each stratum's components, a row per stratum."""
    rows = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    counts = {len(row) for row in rows}
    if strata.shape != (components,) or len(counts) != 1 or not 2 <= min(counts) <= size:
        raise ValueError(
            f"strata has {strata.shape[0] if strata.ndim else 0} entries and from {min(counts)} to "
            f"{max(counts)} components a stratum: expected an entry for each of {components} "
            f"components, and equally many a stratum, from 2 to size={size}."
        )
    return np.array(rows)


def _sums_across(a: Rows, b: Rows) -> Float[np.ndarray, " left_out"]:
    """Σ_{p≠q} a_p·b_q over all prompts, then without each; 0 where only rounding is left.

    With A = Σ a_p and B = Σ b_p it is A·B - Σ a_p·b_p, so that all n + 1 take as long as one.
    """
    products, of_a, of_b = (a * b).sum(axis=1), a.sum(axis=0), b.sum(axis=0)
    whole = of_a @ of_b - products.sum()
    sums = np.append(whole, whole - a @ of_b - b @ of_a + 2 * products)
    return np.where(np.abs(sums) > ROUNDING * np.abs(products).sum(), sums, 0)


def _sums_without_each(a: Rows, b: Rows) -> Float[np.ndarray, " component"]:
    """Σ_{p≠q} a_p·b_q of rows centred over components, without each of these in turn."""
    own = a.sum(axis=0) * b.sum(axis=0) - (a * b).sum(axis=0)
    of_a, of_b = (side.sum(axis=1, keepdims=True) - side for side in (a, b))
    means = of_a.sum(axis=0) * of_b.sum(axis=0) - (of_a * of_b).sum(axis=0)
    return own.sum() - own - means / (a.shape[1] - 1)


def _jaccard(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, " row"]:
    """|A ∩ B| / |A ∪ B| of each row of two masks; 1 where both are empty."""
    either = (first | second).sum(axis=1)
    return np.where(either == 0, 1.0, (first & second).sum(axis=1) / np.maximum(either, 1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.where(below == 0, np.nan, above / np.where(below == 0, 1, below))
