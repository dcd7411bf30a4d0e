"""What the components of a layer do together: the values of all its subsets.

A layer's components play a game: the value of a subset S is m(S), the metric with S patched. Their
Shapley values tell apart the two parts of what separates IG from AP,

    IG - AP = (Shapley - AP) + (IG - Shapley).

The first part is interaction: patching a component alone misses what it does once others of its
layer have been patched. The second is curvature: IG follows the path on which all components move
at once, and so sees activations between the base's and the source's, which no subset has.

Examples:
    Two components that do something only together share it:

    >>> import torch
    >>> from analysis.interaction import all_subsets, shapley_of_subsets
    >>> all_subsets(2).tolist()
    [[False, False], [True, False], [False, True], [True, True]]
    >>> shapley_of_subsets(torch.tensor([0.0, 0.0, 0.0, 1.0])).tolist()
    [0.5, 0.5]
"""

from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import multi_ablated_performance
from analysis.choices import Baseline, Direction
from analysis.tasks import PromptPairs

MOST = 16  # components, for which all subsets are 65,536 runs


def all_subsets(count: int) -> Bool[np.ndarray, "subset component"]:
    """Every subset of so many components, in the order of binary numbers."""
    if count > MOST:
        raise ValueError(
            f"Exact Shapley values of {count} components need 2^{count} runs: expected at most "
            f"{MOST} components."
        )
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)


def shapley_of_subsets(
    values: Float[Tensor, "subset *batch"],
) -> Float[Tensor, "component *batch"]:
    """The Shapley value of each component, from the values of `all_subsets`.

    φᵢ = Σ over S without i of |S|! (n - |S| - 1)! / n! · (m(S ∪ i) - m(S)): the mean over all
    orders in which the components can be patched.
    """
    count = len(values).bit_length() - 1
    subsets = torch.from_numpy(all_subsets(count))
    # Each subset counts once for every member, as the one that joined last, and once against
    # every other component, as the one that would join next.
    sizes = subsets.sum(dim=1).tolist()
    joined = [1 / (count * comb(count - 1, size - 1)) if size else 0.0 for size in sizes]
    absent = [1 / (count * comb(count - 1, size)) if size < count else 0.0 for size in sizes]
    weights = torch.where(
        subsets.T,
        torch.tensor(joined, dtype=values.dtype),
        -torch.tensor(absent, dtype=values.dtype),
    )
    return torch.einsum("cs,s...->c...", weights, values)


def shapley_values(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
) -> Float[Tensor, "prompt layer head"]:
    """Each head's Shapley value in its layer, exactly, from all 2ⁿ subsets of the layer's heads."""
    layers = model.cfg.n_layers
    subsets = all_subsets(model.cfg.n_heads)
    found = []
    for layer in range(layers):
        sets = np.zeros((len(subsets), layers, subsets.shape[1]), dtype=bool)
        sets[:, layer] = subsets
        metric = multi_ablated_performance(model, pairs, sets, "heads", direction, baseline)
        found.append(shapley_of_subsets(metric).T)
    return torch.stack(found, dim=1)
