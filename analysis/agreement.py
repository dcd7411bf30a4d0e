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
    """A statistic over prompts: its value, the standard deviation over prompts, an interval.

    Examples:
        >>> from analysis.agreement import Estimate
        >>> print(Estimate(mean=0.914, sd=0.1, low=0.87, high=0.953))
        0.91 [0.87, 0.95]
    """

    mean: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        mean, low, high = (f"{value:z.2f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")


def pearson(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Pearson's r; NaN where either side is constant.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import pearson
        >>> a = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
        >>> b = np.array([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
        >>> pearson(a, b)
        array([ 1., -1., nan])
    """
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    r = (a * b).sum(axis=1) / np.where(constant, 1, norms)
    return np.where(constant, np.nan, np.clip(r, -1, 1))


def spearman(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Spearman's ρ, Pearson's r of the ranks; ties share their mean rank.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import pearson, spearman
        >>> a, b = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1.0, 8.0, 27.0, 640.0]])
        >>> spearman(a, b).round(2), pearson(a, b).round(2)
        (array([1.]), array([0.8]))
    """
    return pearson(rankdata(a, axis=1), rankdata(b, axis=1))


def kendall(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Kendall's τ-b, by how many pairs of components are in the same order; NaN for a constant.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import kendall

        One of the three pairs of components is in another order:

        >>> kendall(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])).round(3)
        array([0.333])
    """
    return np.array([kendalltau(*row)[0] for row in zip(a, b, strict=True)], dtype=float)


def sign_agreement(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The share of components with scores of the same sign; 0 agrees with 0 alone.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import sign_agreement
        >>> sign_agreement(
        ...     np.array([[1.0, -2.0, 0.0, 4.0]]), np.array([[3.0, -1.0, 0.5, -4.0]])
        ... )
        array([0.5])
    """
    return (np.sign(a) == np.sign(b)).mean(axis=1)


def slope(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """The slope of b on a by least squares: 1 where b has a's scale; NaN where a is constant.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import slope
        >>> a = np.array([[1.0, 2.0, 4.0]])
        >>> slope(a, 1.1 * a + 5).round(2)
        array([1.1])
    """
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    return _ratio((a * b).sum(axis=1), (a * a).sum(axis=1))


def concordance(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
    """Lin's concordance 2 cov / (var a + var b + (mean a - mean b)²): 1 on the identity line only.

    NaN where both sides are constant and the same.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import concordance, pearson
        >>> a = np.array([[-1.0, 0.0, 1.0]])

        Twice as large correlates perfectly, but is not the same:

        >>> pearson(a, 2 * a).round(2), concordance(a, 2 * a).round(2)
        (array([1.]), array([0.8]))
    """
    means = a.mean(axis=1) - b.mean(axis=1)
    covariance = ((a - a.mean(axis=1, keepdims=True)) * (b - b.mean(axis=1, keepdims=True))).mean(1)
    return _ratio(2 * covariance, a.var(axis=1) + b.var(axis=1) + means**2)


def overlap_at(k: int) -> Statistic:
    """The share of the k components largest by |score| that both sides have: overlap@k.

    By chance it is k over the number of components; the first of equal ones is taken.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import overlap_at
        >>> a, b = np.array([[5.0, -4.0, 1.0, 0.0]]), np.array([[6.0, 0.5, 3.0, 0.0]])
        >>> overlap_at(2)(a, b)
        array([0.5])
    """

    def overlap(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
        size = min(k, a.shape[1])
        return (top(a, k) & top(b, k)).sum(axis=1) / size

    return overlap


def jaccard_at(k: int) -> Statistic:
    """Jaccard's index of the k largest by |score|: overlap@k in another unit.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import jaccard_at
        >>> a, b = np.array([[5.0, -4.0, 1.0, 0.0]]), np.array([[6.0, 0.5, 3.0, 0.0]])
        >>> jaccard_at(2)(a, b).round(2)
        array([0.33])
    """

    def jaccard(a: Rows, b: Rows) -> Float[np.ndarray, " row"]:
        first, second = top(a, k), top(b, k)
        return (first & second).sum(axis=1) / (first | second).sum(axis=1)

    return jaccard


def top(values: Rows, k: int) -> np.ndarray:
    """A mask of each row's k components largest by |score|; the first of equal ones is taken.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import top
        >>> top(np.array([[1.0, -5.0, 2.0, 0.0]]), k=2)
        array([[False,  True,  True, False]])
    """
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

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import correlations

        Two prompts, two layers of two heads:

        >>> ap = np.array([[[1.0, 0.0], [2.0, -1.0]], [[0.0, 3.0], [1.0, 1.0]]])
        >>> ig = np.array([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 6.0], [2.0, 2.0]]])
        >>> correlations(ap, ig).round(2)
        array([0.63, 1.  ])
    """
    return pearson(*_matrices(a, b))


def average(statistic: Statistic, a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of a statistic of each; prompts on which it is NaN are left out.

    Raises:
        ValueError: where the shapes differ or there is no prompt.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import average, sign_agreement
        >>> random = np.random.default_rng(0)
        >>> ap = random.normal(size=(20, 4, 8))
        >>> print(average(sign_agreement, ap, ap + random.normal(size=ap.shape)))
        0.77 [0.73, 0.80]
    """
    values = statistic(*_matrices(a, b))
    return mean_over_prompts(values[np.isfinite(values)], seed)


def average_correlation(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of Pearson's r over components, signed.

    Prompts on which either side is constant have no r and are left out; NaN if none remains.

    Raises:
        ValueError: where the shapes differ or there is no prompt.

    Examples:
        >>> from analysis import (
        ...     activation_patching,
        ...     integrated_gradients,
        ...     load_model,
        ...     load_task,
        ... )
        >>> from analysis.agreement import average_correlation
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=4)
        >>> ap = activation_patching(model, pairs, kinds=("heads",))
        >>> ig = integrated_gradients(model, pairs, kinds=("heads",))
        >>> print(average_correlation(ap.heads, ig.heads))
        1.00 [1.00, 1.00]
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

    All statistics see the same resamples of the prompts. A resample has fewer different prompts,
    and so noisier means: where noise is large, a correlation can lie at the upper end of its
    interval, or above it.

    Raises:
        ValueError: where the shapes differ or there is no prompt.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import of_means, pearson, slope
        >>> random = np.random.default_rng(0)
        >>> ap = random.normal(size=32) + random.normal(size=(20, 32))
        >>> ig = 0.8 * ap + 0.1 * random.normal(size=ap.shape)
        >>> for name, estimate in of_means({"r": pearson, "slope": slope}, ap, ig).items():
        ...     print(name, estimate)
        r 1.00 [1.00, 1.00]
        slope 0.80 [0.79, 0.81]
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
    """Pearson's r between the two prompt-averaged scores, see `of_means`.

    Raises:
        ValueError: where the shapes differ or there is no prompt.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import average_correlation, correlation_of_means
        >>> random = np.random.default_rng(0)
        >>> truth = random.normal(size=32)
        >>> ap, ig = (truth + random.normal(size=(20, 32)) for _ in range(2))

        Noise of its own lowers each prompt's r, and averages out of the means:

        >>> print(average_correlation(ap, ig))
        0.41 [0.33, 0.49]
        >>> print(correlation_of_means(ap, ig))
        0.94 [0.82, 0.93]
    """
    return of_means({"r": pearson}, a, b, seed)["r"]


def measure_overlap(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of two masks' Jaccard index |A ∩ B| / |A ∪ B|; 1 if both are empty.

    Raises:
        ValueError: where the shapes differ or the values are not masks.

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import measure_overlap
        >>> a = np.array([[True, True, False], [False, False, False]])
        >>> b = np.array([[True, False, True], [False, False, False]])
        >>> round(measure_overlap(a, b).mean, 3)
        0.667
    """
    first, second = _matrices(a, b)
    for mask in (first, second):
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("measure_overlap compares masks: expected True and False only.")
    shared = np.minimum(first, second).sum(axis=1)
    either = np.maximum(first, second).sum(axis=1)
    return mean_over_prompts(np.where(either == 0, 1.0, shared / np.maximum(either, 1)), seed)


def mean_over_prompts(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of one number a prompt, with its interval; NaN where there is none.

    Examples:
        >>> from analysis.agreement import mean_over_prompts
        >>> estimate = mean_over_prompts([0.2, 0.4, 0.4, 0.6])
        >>> print(estimate, f"sd {estimate.sd:.2f}")
        0.40 [0.25, 0.55] sd 0.16
    """
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

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import pearson, split_halves

        Scores that prompts have nothing in common in: the halves of one method disagree.

        >>> scores = np.random.default_rng(0).normal(size=(40, 1000))
        >>> halves = split_halves(pearson, scores, scores)
        >>> abs(halves.first.mean) < 0.1
        True
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

    Examples:
        >>> import numpy as np
        >>> from analysis.agreement import pearson, split_halves
        >>> random = np.random.default_rng(0)
        >>> truth = random.normal(size=32)
        >>> ap, ig = (truth + random.normal(size=(20, 32)) for _ in range(2))
        >>> for name, estimate in split_halves(pearson, ap, ig)._asdict().items():
        ...     print(name, estimate)
        first 0.87 [0.81, 0.92]
        second 0.89 [0.84, 0.93]
        across 0.88 [0.83, 0.93]
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
