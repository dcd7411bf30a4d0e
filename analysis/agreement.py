"""How far two methods' scores agree: functions of arrays that know no model.

Arrays are (prompt, component...), torch or numpy; trailing axes are flattened. Intervals are
percentile bootstrap intervals over prompts, the units that were sampled; components are not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

RESAMPLES = 2000
BATCH = 200
LEVEL = 0.95


class Estimate(NamedTuple):
    """A statistic over prompts: its value, the standard deviation over prompts, an interval."""

    mean: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        text = f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return text.replace(" ", "\N{NO-BREAK SPACE}")


def correlations(a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, " prompt"]:
    """Pearson's r over components, one for each prompt; NaN where either side is constant.

    Raises:
        ValueError: where the shapes differ or there is no prompt.
    """
    first, second = _matrices(a, b)
    return _rowwise_pearson(first, second)


def average_correlation(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of Pearson's r over components, signed.

    Prompts on which either side is constant have no r and are left out; NaN if none remains.
    """
    r = correlations(a, b)
    return _over_prompts(r[np.isfinite(r)], seed)


def correlation_of_means(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """Pearson's r between the two prompt-averaged scores; the sd is that of the bootstrap."""
    first, second = _matrices(a, b)
    everything = np.arange(len(first))

    def statistic(prompts: np.ndarray, axis: int = -1) -> np.ndarray:
        """r for each row of drawn prompts, by how often each prompt was drawn."""
        drawn = (prompts[..., None] == everything).sum(axis=-2) / len(everything)
        rows = np.atleast_2d(drawn)
        return _rowwise_pearson(rows @ first, rows @ second).reshape(drawn.shape[:-1])

    value = float(statistic(everything))
    if len(first) < 2 or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan, np.nan)
    return Estimate(value, *_interval(everything, statistic, seed))


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
    return _over_prompts(np.where(either == 0, 1.0, shared / np.maximum(either, 1)), seed)


def mean_over_prompts(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of one number a prompt, with its interval."""
    return _over_prompts(np.asarray(values, dtype=np.float64), seed)


def _over_prompts(values: Float[np.ndarray, " prompt"], seed: int) -> Estimate:
    if len(values) == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, np.nan, np.nan, np.nan)
    _, low, high = _interval(values, np.mean, seed)
    return Estimate(mean, float(values.std(ddof=1)), low, high)


def _interval(values: np.ndarray, statistic: Callable, seed: int) -> tuple[float, float, float]:
    """The bootstrap's standard deviation and its percentile interval."""
    result = bootstrap(
        (values,),
        statistic,
        vectorized=True,
        batch=BATCH,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(result.standard_error), float(interval.low), float(interval.high)


def _matrices(
    a: ArrayLike, b: ArrayLike
) -> tuple[Float[np.ndarray, "prompt component"], Float[np.ndarray, "prompt component"]]:
    first, second = (np.asarray(array, dtype=np.float64) for array in (a, b))
    if first.shape != second.shape or first.ndim < 2 or len(first) == 0:
        raise ValueError(
            "Two arrays of the same shape (prompt, component...) with at least one prompt are "
            f"expected, not {first.shape} and {second.shape}."
        )
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _rowwise_pearson(
    a: Float[np.ndarray, "row component"], b: Float[np.ndarray, "row component"]
) -> Float[np.ndarray, " row"]:
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    r = (a * b).sum(axis=1) / np.where(constant, 1, norms)
    return np.where(constant, np.nan, np.clip(r, -1, 1))
