"""What many components do together: ablate a set of them, or keep only that set.

Ablating takes each component of the set to its baseline activation, in one run; keeping ablates
the other components of the same kind instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import top
from analysis.attribution.parts import MEMORY, engine, groups_for, split_into_parts
from analysis.attribution.sweep import check_choices
from analysis.checks import one_of
from analysis.forward import KINDS, Forward
from analysis.tasks import PromptPairs

# The shares of components at which MIB (Mueller et al. 2025) measures a circuit.
MIB_SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

Sets = Bool[np.ndarray, "set layer component"]


@torch.no_grad()
def multi_ablated_performance(
    model: TransformerBridge,
    pairs: PromptPairs,
    sets: Bool[np.ndarray, "set layer component"],
    kind: str,
    direction: str = "noising",
    baseline: str = "source",
    keep: bool = False,
    memory: int = MEMORY,
) -> Float[Tensor, "set prompt"]:
    """The metric with all components of each set at the baseline together, in its own units.

    Compare it with `Scores.base`, the metric of the run as it is.

    Args:
        sets: masks of components of one kind, any number of them.
        kind: `heads` or `neurons`.
        keep: ablate the components that are not in the set, and keep those that are.

    The other arguments, and the prompts that a mean leaves out, are those of
    `activation_patching`.

    Raises:
        ValueError: for an unknown direction, baseline or kind.

    Examples:
        >>> from analysis import activation_patching, load_model, load_task
        >>> from analysis.ablation import largest, multi_ablated_performance
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=4)
        >>> ap = activation_patching(model, pairs, kinds=("heads",))
        >>> strongest = largest(ap.heads.mean(dim=0), k=3)
        >>> ablated = multi_ablated_performance(model, pairs, strongest[None], "heads")
        >>> ablated.shape
        torch.Size([1, 4])
        >>> print(f"{ap.base.mean():.1f} with all heads, {ablated.mean():.1f} without three")
        4.3 with all heads, -5.0 without three
    """
    check_choices(direction, baseline, (kind,))
    with engine(model, pairs) as forward:
        _check_sets(sets, kind, forward)
        found = torch.zeros(len(sets), len(pairs))
        masks = torch.from_numpy(~sets if keep else sets).to(forward.device)
        for part in split_into_parts(forward, pairs, direction, baseline, memory):
            readout = part.readout
            for rows in torch.arange(len(sets)).split(part.batch(gradient=False)):
                values = part.base.replace(
                    part.values, {kind: masks[rows]}, readout.columns, readout.normalised
                )
                metric = readout.read(values).float().cpu()
                found[rows[:, None], torch.tensor(part.places)] = metric
    return found[:, sorted(place for group, _ in groups_for(pairs, baseline) for place in group)]


def _check_sets(sets: Sets, kind: str, forward: Forward) -> None:
    shape = (forward.layers, forward.components(kind))
    given = np.asarray(sets)
    if given.dtype != bool or given.shape[1:] != shape:
        raise ValueError(
            f"sets of the type {given.dtype} and shape {given.shape} were given: expected masks "
            f"(set, layer, component) of {shape[0]} layers of {shape[1]} {kind}."
        )


def largest(scores: ArrayLike, k: int) -> Bool[np.ndarray, "layer component"]:
    """A mask of the k components largest by |score|; the first of equal ones is taken.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import largest
        >>> largest(np.array([[0.1, -2.0], [1.0, 0.3]]), k=2)
        array([[False,  True],
               [ True, False]])
    """
    values = np.asarray(scores)
    return top(values.reshape(1, -1), k).reshape(values.shape)


class Exclusive(NamedTuple):
    """Two methods' top components, of equal size, and how they divide.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import Exclusive, largest
        >>> ig, ap = np.array([[3.0, 2.0, 0.1]]), np.array([[3.0, 0.1, -2.0]])
        >>> divided = Exclusive(largest(ig, 2), largest(ap, 2))
        >>> divided.shared
        array([[ True, False, False]])
        >>> divided.first_only
        array([[False,  True, False]])
    """

    first: Bool[np.ndarray, "layer component"]
    second: Bool[np.ndarray, "layer component"]

    @property
    def shared(self) -> Bool[np.ndarray, "layer component"]:
        """What both methods name."""
        return self.first & self.second

    @property
    def first_only(self) -> Bool[np.ndarray, "layer component"]:
        """What the first method names alone."""
        return self.first & ~self.second

    @property
    def second_only(self) -> Bool[np.ndarray, "layer component"]:
        """What the second method names alone."""
        return self.second & ~self.first


def random_sets(
    excluded: Bool[np.ndarray, "layer component"], size: int, draws: int, seed: int = 0
) -> Sets:
    """Sets of this size drawn from the components that are not excluded.

    Raises:
        ValueError: where fewer than `size` components are left.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import random_sets
        >>> excluded = np.array([[True, True, False, False], [False, False, False, False]])
        >>> sets = random_sets(excluded, size=3, draws=100)
        >>> sets.shape, int(sets.sum(axis=(1, 2)).max()), bool((sets & excluded).any())
        ((100, 2, 4), 3, False)
    """
    allowed = np.flatnonzero(~excluded)
    if size > len(allowed):
        raise ValueError(f"{size} components were asked for, but only {len(allowed)} are left.")
    random = np.random.default_rng(seed)
    return _masks([random.choice(allowed, size, replace=False) for _ in range(draws)], excluded)


def matched_sets(
    target: Bool[np.ndarray, "layer component"],
    excluded: Bool[np.ndarray, "layer component"],
    size_of: ArrayLike,
    draws: int,
    nearest: int = 10,
    seed: int = 0,
) -> Sets:
    """For each component of `target`, another one that moves about as much, drawn at random.

    The other one is among the `nearest` in `size_of`, such as ‖Δa‖, of the same layer, or of all
    layers where that one has none left; it is neither in the target nor excluded, and no set has
    it twice.

    Raises:
        ValueError: where fewer components are left than the target has.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import matched_sets
        >>> target = np.array([[True, False, False, False]])
        >>> differences = np.array([[2.0, 2.1, 0.1, 1.9]])

        How often each component stands in for the first one:

        >>> sets = matched_sets(
        ...     target, np.zeros_like(target), differences, draws=100, nearest=2
        ... )
        >>> sets.mean(axis=0).round(1)
        array([[0. , 0.4, 0. , 0.6]])
    """
    random = np.random.default_rng(seed)
    amounts = np.asarray(size_of, dtype=np.float64)
    allowed = ~(target | excluded)
    if target.sum() > allowed.sum():
        raise ValueError(
            f"{target.sum()} components are to be matched, but only {allowed.sum()} are left."
        )

    def draw() -> np.ndarray:
        free, chosen = allowed.copy(), []
        for layer, component in np.argwhere(target):
            pool = np.zeros_like(free)
            pool[layer] = free[layer]
            candidates = np.flatnonzero(pool if pool.any() else free)
            away = np.abs(amounts.flat[candidates] - amounts[layer, component])
            pick = random.choice(candidates[np.argsort(away, kind="stable")[:nearest]])
            free.flat[pick] = False
            chosen.append(pick)
        return np.array(chosen, dtype=int)

    return _masks([draw() for _ in range(draws)], target)


def faithfulness(
    kept: Float[np.ndarray, "*#batch"],
    empty: Float[np.ndarray, "*#batch"],
    full: Float[np.ndarray, "*#batch"],
) -> Float[np.ndarray, "..."]:
    """MIB's faithfulness of a circuit C: f = (m(C) - m(∅)) / (m(full) - m(∅)).

    1 is as good as the whole model, 0 no better than nothing; it may be above 1. From Mueller et
    al. (2025).

    Args:
        kept: m(C), the mean metric over prompts with all but the circuit ablated.
        empty: m(∅), the same with every component ablated.
        full: m(full), the same of the model as it is.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import faithfulness
        >>> faithfulness(
        ...     kept=np.array([0.5, 2.0, 3.5]), empty=np.array(-1.0), full=np.array(3.0)
        ... )
        array([0.375, 0.75 , 1.125])
    """
    return (kept - empty) / (full - empty)


def area_under(
    faithful: Float[np.ndarray, "share *batch"], shares: Sequence[float] = MIB_SHARES
) -> Float[np.ndarray, "*batch"] | float:
    """MIB's CPR: the area under faithfulness over the shares that are kept; larger is better.

    By the trapezoid rule; an array without further axes gives one number.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import area_under
        >>> float(area_under(np.array([0.0, 0.8, 1.0]), shares=[0.0, 0.5, 1.0]))
        0.65
    """
    return np.trapezoid(faithful, shares, axis=0)


def area_to_one(
    faithful: Float[np.ndarray, "share *batch"], shares: Sequence[float] = MIB_SHARES
) -> Float[np.ndarray, "*batch"] | float:
    """MIB's CMD: the area between faithfulness and 1; smaller is better, 0 is the whole model.

    By the trapezoid rule; an array without further axes gives one number.

    Examples:
        >>> import numpy as np
        >>> from analysis.ablation import area_to_one
        >>> round(float(area_to_one(np.array([0.0, 0.8, 1.0]), shares=[0.0, 0.5, 1.0])), 3)
        0.35
    """
    return np.trapezoid(np.abs(1 - faithful), shares, axis=0)


def _masks(places: list[np.ndarray], like: np.ndarray) -> Sets:
    masks = np.zeros((len(places), like.size), dtype=bool)
    for mask, chosen in zip(masks, places, strict=True):
        mask[chosen] = True
    return masks.reshape(-1, *like.shape)


@torch.no_grad()
def activation_differences(
    model: TransformerBridge, pairs: PromptPairs, kind: str, memory: int = MEMORY
) -> Float[np.ndarray, "layer component"]:
    """How much each component's activation differs between the runs: ‖Δa‖, the mean over prompts.

    The norm is over positions and dimensions, of a head in the residual stream's dimensions.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.ablation import activation_differences
        >>> model = load_model("testbed")
        >>> differences = activation_differences(model, load_task("ioi", model, n=4), "heads")
        >>> differences.shape, bool((differences > 0).all())
        ((4, 8), True)
    """
    one_of("kind", kind, KINDS)
    with engine(model, pairs) as forward:
        total = torch.zeros(forward.layers, forward.components(kind), dtype=torch.float64)
        for part in split_into_parts(forward, pairs, "noising", "source", memory):
            for site in part.sites((kind,)):
                if kind == "heads":
                    written = torch.einsum("ptcs,csd->ptcd", site.difference, site.writes)
                else:
                    written = site.difference
                total[site.layer] += written.norm(dim=(1, 3)).sum(dim=0).cpu()
        return (total / len(pairs)).numpy()
