"""The metric's way through one later component: known answers, and hooks."""

from contextlib import nullcontext

import network
import pytest
import reference
import torch

from analysis import activation_patching, load_task
from analysis.attribution.parts import DIRECTIONS
from analysis.bench.contenders import HOOKS
from analysis.mediation import (
    Component,
    component_effects,
    dense_effects,
    head_links,
    mediate,
    metric,
    strongest_links,
    sweep,
)

C, D = Component("neurons", 0, 0), Component("neurons", 1, 0)
NEURONS = [
    (Component("heads", 0, 1), Component("heads", 2, 3)),
    (Component("heads", 0, 1), Component("neurons", 0, 100)),
    (Component("neurons", 0, 7), Component("heads", 1, 0)),
    (Component("neurons", 0, 7), Component("neurons", 2, 5)),
]


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=2)


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
def test_known_answers(tiny, monkeypatch, of, expected):
    """c goes from 1 to 2 and d = 3 c: the additive metric's remainder is 0, the product's 1 * 3."""
    forward = network.LinearLayers(torch.ones(1), torch.tensor([[3.0]]), of)
    monkeypatch.setattr(metric, "engine", lambda model, pairs: nullcontext(forward))
    found = mediate(tiny, network.scalar_pairs(1, 2), [(C, D)])
    for values, known in zip((*found, found.remainder), expected, strict=True):
        torch.testing.assert_close(values, torch.full((network.PROMPTS, 1), float(known)))


def test_a_linear_layers_effects_are_its_weights(tiny, monkeypatch):
    """Norm |w Δc|, and each source's share of the way to the source; shares add up to 1."""
    reads, weights = torch.tensor([1.0, -2.0]), torch.tensor([[3.0, 1.0], [0.5, 2.0]])
    forward = network.LinearLayers(reads, weights, lambda early, late: late.sum(dim=1))
    monkeypatch.setattr(sweep, "engine", lambda model, pairs: nullcontext(forward))
    pairs = network.scalar_pairs(1, 4)
    norm, relative, share, reach = dense_effects(tiny, pairs, "neurons", "neurons")[:, 0, 0, :, 1]
    moves = (weights * reads * 3).T
    way = moves.sum(dim=0)
    torch.testing.assert_close(norm, moves.abs())
    torch.testing.assert_close(relative, moves.abs() / way.abs())
    torch.testing.assert_close(share, moves / way)
    torch.testing.assert_close(share.sum(dim=0), torch.ones(2))
    assert (reach == 1).all()


def metric_with(model, pairs, place, direction, values) -> float:
    """The metric of the base run with these components' activations at these values."""
    base, _ = reference.sides(pairs, place, direction)
    model.set_use_attn_result(True)

    def hook_for(component):
        def edit(activation, hook):
            activation = activation.clone()
            activation[:, :, component.place] = values[component]
            return activation

        return HOOKS[component.kind].format(component.layer), edit

    with torch.no_grad():
        logits = model.run_with_hooks(base, fwd_hooks=[hook_for(one) for one in values])
    return reference.readout(pairs, place).of_vocabulary(logits[:, -1]).item()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mediation_is_the_hooks(tiny, pairs, direction):
    found = mediate(tiny, pairs, NEURONS, direction)
    for place in range(len(pairs)):
        base, source = reference.sides(pairs, place, direction)
        before, after = (
            reference.activations_when_patched(tiny, side, side, []) for side in (base, source)
        )

        def run(values, place=place):
            return metric_with(tiny, pairs, place, direction, values)

        for number, (c, d) in enumerate(NEURONS):
            patched = reference.activations_when_patched(tiny, base, source, [c])
            put_in = {c: after[c[:2]][:, :, c.place]}
            held = put_in | {d: before[d[:2]][:, :, d.place]}
            alone = {d: patched[d[:2]][:, :, d.place]}
            expected = [run(values) - run({}) for values in (put_in, held, alone)]
            values = [part[place, number].item() for part in found]
            assert values == pytest.approx(expected, abs=1e-4)


def test_every_pair_of_heads(tiny, pairs):
    """The total effect is the first head's patching effect, whatever the mediator."""
    links = head_links(tiny)
    assert len(links) == len(set(links)) == 3 * 4 * 4
    found = mediate(tiny, pairs, links)
    ap = activation_patching(tiny, pairs, kinds=("heads",)).heads
    for number, (c, _) in enumerate(links):
        torch.testing.assert_close(
            found.total[:, number], ap[:, c.layer, c.place], rtol=1e-4, atol=1e-4
        )
    assert (found.remainder.abs() > 1e-3).any(), "nothing makes them add up"
    small = mediate(tiny, pairs, links, memory=2**20)
    for one, other in zip(found, small, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_strongest_links_of_one_prompt_are_its_strongest_targets(tiny, pairs):
    effects = component_effects(tiny, pairs.select([0]), "heads", ("neurons",))["neurons"]
    source = Component("heads", 1, 2)
    links = strongest_links(effects, 3, [source])
    places = effects.strongest_targets.places[0, 1, 2, :3]
    assert [d.layer * 128 + d.place for _, d in links] == places.tolist()
    assert {c for c, _ in links} == {source} and {d.kind for _, d in links} == {"neurons"}
    everything = strongest_links(effects, 2)
    assert len(everything) == 2 * 12 and everything[2 * 6 : 2 * 7] == links[:2]


def test_links_add_what_each_prompt_lists(tiny, pairs):
    effects = component_effects(tiny, pairs, "heads", ("heads",), strongest=12)["heads"]
    links = strongest_links(effects, 4, [Component("heads", 0, 0)])
    relative = dense_effects(tiny, pairs, "heads", "heads")[1, :, 0, 0].sum(dim=0).flatten()
    expected = relative.argsort(descending=True)[:4]
    assert [d.layer * 4 + d.place for _, d in links] == expected.tolist()


def test_links_that_cannot_be_are_named(tiny, pairs):
    early, late = Component("heads", 0, 0), Component("neurons", 0, 0)
    with pytest.raises(ValueError, match="is not computed after"):
        mediate(tiny, pairs, [(late, early)])
    with pytest.raises(ValueError, match="3 layers of 4 heads"):
        mediate(tiny, pairs, [(early, Component("heads", 1, 4))])
    with pytest.raises(ValueError, match="layers"):
        mediate(tiny, pairs, [(early, Component("layers", 1, 0))])
