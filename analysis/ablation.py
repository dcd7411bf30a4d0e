"""What many components do together: ablate a set of them, or keep only that set.

Ablating takes each component of the set to its baseline activation, in one run; keeping ablates
the other components of the same kind instead.

Examples:
    >>> import numpy as np
    >>> from analysis import ablation, activation_patching, load_model, load_task
    >>> model = load_model("testbed")
    >>> pairs = load_task("ioi", model, n=4)
    >>> ap = activation_patching(model, pairs, kinds=("heads",))
    >>> strongest = ablation.largest(ap.heads.mean(dim=0), k=3)
    >>> sets = np.stack([strongest, *ablation.random_sets(strongest, size=3, draws=1)])
    >>> ablated = ablation.multi_ablated_performance(model, pairs, sets, "heads")
    >>> for which, change in zip(("strongest", "other"), (ablated - ap.base).mean(dim=1)):
    ...     print(f"Ablating three of the {which} heads costs {-change:.1f} logits.")
    Ablating three of the strongest heads costs 9.3 logits.
    Ablating three of the other heads costs 0.1 logits.
    >>> float(ablation.area_under(np.array([0.0, 0.8, 1.0]), shares=[0.0, 0.5, 1.0]))
    0.65
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import top
from analysis.checks import one_of
from analysis.choices import KINDS, Baseline, Direction, Kind
from analysis.forward import Chosen, Forward
from analysis.sites import MEMORY, Plan, engine
from analysis.tasks import PromptPairs

# The shares of components at which MIB (Mueller et al. 2025) measures a circuit.
MIB_SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

Set = Bool[np.ndarray, "layer component"]
Sets = Bool[np.ndarray, "set layer component"]
Means = Float[np.ndarray, "*#batch"]
Curve = Float[np.ndarray, "share *batch"]
Area = Float[np.ndarray, "*batch"] | float


@torch.no_grad()
def multi_ablated_performance(
    model: TransformerBridge,
    pairs: PromptPairs,
    sets: Sets,
    kind: Kind,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    keep: bool = False,
    memory: int = MEMORY,
) -> Float[Tensor, "set prompt"]:
    """The metric with all components of each set at the baseline together, in its own units.

    Compare it with `Scores.base`, the metric of the unchanged run.

    `sets` are masks of components of one kind, any number of them; with `keep`, the components that
    are not in the set are ablated. The other arguments, and the prompts that a mean leaves out, are
    those of `activation_patching`.
    """
    one_of("kind", kind, KINDS)
    with engine(model, pairs) as forward:
        _check_sets(sets, kind, forward)
        plan = Plan(forward, pairs, direction, baseline, memory)
        masks = torch.from_numpy(~sets if keep else sets).to(forward.device)
        found = torch.zeros(len(sets), len(plan.prompts))
        for part in plan.parts():
            for some in torch.arange(len(sets)).split(part.batch(gradient=False)):
                chosen: Chosen = {kind: masks[some]}
                metric = forward.replace(part.base, part.values, chosen, part.readout)
                found[some[:, None], plan.rows(part)] = metric.float().cpu()
    return found


@torch.no_grad()
def activation_differences(
    model: TransformerBridge, pairs: PromptPairs, kind: Kind, memory: int = MEMORY
) -> Float[np.ndarray, "layer component"]:
    """How much each component's activation differs between the runs: ‖Δa‖, the mean over prompts.

    The norm is over positions and dimensions, of a head in the residual stream's dimensions.
    """
    one_of("kind", kind, KINDS)
    with engine(model, pairs) as forward:
        total = torch.zeros(forward.layers, forward.components(kind), dtype=torch.float64)
        for part in Plan(forward, pairs, memory=memory).parts():
            for site in part.sites((kind,)):
                written = site.difference
                if kind == "heads":
                    written = torch.einsum("ptcs,csd->ptcd", site.difference, site.writes)
                total[site.layer] += written.norm(dim=(1, 3)).sum(dim=0).cpu()
    return (total / len(pairs)).numpy()


def _check_sets(sets: Sets, kind: Kind, forward: Forward) -> None:
    shape = (forward.layers, forward.components(kind))
    given = np.asarray(sets)
    if given.dtype != bool or given.shape[1:] != shape:
        raise ValueError(
            f"sets of the type {given.dtype} and shape {given.shape} were given: expected masks "
            f"(set, layer, component) of {shape[0]} layers of {shape[1]} {kind}."
        )


def largest(scores: ArrayLike, k: int) -> Set:
    """A mask of the k components largest by |score|; the first of equal ones is taken."""
    values = np.asarray(scores)
    return top(values.reshape(1, -1), k).reshape(values.shape)


def random_sets(excluded: Set, size: int, draws: int, seed: int = 0) -> Sets:
    """Sets of this size drawn from the components that are not excluded, if so many are left."""
    allowed = _enough(~excluded, size)
    random = np.random.default_rng(seed)
    return _masks([random.choice(allowed, size, replace=False) for _ in range(draws)], excluded)


def matched_sets(
    target: Set, excluded: Set, size_of: ArrayLike, draws: int, nearest: int = 10, seed: int = 0
) -> Sets:
    """For each component of `target`, another one that moves about as much, drawn at random.

    The other one is among the `nearest` in `size_of`, such as ‖Δa‖, of the same layer, or of all
    layers where that one has none left; it is neither in the target nor excluded, and no set has
    it twice.
    """
    random, allowed = np.random.default_rng(seed), ~(target | excluded)
    _enough(allowed, int(target.sum()))
    amounts = np.asarray(size_of, dtype=np.float64)
    return _masks([_match(target, allowed, amounts, nearest, random) for _ in range(draws)], target)


def _match(
    target: Set, allowed: Set, amounts: np.ndarray, nearest: int, random: np.random.Generator
) -> np.ndarray:
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


def _enough(allowed: Set, size: int) -> np.ndarray:
    left = np.flatnonzero(allowed)
    if size > len(left):
        raise ValueError(f"{size} components were asked for, but only {len(left)} are left.")
    return left


def _masks(chosen: list[np.ndarray], like: Set) -> Sets:
    masks = np.zeros((len(chosen), like.size), dtype=bool)
    for mask, indices in zip(masks, chosen, strict=True):
        mask[indices] = True
    return masks.reshape(-1, *like.shape)


def faithfulness(kept: Means, empty: Means, full: Means) -> Float[np.ndarray, "..."]:
    """MIB's faithfulness of a circuit C: f = (m(C) - m(∅)) / (m(full) - m(∅)).

    `kept` is m(C), the mean metric over prompts with all but the circuit ablated; `empty` is m(∅),
    with every component ablated; `full` is that of the unchanged model. 1 is as good as the whole
    model, 0 no better than nothing; it may be above 1. From Mueller et al. (2025).
    """
    return (kept - empty) / (full - empty)


def area_under(faithful: Curve, shares: Sequence[float] = MIB_SHARES) -> Area:
    """MIB's CPR: the area under faithfulness over the shares that are kept; larger is better."""
    return np.trapezoid(faithful, shares, axis=0)


def area_to_one(faithful: Curve, shares: Sequence[float] = MIB_SHARES) -> Area:
    """MIB's CMD: the area between faithfulness and 1; smaller is better, 0 is the whole model."""
    return np.trapezoid(np.abs(1 - faithful), shares, axis=0)
