"""Effects on components against hooks and their definitions, and mediation with known answers."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import network
import pytest
import reference
import torch

from analysis import activation_patching, load_task, mediation
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import DIRECTIONS, KINDS
from analysis.forward import forward_of
from analysis.mediation import (
    EFFECTS,
    Target,
    component_effects,
    dense_effects,
    head_effects,
    mediate,
)
from analysis.sites import Plan
from analysis.studies.mediators import example_pairs

SIDES = list(product(KINDS, KINDS))
C, D = ("neurons", 0, 0), ("neurons", 1, 0)
LINKS = [
    (("heads", 0, 1), ("heads", 2, 3)),
    (("heads", 0, 1), ("neurons", 0, 100)),
    (("neurons", 0, 7), ("heads", 1, 0)),
    (("neurons", 0, 7), ("neurons", 2, 5)),
]
HEAD_LINKS = [
    (("heads", layer, one), ("heads", later, other))
    for layer, one, later, other in product(range(3), range(4), repeat=2)
    if layer < later
]


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=5)


@pytest.fixture(scope="module")
def dense(tiny, pairs):
    return {sides: dense_effects(tiny, pairs, *sides) for sides in SIDES}


@pytest.fixture(scope="module")
def averaged(tiny, pairs):
    return {
        (kind, target): effects
        for kind in KINDS
        for target, effects in component_effects(tiny, pairs, kind).items()
    }


def by_hooks(model, base, source, kind, layer, component) -> dict[tuple[str, int], torch.Tensor]:
    """Norm, relative change and projection of every component, from their definitions."""
    before, after = (
        reference.activations_when_patched(model, side, side, []) for side in (base, source)
    )
    patched = reference.activations_when_patched(model, base, source, [(kind, layer, component)])
    found = {}
    for site, activations in patched.items():
        change, way = (
            (side - before[site])[0].transpose(0, 1).flatten(1)
            for side in (activations, after[site])
        )
        length = way.norm(dim=1)
        defined = length >= 1e-4 * length.median()
        norm, projection = change.norm(dim=1), (change * way).sum(dim=1) / length**2
        relative = torch.where(defined, norm / length, torch.nan)
        found[site] = torch.stack([norm, relative, torch.where(defined, projection, torch.nan)])
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind, layer, component", [("heads", 0, 1), ("heads", 1, 3)])
def test_head_effects_match_hooks(tiny, pairs, direction, kind, layer, component):
    effects = head_effects(tiny, pairs, direction)
    for prompt in range(len(pairs)):
        tokens = reference.sides(pairs, prompt, direction)
        expected = by_hooks(tiny, *tokens, kind, layer, component)
        for later in range(layer + 1, 3):
            found = effects[prompt, layer, component, later]
            torch.testing.assert_close(found, expected["heads", later][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, layer, component", [("heads", 0, 2), ("neurons", 1, 100)])
def test_every_measure_matches_hooks(tiny, pairs, dense, kind, layer, component):
    for prompt in range(len(pairs)):
        expected = by_hooks(tiny, *reference.sides(pairs, prompt), kind, layer, component)
        for target, later in [("heads", 2), ("neurons", layer), ("neurons", 2)]:
            if (kind, target, later) == ("neurons", "neurons", layer):
                continue
            found = dense[kind, target][:, prompt, layer, component, later]
            for measure, values in zip(found[:3], expected[target, later], strict=True):
                torch.testing.assert_close(values, measure, rtol=1e-3, atol=1e-4, equal_nan=True)
            assert torch.equal(found[3], (found[1] > 0.05).float())


def test_head_effects_match_hooks_on_the_worked_example(testbed):
    """Every pair of a head and a later one of the trained model."""
    pairs = example_pairs(testbed)
    effects = head_effects(testbed, pairs)[0]
    for layer, component in product(range(3), range(8)):
        expected = by_hooks(testbed, *reference.sides(pairs, 0), "heads", layer, component)
        for later in range(layer + 1, 4):
            found = effects[layer, component, later]
            torch.testing.assert_close(found, expected["heads", later][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sides", SIDES)
def test_only_later_components_change(dense, sides):
    """A layer's neurons come after its heads."""
    norm = dense[sides][0]
    least = 0 if sides == ("heads", "neurons") else 1
    for layer, later in product(range(3), range(3)):
        between = norm[:, layer, :, later]
        assert (between > 0).all() if later - layer >= least else (between == 0).all()


def test_a_source_that_does_not_change_has_no_effect(tiny):
    """Two prompts in one batch; one of them is the same in both runs."""
    pairs = random_pairs("ioi", Shape(5, 4), 2, 3328)
    pairs.corrupted_tokens[1] = pairs.clean_tokens[1]
    found = dense_effects(tiny, pairs, "heads", "heads")
    assert (found[0, 1] == 0).all() and (found[0, 0] > 0).any()
    relative, projection = found[1:3, 1, 0, :, 1:]
    assert relative.isnan().all() and projection.isnan().all(), "no difference to relate it to"
    (averages,) = component_effects(tiny, pairs, "heads", ("heads",)).values()
    assert (averages[0, 1, :2] == 0).all() and (averages[3, 1, :2] == 0).all()
    assert averages[1:3, 1].isnan().all()


@pytest.mark.parametrize("sides", SIDES)
def test_component_effects_average_over_later_components(dense, averaged, sides):
    """Undefined changes are left out, of a norm none are; reach is a number of components."""
    later = torch.arange(3) - torch.arange(3)[:, None] >= int(sides != ("heads", "neurons"))
    values = dense[sides].masked_fill(~later[:, None, :, None], torch.nan)
    expected = values.nanmean(dim=(4, 5))
    expected[3] = values[3].nansum(dim=(3, 4)).masked_fill(expected[0].isnan(), torch.nan)
    torch.testing.assert_close(averaged[sides], expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_one_sweep_measures_each_kind_as_a_sweep_for_it_does(tiny, pairs, averaged):
    for target in KINDS:
        alone = component_effects(tiny, pairs, "heads", (target,))
        assert list(alone) == [target]
        torch.testing.assert_close(alone[target], averaged["heads", target], equal_nan=True)


@pytest.mark.parametrize("scale", [0.1, 20])
def test_differences_too_short_to_divide_by_are_undefined(tiny, pairs, scale):
    """Just below and above 1e-4 of the layer's median; one component moves far."""
    forward = forward_of(tiny)
    part = next(Plan(forward, pairs, memory=2**29).parts())
    site = ("neurons", 1)
    base, source = (run.activations[site] for run in (part.base, part.source))
    way = source - base
    lengths = way.norm(dim=(1, 3), keepdim=True)
    factors = torch.ones(128)
    factors[:3] = torch.tensor([0.8e-4, 1.25e-4, 1e4])
    short = way / lengths * scale * factors[:, None]
    other = replace(part.source, activations=part.source.activations | {site: base + short})
    target = Target(replace(part, source=other), site, lambda activations: activations)
    assert not target.defined[:, 0].any() and target.defined[:, 1:].all()
    moved = target.measure(source[None], torch.ones(1, len(base), dtype=torch.bool))
    assert (moved[0] > 0).all() and (moved[1:3, :, :, 0] == 0).all()
    still = target.measure(source[None], torch.zeros(1, len(base), dtype=torch.bool))
    assert (still == 0).all(), "a source that does not change has no effect"


def test_undefined_changes_are_nan_one_by_one_and_left_out_of_averages(tiny, monkeypatch):
    """Two sources and two later neurons, of which the first never differs."""
    reads, weights = torch.tensor([1.0, -2.0]), torch.tensor([[0.0, 0.0], [0.5, 2.0]])
    forward = network.LinearLayers(reads, weights, lambda early, late: late.sum(dim=1))
    monkeypatch.setattr(mediation, "engine", lambda model, pairs: nullcontext(forward))
    pairs = network.scalar_pairs(1, 4)
    found = dense_effects(tiny, pairs, "neurons", "neurons")[:, 0, 0, :, 1]
    assert found[1:3, :, 0].isnan().all() and (found[0, :, 0] == 0).all()
    (averages,) = component_effects(tiny, pairs, "neurons", ("neurons",)).values()
    torch.testing.assert_close(averages[0, 0, 0], found[0].mean(dim=1))
    torch.testing.assert_close(averages[1:3, 0, 0], found[1:3, :, 1])
    assert (averages[3, 0, 0] == 1).all() and averages[:, :, 1].isnan().all()


def test_memory_changes_nothing(tiny, pairs, averaged):
    small = component_effects(tiny, pairs, "heads", memory=2**18)
    for target, effects in small.items():
        large = averaged["heads", target]
        torch.testing.assert_close(effects, large, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_a_linear_layers_effects_are_its_weights(tiny, monkeypatch):
    """Norm |w Δc|, and each source's share of the way to the source; shares add up to 1."""
    reads, weights = torch.tensor([1.0, -2.0]), torch.tensor([[3.0, 1.0], [0.5, 2.0]])
    forward = network.LinearLayers(reads, weights, lambda early, late: late.sum(dim=1))
    monkeypatch.setattr(mediation, "engine", lambda model, pairs: nullcontext(forward))
    pairs = network.scalar_pairs(1, 4)
    norm, relative, share, reach = dense_effects(tiny, pairs, "neurons", "neurons")[:, 0, 0, :, 1]
    moves = (weights * reads * 3).T
    way = moves.sum(dim=0)
    torch.testing.assert_close(norm, moves.abs())
    torch.testing.assert_close(relative, moves.abs() / way.abs())
    torch.testing.assert_close(share, moves / way)
    torch.testing.assert_close(share.sum(dim=0), torch.ones(2))
    assert (reach == 1).all()


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (lambda early, late: early[:, 0] + 2 * late[:, 0], (7, 1, 6, 0)),
        (lambda early, late: early[:, 0] * late[:, 0], (9, 3, 3, 3)),
        (lambda early, late: late[:, 0], (3, 0, 3, 0)),
        (lambda early, late: early[:, 0] ** 3, (7, 7, 0, 0)),
    ],
    ids=["additive", "product", "all through d", "all past d"],
)
def test_mediation_has_known_answers(tiny, monkeypatch, of, expected):
    """c goes from 1 to 2 and d = 3 c: the additive metric's remainder is 0, the product's 1 * 3."""
    forward = network.LinearLayers(torch.ones(1), torch.tensor([[3.0]]), of)
    monkeypatch.setattr(mediation, "engine", lambda model, pairs: nullcontext(forward))
    found = mediate(tiny, network.scalar_pairs(1, 2), [(C, D)])
    for values, known in zip(found, expected, strict=True):
        torch.testing.assert_close(values, torch.full((network.PROMPTS, 1), float(known)))


def metric_with(model, pairs, prompt, direction, values) -> float:
    """The metric of the base run with these components' activations at these values."""
    base, _ = reference.sides(pairs, prompt, direction)

    def edit(activation, site):
        for component, value in values.items():
            if component[:2] == site:
                activation[:, :, component[2]] = value
        return activation

    sites = {component[:2] for component in values}
    edits = {site: lambda activation, site=site: edit(activation, site) for site in sites}
    return reference.metric_of(model, pairs, prompt, base, edits)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mediation_matches_hooks(tiny, pairs, direction):
    pairs = pairs.select([0, 1])
    found = mediate(tiny, pairs, LINKS, direction)
    for prompt in range(len(pairs)):
        base, source = reference.sides(pairs, prompt, direction)
        before, after = (
            reference.activations_when_patched(tiny, side, side, []) for side in (base, source)
        )

        def run(values, prompt=prompt):
            return metric_with(tiny, pairs, prompt, direction, values)

        for number, (c, d) in enumerate(LINKS):
            patched = reference.activations_when_patched(tiny, base, source, [c])
            put_in = {c: after[c[:2]][:, :, c[2]]}
            held = put_in | {d: before[d[:2]][:, :, d[2]]}
            alone = {d: patched[d[:2]][:, :, d[2]]}
            expected = [run(values) - run({}) for values in (put_in, held, alone)]
            values = found[:3, prompt, number].tolist()
            assert values == pytest.approx(expected, abs=1e-4)
            rest = expected[0] - expected[1] - expected[2]
            assert found[3, prompt, number].item() == pytest.approx(rest, abs=2e-4)


def test_a_total_effect_is_the_patching_effect_whatever_the_mediator(tiny, pairs):
    found = mediate(tiny, pairs, HEAD_LINKS)
    ap = activation_patching(tiny, pairs, kinds=("heads",)).heads
    expected = torch.stack([ap[:, layer, index] for (_, layer, index), _ in HEAD_LINKS], dim=1)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    assert (found[EFFECTS.index("remainder")].abs() > 1e-3).any(), "nothing makes them add up"
    small = mediate(tiny, pairs, HEAD_LINKS, memory=2**20)
    torch.testing.assert_close(found, small, rtol=1e-4, atol=1e-4)


def test_links_that_cannot_be_are_named(tiny, pairs):
    early, late = ("heads", 0, 0), ("neurons", 0, 0)
    with pytest.raises(ValueError, match=r"head 0\.0 is not computed after neuron 0\.0"):
        mediate(tiny, pairs, [(late, early)])
    with pytest.raises(ValueError, match=r"no head 1\.4: the model has 3 layers of 4 heads"):
        mediate(tiny, pairs, [(early, ("heads", 1, 4))])
