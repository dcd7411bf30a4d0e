"""The facts that connect the methods hold, and a fact that does not hold would show."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import polars as pl
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from studies import made

from analysis import Scores, activation_patching, integrated_gradients, load_task
from analysis.ablation import multi_ablated_performance
from analysis.studies import facts as study
from analysis.studies.facts import facts, shapley

# What each check leans on: a fault there has to show.
LEANS_ON = {
    "completeness": (study, "integrated_gradients"),
    "single path": (study, "integrated_gradients"),
    "one left step": (study, "integrate_jointly"),
    "linear metric": (study, "patch_each"),
    "quadratic metric": (study, "shapley"),
    "no change": (study, "activation_patching"),
    "whole stream": (study.Part, "measure"),
    "company": (study, "integrated_gradients"),
    "causality": (study, "first_difference"),
}
CHECKS = {name: check for name, _, check in study._CHECKS}


def faulty(right):
    """The same by one too much, or by one more for each prompt."""

    def wrong(*arguments, **settings):
        found = right(*arguments, **settings)
        if not isinstance(found, Scores):
            return found + 1
        more = len(found.base)
        return replace(found, heads=found.heads + more, heads_gap=found.heads_gap + more)

    return wrong


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=6)


@pytest.mark.parametrize("fact", CHECKS)
def test_a_fact_that_does_not_hold_shows(tiny, pairs, monkeypatch, fact):
    two = pairs.select([0, 1])
    assert CHECKS[fact](tiny, two) < 1e-3
    holder, name = LEANS_ON[fact]
    monkeypatch.setattr(holder, name, faulty(getattr(holder, name)))
    assert CHECKS[fact](tiny, two) > 0.1


def test_facts_hold_on_the_testbed(testbed):
    found = facts(testbed)
    assert found.prompts == 4
    assert found.table["fact"].to_list() == list(LEANS_ON)
    assert found.table["difference"].cast(pl.Float64).max() <= 1e-3
    assert found.parts["layer"].to_list() == list(range(testbed.cfg.n_layers))
    assert (found.parts["IG - AP"] > 0).any()


def test_differences_are_relative_to_the_largest_total_effect(tiny, monkeypatch):
    monkeypatch.setattr(study, "_CHECKS", (("made up", "one and another", lambda *_: 3.0),))
    monkeypatch.setattr(
        study, "_difference_in_parts", lambda *given: pl.DataFrame({"by": given[-1]})
    )
    found = facts(tiny)
    total = activation_patching(tiny, load_task("ioi", tiny, n=4), kinds=()).total
    largest = total.abs().max().item()
    assert made.table(found.table) == [
        ("fact", "compared", "difference"),
        ("made up", "one and another", f"{3 / largest:.1e}"),
    ]
    assert found.parts["by"].item() == pytest.approx(largest)


def by_orders(tiny, pairs, layer: int) -> torch.Tensor:
    """The Shapley value of a layer's four heads, from the metric with each set ablated."""
    bits = np.arange(16)[:, None] >> np.arange(4) & 1
    sets = np.zeros((16, 3, 4), dtype=bool)
    sets[:, layer] = bits
    metric = multi_ablated_performance(tiny, pairs, sets, "heads")
    value = torch.zeros(len(pairs), 4)
    for order in permutations(range(4)):
        place = 0
        for head in order:
            joined = place | 1 << head
            value[:, head] += (metric[joined] - metric[place]) / 24
            place = joined
    return value


def test_parts_of_the_difference_are_means_over_all_prompts_and_heads(tiny, pairs):
    """Lengths run apart, and not as many prompts have each."""
    assert len({len(part.places) for part in study._parts(tiny, pairs)}) > 1
    ap = activation_patching(tiny, pairs, kinds=("heads",))
    ig = integrated_gradients(tiny, pairs, kinds=("heads",), steps=24, rule="gauss-legendre")
    parts = study._difference_in_parts(tiny, pairs, 2.0)
    assert parts.columns == ["layer", "IG - AP", "Shapley - AP", "IG - Shapley"]
    for layer, *found in parts.rows():
        one, other = ap.heads[:, layer], ig.heads[:, layer]
        middle = by_orders(tiny, pairs, layer)
        expected = [
            (a - b).abs().mean().item() / 2
            for a, b in ((other, one), (middle, one), (other, middle))
        ]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert len(set(found)) == 3
    assert parts["layer"].to_list() == [0, 1, 2]


@given(
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    source=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
)
def test_shapley_from_corners_is_shapley_from_orders(weights, source):
    w = torch.tensor(weights, dtype=torch.float64)
    site = toy.toy_site(
        lambda a: torch.tanh(a @ w) + a[..., 0] * a[..., 1] * a[..., 3], [0.5] * 4, source
    )
    np.testing.assert_allclose(shapley(site)[0], toy.shapley(site), atol=1e-6)


def test_shapley_of_many_components_is_refused():
    with pytest.raises(ValueError, match="at most 16"):
        shapley(toy.toy_site(lambda a: a.sum(-1), [0.0] * 17, [1.0] * 17))
