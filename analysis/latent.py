"""Components whose role depends on the direction: latent ones, and what they do beside others.

A component is *highlighted* when it is among the largest by |score|, and *latent* when it is
highlighted in one direction but not in the other. Arrays are scores of prompts, or averages over
prompts; those of one component in noising and in denoising stand at the same place.
"""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from analysis.agreement import mean_over_prompts, top

FRACTION = 0.1
CONTROLS = 3
PERMUTATIONS = 2000

Values = Float[np.ndarray, "layer component"]


def highlight_components(
    scores: ArrayLike, fraction: float = FRACTION
) -> Bool[np.ndarray, "prompt *component"]:
    """A mask of each prompt's top fraction of all components by |score|, rounded up.

    The first of equal ones is taken; a score of 0 is never highlighted.

    Raises:
        ValueError: for a fraction that is not above 0 and at most 1.

    Examples:
        >>> import numpy as np
        >>> from analysis.latent import highlight_components
        >>> highlight_components(np.array([[0.1, -3.0, 2.0, 0.5]]), fraction=0.5)
        array([[False,  True,  True, False]])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction} was given: expected above 0 and at most 1.")
    values = np.asarray(scores)
    rows = values.reshape(len(values), -1)
    # 0.1 of 30 is 3, though their product in floats is above it.
    count = ceil(fraction * rows.shape[1] - 1e-9)
    return (top(rows, count) & (rows != 0)).reshape(values.shape)


def latent_components(
    noising: ArrayLike, denoising: ArrayLike, fraction: float = FRACTION
) -> Bool[np.ndarray, "prompt *component"]:
    """A mask of the components highlighted in one direction and not in the other.

    Examples:
        >>> import numpy as np
        >>> from analysis.latent import latent_components
        >>> noising = np.array([[3.0, 2.0, 0.1, 0.0]])
        >>> denoising = np.array([[-3.0, -0.2, -2.0, 0.0]])
        >>> latent_components(noising, denoising, fraction=0.5)
        array([[False,  True,  True, False]])
    """
    return highlight_components(noising, fraction) ^ highlight_components(denoising, fraction)


def asymmetry(noising: ArrayLike, denoising: ArrayLike) -> Float[np.ndarray, "*component"]:
    """|denoising| - |noising|, a latent component's continuous version.

    Negative where the component is needed but not enough (as an input of AND), positive where it
    is enough but not needed (OR), 0 where the direction does not matter.

    Examples:
        >>> from analysis.latent import asymmetry

        One input of AND, of OR, and one that does as much in either direction:

        >>> asymmetry([-1.0, 0.0, -0.5], [0.0, 1.0, 0.5])
        array([-1.,  1.,  0.])
    """
    return np.abs(np.asarray(denoising)) - np.abs(np.asarray(noising))


class Comparison(NamedTuple):
    """Latent components beside their matched controls.

    `effect` is the mean difference of the outcome in units of its standard deviation within
    layers, `low` and `high` its bootstrap interval over prompts, and `p` that of the permutation
    test. `latent` and `controls` count the components that were compared, `unmatched` the latent
    ones for which no control was left. `balance` is each covariate's mean difference between the
    same components in units of its own standard deviation within layers: far from 0 (0.1 is the
    usual bound), the controls are no controls. Everything is NaN where nothing was compared.

    Examples:
        >>> import numpy as np
        >>> from analysis.latent import compare_with_controls

        Without a latent component there is nothing to compare:

        >>> nothing, ones = np.zeros((1, 4), dtype=bool), np.ones((1, 4))
        >>> found = compare_with_controls(nothing, ones[None], {"size": ones})
        >>> found.latent, found.effect
        (0, nan)
    """

    effect: float
    low: float
    high: float
    p: float
    latent: int
    controls: int
    unmatched: int
    balance: dict[str, float]


def log_covariates(**sizes: tuple[ArrayLike, ...]) -> dict[str, Values]:
    """What latent components are matched on: the log of each mean of absolute values.

    `IG=(noising, denoising)` is log((|noising| + |denoising|) / 2); -inf where both are 0.

    Examples:
        >>> import numpy as np
        >>> from analysis.latent import log_covariates
        >>> noising, denoising = np.array([[1.0, -4.0]]), np.array([[-1.0, 2.0]])
        >>> log_covariates(IG=(noising, denoising))["IG"].round(2)
        array([[0. , 1.1]])
    """
    with np.errstate(divide="ignore"):
        return {
            name: np.log(np.mean([np.abs(np.asarray(side, dtype=float)) for side in sides], axis=0))
            for name, sides in sizes.items()
        }


def compare_with_controls(
    latent: Bool[np.ndarray, "layer component"],
    outcome: Float[np.ndarray, "prompt layer component"],
    covariates: Mapping[str, Float[np.ndarray, "layer component"]],
    controls: int = CONTROLS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Whether latent components differ in an outcome from others of their layer that are like them.

    Each latent component gets up to `controls` others of its own layer, none of them twice, such
    that the distances in the standardised covariates are smallest in total. The test permutes
    which member of each matched set is the latent one; its p is two-sided and counts the data
    themselves as one of the permutations. A component with an outcome or a covariate that is not
    finite is left out.

    Examples:
        >>> import numpy as np
        >>> from analysis.latent import compare_with_controls
        >>> random = np.random.default_rng(0)
        >>> size = random.normal(size=(2, 40))
        >>> latent = np.zeros((2, 40), dtype=bool)
        >>> latent[:, :5] = True

        An outcome that follows the size, and is half a unit larger where a component is latent:

        >>> outcome = size + 0.5 * latent + 0.1 * random.normal(size=(20, 2, 40))
        >>> found = compare_with_controls(latent, outcome, {"size": size})
        >>> print(f"{found.effect:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p:.4f}")
        0.51 [0.50, 0.52], p = 0.0005
        >>> print(found.latent, found.controls, f"{found.balance['size']:.2f}")
        10 30 -0.01
    """
    finite = [np.isfinite(values) for values in (*outcome, *covariates.values())]
    usable = np.asarray(np.stack(finite).all(axis=0))
    standard = {name: _standardised(values, usable) for name, values in covariates.items()}
    sets = _matched_sets(latent & usable, ~latent & usable, list(standard.values()), controls)
    unmatched = int((latent & usable).sum()) - len(sets)
    if not sets:
        empty = dict.fromkeys(covariates, np.nan)
        return Comparison(np.nan, np.nan, np.nan, np.nan, 0, 0, unmatched, empty)
    mean = outcome.mean(axis=0)
    unit = _spread(mean, usable)
    # Without any spread within layers there are no differences either.
    by_prompt = np.array([_difference(one, sets) for one in outcome]) / (unit or 1.0)
    estimate = mean_over_prompts(by_prompt, seed)
    return Comparison(
        effect=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=_permutation_test(mean, sets, permutations, seed),
        latent=len(sets),
        controls=sum(len(members) - 1 for members in sets),
        unmatched=unmatched,
        balance={name: _difference(values, sets) for name, values in standard.items()},
    )


def _standardised(values: Values, usable: Bool[np.ndarray, "layer component"]) -> Values:
    """In units of the standard deviation within layers; 0 where there is none, or not usable."""
    kept = np.where(usable, values, 0.0)
    return kept / (_spread(kept, usable) or 1.0)


def _spread(values: Values, usable: Bool[np.ndarray, "layer component"]) -> float:
    """The standard deviation within layers."""
    centred = [
        row[mask] - row[mask].mean() for row, mask in zip(values, usable, strict=True) if mask.any()
    ]
    return float(np.sqrt(np.mean(np.square(np.concatenate(centred))))) if centred else 0.0


def _matched_sets(
    latent: Bool[np.ndarray, "layer component"],
    others: Bool[np.ndarray, "layer component"],
    standard: list[Values],
    controls: int,
) -> list[np.ndarray]:
    """Flat places of each latent component that has a control, and after it of its controls."""
    sets: list[np.ndarray] = []
    for layer, (own, free) in enumerate(zip(latent, others, strict=True)):
        places, candidates = np.flatnonzero(own), np.flatnonzero(free)
        points = np.stack([values[layer] for values in standard], axis=1)
        apart = np.linalg.norm(points[places, None] - points[candidates], axis=2)
        rows, columns = linear_sum_assignment(np.repeat(apart, controls, axis=0))
        for number, place in enumerate(places):
            chosen = candidates[columns[rows // controls == number]]
            if len(chosen):
                sets.append(np.array([place, *chosen]) + layer * latent.shape[1])
    return sets


def _difference(values: Values, sets: list[np.ndarray]) -> float:
    """The mean over sets of the latent component's value minus its controls' mean."""
    flat = values.ravel()
    return float(np.mean([flat[place] - flat[rest].mean() for place, *rest in sets]))


def _permutation_test(
    values: Values, sets: list[np.ndarray], permutations: int, seed: int
) -> float:
    """How often a random member of each set in the latent one's place differs as much."""
    random = np.random.default_rng(seed)
    totals = np.zeros(permutations)
    for members in sets:
        own = values.ravel()[members]
        rest = (own.sum() - own) / (len(own) - 1)
        totals += (own - rest)[random.integers(len(own), size=permutations)]
    observed = abs(_difference(values, sets))
    # Sums of the same numbers in another order are equal but for rounding.
    as_large = np.abs(totals) / len(sets) >= observed * (1 - 1e-9)
    return float((1 + as_large.sum()) / (1 + permutations))
