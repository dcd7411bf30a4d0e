"""AP and AtP against plain hooks, IG against Captum, to 1e-4 of the largest total effect."""

import pytest
import reference
import torch

from analysis import (
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_task,
)
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import DIRECTIONS, KINDS
from analysis.tasks import TASKS


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_testbed_ap_is_the_hooks(testbed, task, direction):
    pairs = load_task(task, testbed, n=2)
    ap = activation_patching(testbed, pairs, direction=direction)
    tolerance = 1e-4 * ap.total.abs().max().item()
    for kind, layer, component in [("heads", 0, 2), ("heads", 2, 7), ("neurons", 1, 100)]:
        strongest = int(ap.of(kind)[1, layer].abs().argmax())
        for chosen in (component, strongest):
            expected = reference.patched(testbed, pairs, 1, (kind, layer), chosen, direction)
            assert ap.of(kind)[1, layer, chosen].item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_testbed_ig_is_captums(testbed, task, direction):
    pairs = load_task(task, testbed, n=2)
    ig = integrated_gradients(testbed, pairs, direction=direction, steps=16)
    tolerance = 1e-4 * ig.total.abs().max().item()
    for kind, layer in [("heads", 0), ("heads", 3), ("neurons", 1)]:
        expected = reference.captum(testbed, pairs, 1, (kind, layer), direction)
        torch.testing.assert_close(ig.of(kind)[1, layer], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind, layer", [("heads", 1), ("neurons", 2)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_atp_is_one_gradient_of_a_hooked_run(testbed, direction, kind, layer):
    """At the base itself; nothing of IG takes part."""
    pairs = load_task("greater-than", testbed, n=2)
    atp = attribution_patching(testbed, pairs, direction=direction)
    runs = reference.sides(pairs, 1, direction)
    measure = reference.readout(pairs, 1)
    expected = reference.integrate(testbed, runs, measure, (kind, layer), [(0.0, 1.0)])
    tolerance = 1e-4 * atp.total.abs().max().item()
    torch.testing.assert_close(atp.of(kind)[1, layer], expected[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("task", TASKS)
def test_testbed_completeness(testbed, task):
    """Σ IG = m(base with the whole layer patched) - m(base), by independent hooked runs."""
    pairs = load_task(task, testbed, n=4)
    ig = integrated_gradients(testbed, pairs)
    largest = ig.total.abs().max().item()
    assert max(ig.heads_gap.abs().max(), ig.neurons_gap.abs().max()) <= 1e-3 * largest
    _, source = reference.sides(pairs, 0)
    for kind in KINDS:
        value = reference.activation(testbed, source, (kind, 1))
        joint = reference.ablated(testbed, pairs, 0, (kind, 1), edit=lambda _, value=value: value)
        assert ig.of(kind)[0, 1].sum().item() == pytest.approx(joint, abs=1e-3 * largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_baseline_adds_up_over_every_position(tiny, direction, kind):
    """With zero put in, Δa is not 0 before the prompts differ: all positions must be in the sum."""
    pairs = load_task("ioi", tiny, n=1)
    ig = integrated_gradients(tiny, pairs, direction=direction, baseline="zero", steps=128)
    largest = max(ig.base.abs().max(), ig.source.abs().max()).item()
    for layer in range(3):
        joint = reference.ablated(tiny, pairs, 0, (kind, layer), direction)
        assert ig.of(kind)[0, layer].sum().item() == pytest.approx(joint, abs=1e-2 * largest)


@pytest.mark.parametrize("rule, theirs", [("midpoint", "riemann_middle"), ("left", "riemann_left")])
def test_other_rules_are_captums(tiny, rule, theirs):
    """Captum's path runs from the source to the base, so its left end is our right one."""
    pairs = load_task("ioi", tiny, n=1)
    ours = {"left": "right"}.get(rule, rule)
    ig = integrated_gradients(tiny, pairs, steps=5, rule=ours)
    expected = reference.captum(tiny, pairs, 0, ("heads", 1), steps=5, rule=theirs)
    largest = expected.abs().max().item()
    torch.testing.assert_close(ig.heads[0, 1], expected, rtol=0, atol=1e-3 * largest)


@pytest.mark.parametrize("kind, layer, component", [("heads", 0, 1), ("neurons", 1, 50)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_ap_of_other_baselines_is_the_hooks(tiny, baseline, direction, kind, layer, component):
    """To zero, or to the mean of all prompts' source runs at each position."""
    pairs = random_pairs("ioi", Shape(6, 3), 8, 3328)
    ap = activation_patching(tiny, pairs, direction=direction, baseline=baseline)
    sources = torch.stack([reference.sides(pairs, index, direction)[1][0] for index in range(8)])
    values = reference.activation(tiny, sources, (kind, layer))[:, :, component]
    value = values.mean(dim=0) if baseline == "mean" else torch.zeros_like(values[0])

    def edit(activation: torch.Tensor) -> torch.Tensor:
        activation[:, :, component] = value
        return activation

    expected = reference.ablated(tiny, pairs, 5, (kind, layer), direction, edit)
    largest = max(ap.base.abs().max().item(), ap.source.abs().max().item())
    assert ap.of(kind)[5, layer, component].item() == pytest.approx(expected, abs=1e-4 * largest)
