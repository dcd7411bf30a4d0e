import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, load_task
from analysis.ablation import (
    MIB_SHARES,
    activation_differences,
    area_to_one,
    area_under,
    faithfulness,
    largest,
    matched_sets,
    multi_ablated_performance,
    random_sets,
)
from analysis.choices import DIRECTIONS

SHAPE = {"heads": (3, 4), "neurons": (3, 128)}


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=4)


def one(shape: tuple[int, int], *components: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((1, *shape), dtype=bool)
    for layer, component in components:
        mask[0, layer, component] = True
    return mask


@pytest.mark.parametrize("baseline", ["source", "zero"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", SHAPE)
def test_one_component_ablated_is_its_patching_effect(tiny, pairs, kind, direction, baseline):
    ap = activation_patching(tiny, pairs, direction, baseline)
    for place in [(0, 1), (2, 3)]:
        mask = one(SHAPE[kind], place)
        found = multi_ablated_performance(tiny, pairs, mask, kind, direction, baseline)
        expected = ap.base + ap.of(kind)[:, *place]
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SHAPE)
def test_several_components_are_ablated_together_as_by_hooks(tiny, pairs, kind):
    """Components of different layers, one hook a layer; a hook for the last alone would differ."""
    chosen = [(0, 1), (1, 0), (1, 3), (2, 2)]
    found = multi_ablated_performance(tiny, pairs, one(SHAPE[kind], *chosen), kind)
    for index in range(len(pairs)):
        base, source = reference.sides(pairs, index)
        values = {
            (kind, layer): reference.activation(tiny, source, (kind, layer)) for layer in range(3)
        }
        edits = reference.put_in(values, [(kind, *place) for place in chosen])
        expected = reference.metric_of(tiny, pairs, index, base, edits)
        assert found[0, index].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", SHAPE)
def test_keeping_is_ablating_the_others(tiny, pairs, kind):
    random = np.random.default_rng(0)
    sets = random.random((3, *SHAPE[kind])) < 0.5
    kept = multi_ablated_performance(tiny, pairs, sets, kind, keep=True)
    torch.testing.assert_close(kept, multi_ablated_performance(tiny, pairs, ~sets, kind))
    everything = np.ones((1, *SHAPE[kind]), dtype=bool)
    base = activation_patching(tiny, pairs, kinds=()).base
    whole = multi_ablated_performance(tiny, pairs, everything, kind, keep=True)
    torch.testing.assert_close(whole[0], base, rtol=1e-4, atol=1e-4)


@given(memory=st.integers(2**18, 2**24))
def test_memory_changes_nothing(tiny, pairs, memory):
    sets = np.random.default_rng(0).random((5, *SHAPE["heads"])) < 0.5
    expected = multi_ablated_performance(tiny, pairs, sets, "heads")
    found = multi_ablated_performance(tiny, pairs, sets, "heads", memory=memory)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_mean_leaves_short_groups_out(tiny):
    pairs = load_task("ioi", tiny, n=60)
    few = [index for group in pairs.groups() if len(group) < 8 for index in group]
    assert few
    found = multi_ablated_performance(tiny, pairs, one((3, 4), (0, 0)), "heads", baseline="mean")
    expected = activation_patching(tiny, pairs, baseline="mean", kinds=("heads",))
    assert found.shape == (1, 60 - len(few))
    torch.testing.assert_close(
        found[0], expected.base + expected.heads[:, 0, 0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.usefixtures("unchecked")
def test_unknown_choices_are_named(tiny, pairs):
    with pytest.raises(ValueError, match="sideways"):
        multi_ablated_performance(tiny, pairs, one((3, 4)), "heads", direction="sideways")
    with pytest.raises(ValueError, match="layers"):
        multi_ablated_performance(tiny, pairs, one((3, 4)), "layers")


@given(seed=st.integers(0, 99), k=st.integers(1, 12))
def test_two_methods_top_components_divide_in_three(seed, k):
    a, b = np.random.default_rng(seed).normal(size=(2, 3, 4))
    first, second = largest(a, k), largest(b, k)
    assert first.sum() == second.sum() == k
    assert (first & ~second).sum() == (second & ~first).sum() == k - (first & second).sum()


@given(seed=st.integers(0, 99), size=st.integers(0, 6))
def test_random_sets_avoid_what_is_excluded(seed, size):
    excluded = np.random.default_rng(seed).random((3, 4)) < 0.4
    if size > (~excluded).sum():
        with pytest.raises(ValueError, match="left"):
            random_sets(excluded, size, 3, seed)
        return
    sets = random_sets(excluded, size, 3, seed)
    assert sets.shape == (3, 3, 4)
    assert (sets.sum(axis=(1, 2)) == size).all()
    assert not (sets & excluded).any()


@given(seed=st.integers(0, 99))
def test_matched_sets_move_about_as_much_in_the_same_layers(seed):
    random = np.random.default_rng(seed)
    amounts = random.lognormal(size=(3, 200))
    target = random_sets(np.zeros((3, 200), dtype=bool), 8, 1, seed)[0]
    excluded = (random.random((3, 200)) < 0.1) & ~target
    sets = matched_sets(target, excluded, amounts, draws=4, nearest=3, seed=seed)
    assert (sets.sum(axis=(1, 2)) == target.sum()).all()
    assert not (sets & (target | excluded)).any()
    assert (sets.sum(axis=2) == target.sum(axis=1)).all(), "as many of each layer"
    with pytest.raises(ValueError, match="left"):
        matched_sets(target, ~target & (amounts < np.inf), amounts, draws=1)
    for mask in sets:
        ratio = np.sort(np.log(amounts[mask])) - np.sort(np.log(amounts[target]))
        assert np.abs(ratio).mean() < 1


def test_a_match_is_the_nearest_that_is_left_in_its_layer():
    """The last layer has none left, and takes from all."""
    amounts = np.array([[1.0, 0.9, 1.2, 1.0], [2.0, 9.0, 2.2, 0.1], [2.1, 2.3, 7.0, 7.0]])
    target = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    excluded = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]], dtype=bool)
    (nearest,) = matched_sets(target, excluded, amounts, draws=1, nearest=1)
    assert np.argwhere(nearest).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3]]
    target[1:] = False
    sets = matched_sets(target, excluded, amounts, draws=200, nearest=2)
    assert (sets.sum(axis=(1, 2)) == 1).all()
    assert sets[:, 0, 1].mean() == pytest.approx(0.5, abs=0.15)
    assert sets[:, 0, 2].mean() == pytest.approx(0.5, abs=0.15)


def test_a_seed_decides_the_draws():
    nothing, target = np.zeros((3, 40), dtype=bool), np.arange(120).reshape(3, 40) % 10 == 0
    amounts = np.arange(120.0).reshape(3, 40)
    for draw in (
        lambda seed: random_sets(nothing, 5, 3, seed),
        lambda seed: matched_sets(target, nothing, amounts, 3, seed=seed),
    ):
        assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any()
        assert (draw(1)[0] != draw(1)[1]).any(), "each draw is another one"


@pytest.mark.parametrize("kind", SHAPE)
def test_activation_differences_do_not_cancel(tiny, pairs, kind):
    """Norms over every position and dimension; a signed mean of a head's would be 0."""
    differences = activation_differences(tiny, pairs, kind)
    for layer in range(3):
        expected = torch.zeros(SHAPE[kind][1])
        for clean, corrupted in zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True):
            base, source = (
                reference.activation(tiny, tokens[None], (kind, layer))[0]
                for tokens in (clean, corrupted)
            )
            change = (source - base).movedim(1, 0).flatten(1)
            expected += change.norm(dim=1) / len(pairs)
        np.testing.assert_allclose(differences[layer], expected, rtol=1e-4, atol=1e-5)


def test_areas_of_known_curves():
    shares = np.array(MIB_SHARES)
    assert area_under(np.ones_like(shares)) == pytest.approx(1)
    assert area_to_one(np.ones_like(shares)) == pytest.approx(0)
    assert area_under(shares) == pytest.approx(0.5)
    assert area_to_one(shares) == pytest.approx(0.5)
    assert area_to_one(1 + shares) == pytest.approx(0.5)
    assert faithfulness(np.array([1.5]), np.array([-1.0]), np.array([4.0])) == 0.5
    assert faithfulness(np.array([0.5]), np.array([-1.0]), np.array([5.0])) == 0.25
