"""Patching some components only: what was not asked for is not run, and NaN."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import activation_patching, load_task
from analysis.agreement import average_correlation
from analysis.choices import BASELINES, DIRECTIONS, KINDS
from analysis.forward.decoder import Decoder
from analysis.studies import store

SHAPES = {"heads": (3, 4), "neurons": (3, 128)}
COMPONENTS = {
    kind: st.lists(
        st.tuples(st.integers(0, layers - 1), st.integers(0, count - 1)),
        min_size=1,
        max_size=6,
        unique=True,
    )
    for kind, (layers, count) in SHAPES.items()
}
asked_for = st.one_of(
    st.fixed_dictionaries({}, optional=COMPONENTS).filter(bool),
    st.fixed_dictionaries(COMPONENTS),
)


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=5)


@pytest.fixture(scope="module")
def everything(tiny, pairs):
    return cache(lambda **chosen: activation_patching(tiny, pairs, **chosen))


@settings(max_examples=15)
@given(
    components=asked_for,
    direction=st.sampled_from(DIRECTIONS),
    baseline=st.sampled_from(BASELINES[:2]),
)
def test_some_have_the_effects_that_they_have_among_all(
    tiny, pairs, everything, components, direction, baseline
):
    chosen = {"direction": direction, "baseline": baseline}
    some = activation_patching(tiny, pairs, components=components, **chosen)
    whole = everything(**chosen)
    scale = max(whole.base.abs().max(), whole.source.abs().max()).item()
    assert torch.equal(some.total, whole.total)
    for kind in KINDS:
        if kind not in components:
            assert some.of(kind).shape == (5, 3, 0)
            continue
        layers, indices = torch.tensor(components[kind]).T
        found, expected = (scores.of(kind)[:, layers, indices] for scores in (some, whole))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * scale)
        assert some.of(kind).isfinite().sum() == found.numel(), "the others are not there"
        assert some.gaps(kind).isnan().all()


def test_their_order_changes_nothing(tiny, pairs):
    components = {"heads": [(2, 1), (0, 3), (0, 0)], "neurons": [(1, 100), (1, 7)]}
    turned = {kind: some[::-1] for kind, some in [*components.items()][::-1]}
    one, other = (activation_patching(tiny, pairs, components=of) for of in (components, turned))
    for kind in KINDS:
        exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(one.of(kind), other.of(kind), **exactly)


def test_a_layer_asked_for_as_a_whole_has_its_gap(tiny, pairs, everything):
    components = {"heads": [(1, head) for head in range(4)] + [(2, 0)]}
    gaps = activation_patching(tiny, pairs, components=components).heads_gap
    torch.testing.assert_close(gaps[:, 1], everything().heads_gap[:, 1], rtol=1e-4, atol=1e-4)
    assert gaps[:, [0, 2]].isnan().all()


def test_nothing_else_is_run(tiny, pairs, monkeypatch):
    """One change for each component that is asked for, on each prompt."""
    resumed, original = [], Decoder.resume

    def counting(self, run, site, change, readout):
        resumed.extend([site] * change.shape[:-2].numel())
        return original(self, run, site, change, readout)

    monkeypatch.setattr(Decoder, "resume", counting)
    activation_patching(tiny, pairs, components={"heads": [(1, 2)], "neurons": [(2, 7), (2, 9)]})
    assert sorted(set(resumed)) == [("heads", 1), ("neurons", 2)]
    assert [resumed.count(site) for site in (("heads", 1), ("neurons", 2))] == [5, 10]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "components, expected",
    [
        ({}, "expected a dictionary such as"),
        ([(0, 1)], "expected a dictionary such as"),
        ({"layers": [(0, 1)]}, "no kind of component 'layers'"),
        ({"heads": []}, "one of the heads at least"),
        ({"heads": (0, 1)}, "one of the heads at least"),
        ({"heads": [(0, 0.5)]}, "one of the heads at least"),
        ({"heads": [(0, 1)], "neurons": []}, "one of the neurons at least"),
        ({"heads": [(3, 0)]}, "a layer from 0 to 2 and an index from 0 to 3"),
        ({"heads": [(0, 4)]}, "a layer from 0 to 2 and an index from 0 to 3"),
        ({"neurons": [(-1, 4)]}, "an index from 0 to 127"),
        ({"heads": [(0, 1), (2, 2), (0, 1)]}, r"\[\(0, 1\), \(0, 1\)\].*each component once"),
    ],
)
def test_components_that_cannot_be_patched_are_refused(tiny, pairs, components, expected):
    with pytest.raises(ValueError, match=expected) as error:
        activation_patching(tiny, pairs, components=components)
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_of_numpy_and_torch_are_taken(tiny, pairs):
    plain, other = (
        activation_patching(tiny, pairs, components={"heads": some})
        for some in ([(1, 2)], np.array([[1, 2]]))
    )
    assert torch.equal(plain.heads[:, 1, 2], other.heads[:, 1, 2])


def test_checkpoints_tell_components_apart(tiny, pairs, tmp_path):
    first, second = {"heads": [(0, 1)]}, {"heads": [(0, 2)]}
    found = activation_patching(tiny, pairs, components=first, checkpoints=tmp_path)
    again = activation_patching(tiny, pairs, components=first, checkpoints=tmp_path)
    assert torch.equal(found.heads[:, 0, 1], again.heads[:, 0, 1])
    with pytest.raises(ValueError, match="other arguments"):
        activation_patching(tiny, pairs, components=second, checkpoints=tmp_path)


def test_kept_results_tell_components_apart(tiny, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.paths.RESULTS", tmp_path)
    for kept, head in enumerate([1, 2], start=1):
        for _ in range(2):
            components = {"heads": [(0, head)]}
            found = store.scores(activation_patching, tiny, pairs, components=components)
            assert found.heads[0].isfinite().nonzero().tolist() == [[0, head]]
        assert len(list(tmp_path.glob("*.parquet"))) == kept


def test_scores_that_are_not_there_are_not_compared(tiny, pairs, everything):
    components = {"heads": [(0, 1), (1, 2), (2, 0)]}
    some, whole = activation_patching(tiny, pairs, components=components), everything()
    assert some.normalised("heads").isnan().sum() == some.heads.isnan().sum() > 0
    with pytest.raises(ValueError, match="were not scored"):
        average_correlation(some.heads, whole.heads)
    layers, indices = torch.tensor(components["heads"]).T
    both = (scores.heads[:, layers, indices] for scores in (some, whole))
    assert average_correlation(*both).mean == pytest.approx(1)
