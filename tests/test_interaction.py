"""Shapley values from the values of all subsets, beside those from all orders."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task
from analysis.ablation import multi_ablated_performance
from analysis.interaction import all_subsets, shapley_of_subsets, shapley_values


def by_orders(values: torch.Tensor, count: int) -> torch.Tensor:
    """The mean, over all orders of joining, of what each component adds."""
    found = torch.zeros(count, *values.shape[1:], dtype=values.dtype)
    orders = list(permutations(range(count)))
    for order in orders:
        before = 0
        for component in order:
            after = before | 1 << component
            found[component] += (values[after] - values[before]) / len(orders)
            before = after
    return found


@given(count=st.integers(1, 5), seed=st.integers(0, 99))
def test_shapley_from_subsets_is_shapley_from_orders(count, seed):
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.normal(size=(2**count, 3)))
    found = shapley_of_subsets(values)
    np.testing.assert_allclose(found, by_orders(values, count), atol=1e-12)
    np.testing.assert_allclose(found.sum(dim=0), values[-1] - values[0], atol=1e-12)


def test_a_models_heads_share_what_their_layer_does(tiny):
    """Of prompts of several lengths; each layer by itself, in the direction that was asked for."""
    pairs = load_task("ioi", tiny, n=5)
    assert len({len(tokens) for tokens in pairs.clean_tokens}) > 1
    for direction in ("noising", "denoising"):
        found = shapley_values(tiny, pairs, direction)
        assert found.shape == (5, 3, 4)
        for layer in range(3):
            sets = np.zeros((16, 3, 4), dtype=bool)
            sets[:, layer] = np.arange(16)[:, None] >> np.arange(4) & 1
            metric = multi_ablated_performance(tiny, pairs, sets, "heads", direction)
            expected = by_orders(metric, 4).T
            np.testing.assert_allclose(found[:, layer], expected, atol=1e-4)


def test_shapley_values_share_out_what_ig_does(tiny):
    """Both are complete: a layer's values sum to the effect of patching all of it."""
    pairs = load_task("ioi", tiny, n=2)
    ap = activation_patching(tiny, pairs, kinds=("heads",))
    ig = integrated_gradients(tiny, pairs, kinds=("heads",))
    middle = shapley_values(tiny, pairs)
    np.testing.assert_allclose(middle.sum(dim=2), ig.heads.sum(dim=2), rtol=1e-3, atol=1e-3)
    assert (middle - ap.heads).abs().max() > 1e-2


def test_zero_is_another_baseline_than_the_source(tiny):
    pairs = load_task("ioi", tiny, n=2)
    source, zero = shapley_values(tiny, pairs), shapley_values(tiny, pairs, baseline="zero")
    whole = np.zeros((2, 3, 4), dtype=bool)
    whole[1, 1] = True
    empty, full = multi_ablated_performance(tiny, pairs, whole, "heads", baseline="zero")
    np.testing.assert_allclose(zero[:, 1].sum(dim=1), full - empty, atol=1e-4)
    assert not torch.allclose(source, zero, atol=1e-3)


def test_too_many_components_are_refused():
    assert len(all_subsets(16)) == 2**16
    with pytest.raises(ValueError, match="at most 16"):
        all_subsets(17)
