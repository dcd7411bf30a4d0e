"""How far two methods' scores agree: functions of arrays that know no model.

Arrays are (prompt, component...), torch or numpy; trailing axes are flattened. A *statistic*
compares rows: two matrices (row, component) give one number a row, NaN where it is not defined.
Rows are prompts, or prompt-averaged scores. Intervals are percentile bootstrap intervals over
prompts, the units that were sampled; components are not. Both methods' scores are drawn together.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, kendalltau, rankdata

RESAMPLES = 1000
BATCH = 200
LEVEL = 0.95

Rows = Float[np.ndarray, "row component"]
Name = TypeVar("Name", bound=Hashable)
Statistic = Callable[[Rows, Rows], Float[np.ndarray, " row"]]


class Estimate(NamedTuple):
    """A statistic over prompts: its value, the standard deviation over prompts, an interval."""

    mean: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        mean, low, high = (f"{value:z.2f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")


def pearson(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Pearson's r; NaN where either side is constant."""
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    r = (a * b).sum(axis=1) / np.where(constant, 1, norms)
    return np.where(constant, np.nan, np.clip(r, -1, 1))


def spearman(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Spearman's ρ, Pearson's r of the ranks; ties share their mean rank."""
    return pearson(rankdata(a, axis=1), rankdata(b, axis=1))


def kendall(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Kendall's τ-b."""
    return np.array([kendalltau(*row)[0] for row in zip(a, b, strict=True)], dtype=float)


def sign_agreement(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The share of components with scores of the same sign; 0 agrees with 0 alone."""
    return (np.sign(a) == np.sign(b)).mean(axis=1)


def slope(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The slope of b on a by least squares: 1 where b has a's scale; NaN where a is constant."""
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    return _ratio((a * b).sum(axis=1), (a * a).sum(axis=1))


def concordance(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Lin's concordance 2 cov / (var a + var b + (mean a - mean b)²): 1 on the identity line only.

    NaN where both sides are constant and the same.
    """
    means = a.mean(axis=1) - b.mean(axis=1)
    covariance = ((a - a.mean(axis=1, keepdims=True)) * (b - b.mean(axis=1, keepdims=True))).mean(1)
    return _ratio(2 * covariance, a.var(axis=1) + b.var(axis=1) + means**2)


def overlap_at(k: int) -> Statistic:
    """The share of the k components largest by |score| that both sides have: overlap@k.

    By chance it is k over the number of components; the first of equal ones is taken.
    """

    def overlap(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
        size = min(k, a.shape[1])
        return (top(a, k) & top(b, k)).sum(axis=1) / size

    return overlap


def jaccard_at(k: int) -> Statistic:
    """Jaccard's index of the k largest by |score|: overlap@k in another unit."""

    def jaccard(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
        first, second = top(a, k), top(b, k)
        return (first & second).sum(axis=1) / (first | second).sum(axis=1)

    return jaccard


def top(values: Rows, k: int) -> np.ndarray:
    """A mask of each row's k components largest by |score|; the first of equal ones is taken."""
    sizes = np.abs(values)
    if k >= sizes.shape[1]:
        return np.ones(sizes.shape, dtype=bool)
    if k == 0:
        return np.zeros(sizes.shape, dtype=bool)
    threshold = -np.partition(-sizes, k - 1, axis=1)[:, k - 1 : k]
    above, equal = sizes > threshold, sizes == threshold
    places_left = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1) <= places_left))


def correlations(a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, " prompt"]:
    """Pearson's r over components, one for each prompt; NaN where either side is constant.

    Raises:
        ValueError: where the shapes differ or there is no prompt.
    """
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

    All statistics see the same resamples of the prompts.
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

    whole = values(everything)
    if len(first) < 2:
        return {
            name: Estimate(float(value), np.nan, np.nan, np.nan)
            for name, value in zip(statistics, whole, strict=True)
        }
    spread, low, high = _interval(everything, values, seed, resamples)
    return {
        name: Estimate(*(float(part[place]) for part in (whole, spread, low, high)))
        for place, name in enumerate(statistics)
    }


def correlation_of_means(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """Pearson's r between the two prompt-averaged scores; the sd is that of the bootstrap."""
    return of_means({"r": pearson}, a, b, seed)["r"]


def measure_overlap(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of two masks' Jaccard index |A ∩ B| / |A ∪ B|; 1 if both are empty.

    Raises:
        ValueError: where the shapes differ or the values are not masks.
    """
    first, second = _matrices(a, b)
    for mask in (first, second):
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("measure_overlap compares masks: expected True and False only.")
    shared = np.minimum(first, second).sum(axis=1)
    either = np.maximum(first, second).sum(axis=1)
    return mean_over_prompts(np.where(either == 0, 1.0, shared / np.maximum(either, 1)), seed)


def mean_over_prompts(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of one number a prompt, with its interval; NaN where there is none."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Estimate(mean, np.nan, np.nan, np.nan)
    _, low, high = _interval(numbers, np.mean, seed, RESAMPLES)
    return Estimate(mean, float(numbers.std(ddof=1)), float(low), float(high))


class SplitHalves(NamedTuple):
    """Agreement of prompt-averaged scores across random halves of the prompts.

    `first` and `second` compare a method with itself, which is the most that its noise allows;
    `across` compares the one method on one half with the other on the other half.
    """

    first: Estimate
    second: Estimate
    across: Estimate


def split_halves(
    statistic: Statistic, a: ArrayLike, b: ArrayLike, splits: int = 200, seed: int = 0
) -> SplitHalves:
    """How stable each method is, beside how far they agree on different prompts.

    Means over random splits; the interval is that of the splits, from their 2.5 % to 97.5 %.

    Raises:
        ValueError: for fewer than two prompts.
    """
    first, second = _matrices(a, b)
    if len(first) < 2:
        raise ValueError("split_halves needs two prompts or more.")
    random = np.random.default_rng(seed)
    chosen = np.argsort(random.random((splits, len(first))), axis=1) < len(first) // 2
    halves = [half / half.sum(axis=1, keepdims=True) for half in (chosen, ~chosen)]
    (a_one, a_two), (b_one, b_two) = ([half @ side for half in halves] for side in (first, second))
    pairs = ((a_one, a_two), (b_one, b_two), (a_one, b_two))
    return SplitHalves(*(_over_splits(statistic(*pair)) for pair in pairs))


def _over_splits(values: Float[np.ndarray, " split"]) -> Estimate:
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(float(values.mean()), float(values.std(ddof=1)), float(low), float(high))


def _interval(
    values: np.ndarray, statistic: Callable, seed: int, resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bootstrap's standard deviation and its percentile interval."""
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
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.where(below == 0, np.nan, above / np.where(below == 0, 1, below))
