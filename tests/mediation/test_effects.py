"""Effects on components against hooks, and their reductions against all pairs."""

from dataclasses import replace
from itertools import product

import pytest
import reference
import torch
from torch.nn import functional

from analysis import load_task
from analysis.attribution.checkpoints import Checkpoints
from analysis.attribution.parts import DIRECTIONS, split_into_parts
from analysis.bench.workloads import Shape, random_pairs
from analysis.forward import KINDS, forward_of
from analysis.mediation import (
    MEASURES,
    Effects,
    Strongest,
    component_effects,
    dense_effects,
    head_effects,
)
from analysis.mediation import sweep as sweeping
from analysis.mediation.targets import target_of
from analysis.studies.head_to_head import example_pairs

SIDES = list(product(KINDS, KINDS))
COMPONENTS = {"heads": 4, "neurons": 128}


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=5)


@pytest.fixture(scope="module")
def dense(tiny, pairs):
    return {sides: dense_effects(tiny, pairs, *sides) for sides in SIDES}


@pytest.fixture(scope="module")
def reduced(tiny, pairs):
    return {
        (kind, target): effects
        for kind in KINDS
        for target, effects in component_effects(tiny, pairs, kind, strongest=5).items()
    }


def by_hooks(model, base, source, kind, layer, component) -> dict[tuple[str, int], torch.Tensor]:
    """Norm, relative change and projection of every component, from their definitions."""
    before, after = (
        reference.activations_when_patched(model, side, side, []) for side in (base, source)
    )
    patched = reference.activations_when_patched(model, base, source, [(kind, layer, component)])
    found = {}
    for place, activations in patched.items():
        change, way = (
            (side - before[place])[0].transpose(0, 1).flatten(1)
            for side in (activations, after[place])
        )
        length = way.norm(dim=1)
        defined = length >= 1e-4 * length.median()
        norm, projection = change.norm(dim=1), (change * way).sum(dim=1) / length**2
        relative = torch.where(defined, norm / length, torch.nan)
        found[place] = torch.stack([norm, relative, torch.where(defined, projection, torch.nan)])
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind, layer, component", [("heads", 0, 1), ("heads", 1, 3)])
def test_heads_effects_are_the_hooks(tiny, pairs, direction, kind, layer, component):
    effects = head_effects(tiny, pairs, direction)
    for place in range(len(pairs)):
        tokens = reference.sides(pairs, place, direction)
        expected = by_hooks(tiny, *tokens, kind, layer, component)
        for later in range(layer + 1, 3):
            found = effects[place, layer, component, later]
            torch.testing.assert_close(found, expected["heads", later][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, layer, component", [("heads", 0, 2), ("neurons", 1, 100)])
def test_every_measure_is_the_hooks(tiny, pairs, dense, kind, layer, component):
    for place in range(len(pairs)):
        expected = by_hooks(tiny, *reference.sides(pairs, place), kind, layer, component)
        for target, later in [("heads", 2), ("neurons", layer), ("neurons", 2)]:
            if (kind, target, later) == ("neurons", "neurons", layer):
                continue
            found = dense[kind, target][:, place, layer, component, later]
            for measure, values in zip(found[:3], expected[target, later], strict=True):
                torch.testing.assert_close(values, measure, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_head_effects_on_the_worked_example(testbed):
    """Every pair of a head and a later one of the trained model, on the report's example."""
    pairs = example_pairs(testbed)
    effects = head_effects(testbed, pairs)[0]
    for layer, component in product(range(3), range(8)):
        expected = by_hooks(testbed, *reference.sides(pairs, 0), "heads", layer, component)
        for later in range(layer + 1, 4):
            found = effects[layer, component, later]
            torch.testing.assert_close(found, expected["heads", later][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sides", SIDES)
def test_nothing_earlier_changes(dense, sides):
    norm = dense[sides][0]
    least = 0 if sides == ("heads", "neurons") else 1
    for layer, later in product(range(3), range(3)):
        between = norm[:, layer, :, later]
        assert (between > 0).all() if later - layer >= least else (between == 0).all()


def test_a_source_that_does_not_change_changes_nothing(tiny):
    """Two prompts in one batch, the same on both sides in the one but not in the other."""
    pairs = random_pairs("ioi", Shape(5, 4), 2, 3328)
    pairs.corrupted_tokens[1] = pairs.clean_tokens[1]
    found = dense_effects(tiny, pairs, "heads", "heads")
    assert (found[0, 1] == 0).all() and (found[0, 0] > 0).any()
    assert found[1, 1].isnan().all(), "nowhere to go"


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("sides", SIDES)
def test_reductions_are_those_of_all_pairs(dense, reduced, sides, nearest, measure):
    """Of sources, of targets, of layers."""
    least = 0 if sides == ("heads", "neurons") else 1
    reached = (dense[sides][1] > 0.05).float()
    whole = reached if measure == "reach" else dense[sides][MEASURES.index(measure)].clone()
    defined = ~dense[sides][1].isnan()
    whole[~defined & (measure != "norm")] = torch.nan
    for layer, later in product(range(3), range(3)):
        inside = later - layer == least if nearest else later - layer >= least
        if not inside:
            whole[:, layer, :, later] = torch.nan
    together = torch.nansum if measure == "reach" else torch.nanmean
    effects = reduced[sides]
    for found, axes in [
        (effects.of_sources(measure, nearest), (3, 4)),
        (effects.of_targets(measure, nearest), (1, 2)),
    ]:
        expected = together(whole, dim=axes)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    if not nearest:
        expected = together(whole, dim=(2, 4))
        torch.testing.assert_close(
            effects.of_layers(measure), expected, rtol=1e-4, atol=1e-5, equal_nan=True
        )


def made_up(sides: tuple[str, str]) -> tuple[torch.Tensor, Effects]:
    """All pairs of two sources and three targets in each of three layers, and their reduction."""
    random = torch.Generator().manual_seed(0)
    layers = torch.arange(3)
    later = (layers - layers[:, None] >= int(sides != ("heads", "neurons"))).float()
    dense = torch.rand(4, 2, 3, 2, 3, 3, generator=random) * later[:, None, :, None]
    dense[1] *= 0.1
    dense[2] -= 0.5 * later[:, None, :, None]
    dense[3] = (dense[1] > 0.05).float()
    defined = (
        torch.tensor([[[1, 0, 1], [0, 1, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 1], [0, 0, 1]]]) > 0
    )
    dense[1:] *= defined[:, None, None]
    none = Strongest.none(2, 3, 3, 0)
    nothing = torch.zeros(0, dtype=torch.long)
    effects = Effects(
        *sides,
        by_source=dense.sum(dim=5),
        by_target=dense.sum(dim=3),
        defined=defined,
        strongest_targets=none,
        strongest_sources=none,
        sampled_sources=nothing,
        sampled_targets=nothing,
        block=torch.zeros(4, 2, 0, 0),
    )
    dense[1:3].masked_fill_(~defined[:, None, None], torch.nan)
    return dense, effects


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("sides", SIDES)
def test_means_leave_undefined_targets_out(sides, nearest, measure):
    """Of a norm none, of relative changes and projections all that are undefined."""
    dense, effects = made_up(sides)
    values = dense[MEASURES.index(measure)].clone()
    least = int(sides != ("heads", "neurons"))
    for layer, later in product(range(3), range(3)):
        apart = later - layer
        if apart != least if nearest else apart < least:
            values[:, layer, :, later] = torch.nan
    together = torch.nansum if measure == "reach" else torch.nanmean
    for found, axes in [
        (effects.of_sources(measure, nearest), (3, 4)),
        (effects.of_targets(measure, nearest), (1, 2)),
        *([] if nearest else [(effects.of_layers(measure), (2, 4))]),
    ]:
        torch.testing.assert_close(found, together(values, dim=axes), equal_nan=True)


@pytest.mark.parametrize("scale", [0.1, 20])
def test_a_way_too_short_to_measure_by_is_undefined_and_counted(tiny, pairs, scale):
    """Just below and above 1e-4 of what the layer's others move; one of them moves far."""
    forward = forward_of(tiny)
    part = next(split_into_parts(forward, pairs, "noising", "source", 2**29))
    place = ("neurons", 1)
    base, source = (run.activations[place] for run in (part.base, part.source))
    way = source - base
    lengths = way.norm(dim=(1, 3), keepdim=True)
    factors = torch.ones(128)
    factors[:3] = torch.tensor([0.8e-4, 1.25e-4, 1e4])
    short = way / lengths * scale * factors[:, None]
    other = replace(part.source, activations=part.source.activations | {place: base + short})
    target = target_of(replace(part, source=other), place, None)
    assert not target.defined[:, 0].any() and target.defined[:, 1:].all()
    moved = target.measure(source[None], torch.ones(1, len(base), dtype=torch.bool))
    assert (moved[0] > 0).all() and (moved[1:3, :, :, 0] == 0).all()
    still = target.measure(source[None], torch.zeros(1, len(base), dtype=torch.bool))
    assert (still == 0).all(), "a source that does not change changes nothing"


@pytest.mark.parametrize("sides", SIDES)
def test_undefined_targets_are_counted(reduced, sides):
    effects = replace(reduced[sides], defined=reduced[sides].defined.clone())
    effects.defined[:] = True
    effects.defined[1, 2, :3] = False
    own = int(sides == ("heads", "neurons"))
    assert effects.undefined()[1].tolist() == [3, 3, 3 * own]
    assert effects.undefined(nearest=True)[1].tolist() == [0, 3 * (1 - own), 3 * own]
    assert effects.undefined()[0].sum() == 0
    assert effects.of_targets("relative")[1, 2].isnan().tolist() == [True] * 3 + [False] * (
        COMPONENTS[sides[1]] - 3
    )


@pytest.mark.parametrize("sides", SIDES)
def test_the_strongest_partners_are_the_largest_of_all_pairs(dense, reduced, sides):
    relative = dense[sides][1].nan_to_num()
    kinds = reduced[sides]
    for found, values in [
        (kinds.strongest_targets, relative.flatten(3)),
        (kinds.strongest_sources, relative.permute(0, 3, 4, 1, 2).flatten(3)),
    ]:
        expected = values.topk(5, dim=-1).values
        torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
        at_places = functional.pad(values, (0, 1)).gather(-1, found.places % (values.shape[-1] + 1))
        torch.testing.assert_close(at_places, found.values, rtol=1e-4, atol=1e-6)
        assert ((found.places == -1) == (found.values == 0)).all()


def test_what_does_not_change_is_no_strongest_partner():
    """Values come in two batches; 0 has no place, wherever it stands."""
    kept = Strongest.none(1, 4)
    for start, values in [(0, [0.0, 2.0, 0.0]), (3, [0.0, 3.0])]:
        kept = kept.merge(torch.tensor([values]), start)
    assert kept.values.tolist() == [[3, 2, 0, 0]]
    assert kept.places.tolist() == [[4, 1, -1, -1]]


def test_sampled_pairs_are_those_of_all_pairs(tiny, pairs, dense):
    for target, effects in component_effects(tiny, pairs, "neurons", sampled=9, seed=3).items():
        rows, columns = effects.sampled_sources, effects.sampled_targets
        assert len(rows) == len(columns) == 9 and len(rows.unique()) == 9
        whole = dense["neurons", target].flatten(4).flatten(2, 3)
        expected = whole[:, :, rows][..., columns]
        torch.testing.assert_close(effects.block, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    first, again, other = (
        component_effects(tiny, pairs, "heads", ("neurons",), sampled=9, seed=seed)["neurons"]
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.sampled_targets, again.sampled_targets)
    assert not torch.equal(first.sampled_targets, other.sampled_targets)


def same(one, other, **tolerance) -> None:
    for name in ("by_source", "by_target", "block"):
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), equal_nan=True, **tolerance
        )


def test_memory_changes_nothing(tiny, pairs):
    one, other = (
        component_effects(tiny, pairs, "heads", sampled=20, memory=memory)["neurons"]
        for memory in (2**18, 2**28)
    )
    same(one, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(one.strongest_sources.places, other.strongest_sources.places)


def test_an_interrupted_sweep_goes_on(tiny, pairs, tmp_path, monkeypatch):
    """Finished units are read, the others computed, and the result is the same."""
    whole = component_effects(tiny, pairs, "heads", sampled=20)
    reduce, done = sweeping._reduce, []

    def stopping(part, site, *rest):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append((part.places[0], site.layer))
        return reduce(part, site, *rest)

    monkeypatch.setattr(sweeping, "_reduce", stopping)
    with pytest.raises(KeyboardInterrupt):
        component_effects(tiny, pairs, "heads", sampled=20, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(sweeping, "_reduce", reduce)
    read = []
    keep = Checkpoints._read
    monkeypatch.setattr(
        Checkpoints, "_read", lambda self, path: read.append(path) or keep(self, path)
    )
    again = component_effects(tiny, pairs, "heads", sampled=20, checkpoints=tmp_path)
    assert len(read) > 4
    for target, effects in again.items():
        same(effects, whole[target], rtol=0, atol=0)
    with pytest.raises(ValueError, match="other arguments"):
        component_effects(tiny, pairs, "heads", sampled=19, checkpoints=tmp_path)


def test_unknown_choices_are_named(tiny, pairs, reduced):
    with pytest.raises(ValueError, match="sideways"):
        head_effects(tiny, pairs, direction="sideways")
    with pytest.raises(ValueError, match="layers"):
        component_effects(tiny, pairs, "layers")
    with pytest.raises(ValueError, match="norm, relative, projection, reach"):
        reduced["heads", "heads"].of_sources("length")
