"""Direction-dependent (*latent*) components, and how they compare with others that are like them.

A component is *highlighted* when it is among the largest by |score|, and *latent* when it is
highlighted in one direction but not in the other. Arrays are scores of prompts, or averages over
prompts; noising and denoising have the same components in the same order.

Examples:
    >>> from analysis.latent import latent_components
    >>> latent_components([[0.1, -3.0, 2.0, 0.5]], [[0.1, -3.0, 0.5, 2.0]], fraction=0.5)
    array([[False, False,  True,  True]])
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

Mask = Bool[np.ndarray, "layer component"]
Values = Float[np.ndarray, "layer component"]


def highlight_components(
    scores: ArrayLike, fraction: float = FRACTION
) -> Bool[np.ndarray, "prompt *component"]:
    """A mask of each prompt's top fraction of all components by |score|, rounded up.

    The first of equal ones is taken; a score of 0 is never highlighted.
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
    """A mask of the components highlighted in one direction and not in the other."""
    return highlight_components(noising, fraction) ^ highlight_components(denoising, fraction)


class Comparison(NamedTuple):
    """Latent components beside their matched controls.

    `effect` is the mean difference of the outcome in units of its standard deviation within
    layers, `low` and `high` its bootstrap interval over prompts, and `p` that of the permutation
    test. `compared` and `controls` count components, `unmatched` the latent ones without a control.
    `balance` is each covariate's mean difference in units of its standard deviation within layers:
    far from 0 (0.1 is the usual bound), the controls are no controls. Without anything to compare
    everything is NaN.
    """

    effect: float
    low: float
    high: float
    p: float
    compared: int
    controls: int
    unmatched: int
    balance: dict[str, float]


def log_covariates(**sizes: tuple[ArrayLike, ...]) -> dict[str, Values]:
    """The logs of mean absolute values, for controls to be matched on; -inf for a mean of 0.

    `IG=(noising, denoising)` gives log((|noising| + |denoising|) / 2).
    """
    with np.errstate(divide="ignore"):
        return {
            name: np.log(np.abs(np.array(sides, dtype=float)).mean(axis=0))
            for name, sides in sizes.items()
        }


def compare_with_controls(
    latent: Mask,
    outcome: Float[np.ndarray, "prompt layer component"],
    covariates: Mapping[str, Values],
    controls: int = 3,
    permutations: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether latent components differ in an outcome from others of their layer that are like them.

    Each latent component gets up to `controls` others of its layer, none of them twice, such that
    the distances in the standardised covariates are smallest in total. The two-sided test permutes
    which member of each matched set is the latent one, and counts the data themselves as one of the
    permutations. A component with an outcome or a covariate that is not finite is left out.
    """
    usable = np.asarray(np.isfinite([*outcome, *covariates.values()]).all(axis=0))
    kept = {name: np.where(usable, values, 0.0) for name, values in covariates.items()}
    standard = {name: values / (_spread(values, usable) or 1.0) for name, values in kept.items()}
    sets = _matched_sets(latent & usable, ~latent & usable, list(standard.values()), controls)
    mean = outcome.mean(axis=0)
    # Without any spread within layers there are no differences either.
    unit = _spread(mean, usable) or 1.0
    by_prompt = [_difference(one, sets) / unit for one in outcome] if sets else []
    effect, _, low, high = mean_over_prompts(by_prompt, seed)
    return Comparison(
        *(effect, low, high),
        p=_permutation_test(mean, sets, permutations, seed) if sets else np.nan,
        compared=len(sets),
        controls=sum(len(members) - 1 for members in sets),
        unmatched=int((latent & usable).sum()) - len(sets),
        balance={name: _difference(values, sets) for name, values in standard.items()},
    )


def _spread(values: Values, usable: Mask) -> float:
    """The standard deviation within layers."""
    rows = (row[mask] for row, mask in zip(values, usable, strict=True) if mask.any())
    centred = [row - row.mean() for row in rows]
    return float(np.sqrt(np.mean(np.square(np.concatenate(centred))))) if centred else 0.0


def _matched_sets(
    latent: Mask, others: Mask, standard: list[Values], controls: int
) -> list[np.ndarray]:
    """Flat indices: of each latent component that has a control, and after it of its controls."""
    sets: list[np.ndarray] = []
    for layer, (wanted, free) in enumerate(zip(latent, others, strict=True)):
        components, candidates = np.flatnonzero(wanted), np.flatnonzero(free)
        points = np.stack([values[layer] for values in standard], axis=1)
        apart = np.linalg.norm(points[components, None] - points[candidates], axis=2)
        rows, columns = linear_sum_assignment(np.repeat(apart, controls, axis=0))
        for number, component in enumerate(components):
            chosen = candidates[columns[rows // controls == number]]
            if len(chosen):
                sets.append(np.array([component, *chosen]) + layer * latent.shape[1])
    return sets


def _difference(values: Values, sets: list[np.ndarray]) -> float:
    """The mean over sets of the latent component's value minus its controls' mean; NaN of none."""
    flat = values.ravel()
    differences = [flat[component] - flat[rest].mean() for component, *rest in sets]
    return float(np.mean(differences)) if differences else np.nan


def _permutation_test(
    values: Values, sets: list[np.ndarray], permutations: int, seed: int
) -> float:
    """How often the difference is as large when a random member of each set is the latent one."""
    random = np.random.default_rng(seed)
    totals = np.zeros(permutations)
    for members in sets:
        each = values.ravel()[members]
        rest = (each.sum() - each) / (len(each) - 1)
        totals += (each - rest)[random.integers(len(each), size=permutations)]
    observed = abs(_difference(values, sets))
    # Sums of the same numbers in another order are equal but for rounding.
    as_large = np.abs(totals) / len(sets) >= observed * (1 - 1e-9)
    return float((1 + as_large.sum()) / (1 + permutations))
