"""AP against a bare TransformerLens hook loop, IG against Captum, to 1e-4 of the largest total."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task
from analysis.tasks import TASKS

DIRECTIONS = ("noising", "denoising")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_testbed_ap_is_the_hook_loops(testbed, task, direction):
    pairs = load_task(task, testbed, n=2)
    ap = activation_patching(testbed, pairs, direction=direction)
    tolerance = 1e-4 * ap.total.abs().max().item()
    for kind, layer, component in [("heads", 0, 2), ("heads", 2, 7), ("neurons", 1, 100)]:
        strongest = int(ap.of(kind)[1, layer].abs().argmax())
        for chosen in (component, strongest):
            expected = reference.hook_loop(testbed, pairs, 1, kind, layer, chosen, direction)
            assert ap.of(kind)[1, layer, chosen].item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_testbed_ig_is_captums(testbed, task, direction):
    pairs = load_task(task, testbed, n=2)
    ig = integrated_gradients(testbed, pairs, direction=direction, steps=16)
    tolerance = 1e-4 * ig.total.abs().max().item()
    for kind, layer in [("heads", 0), ("heads", 3), ("neurons", 1)]:
        expected = reference.captum(testbed, pairs, 1, kind, layer, direction)
        torch.testing.assert_close(ig.of(kind)[1, layer], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("task", TASKS)
def test_testbed_completeness(testbed, task):
    """Σ IG = m(base with the whole layer patched) - m(base), by independent hooked runs."""
    pairs = load_task(task, testbed, n=4)
    ig = integrated_gradients(testbed, pairs)
    largest = ig.total.abs().max().item()
    assert max(ig.heads_gap.abs().max(), ig.neurons_gap.abs().max()) <= 1e-3 * largest
    base, source = reference.sides(pairs, 0)
    measure = reference.metric(pairs, 0)
    for kind in ("heads", "neurons"):
        value = reference.cached(testbed, source, kind, 1)
        patched = reference.patched(testbed, base, kind, 1, lambda act, value=value: value)
        with torch.no_grad():
            joint = (measure(patched) - measure(testbed(base))).item()
        assert ig.of(kind)[0, 1].sum().item() == pytest.approx(joint, abs=1e-3 * largest)


@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_baseline_adds_up_over_every_position(tiny, direction, kind):
    """With zero put in, Δa is not 0 before the prompts differ: all positions must be in the sum."""
    pairs = load_task("ioi", tiny, n=1)
    ig = integrated_gradients(tiny, pairs, direction=direction, baseline="zero", steps=128)
    base, _ = reference.sides(pairs, 0, direction)
    measure = reference.metric(pairs, 0)
    largest = max(ig.base.abs().max(), ig.source.abs().max()).item()
    for layer in range(3):
        patched = reference.patched(tiny, base, kind, layer, torch.zeros_like)
        with torch.no_grad():
            joint = (measure(patched) - measure(tiny(base))).item()
        assert ig.of(kind)[0, layer].sum().item() == pytest.approx(joint, abs=1e-2 * largest)


@pytest.mark.parametrize("rule, theirs", [("midpoint", "riemann_middle"), ("left", "riemann_left")])
def test_other_rules_are_captums(tiny, rule, theirs):
    """Captum's path runs from the source to the base, so its left end is our right one."""
    pairs = load_task("ioi", tiny, n=1)
    ours = {"left": "right"}.get(rule, rule)
    ig = integrated_gradients(tiny, pairs, steps=5, rule=ours)
    expected = reference.captum(tiny, pairs, 0, "heads", 1, steps=5, rule=theirs)
    largest = expected.abs().max().item()
    torch.testing.assert_close(ig.heads[0, 1], expected, rtol=0, atol=1e-3 * largest)


@settings(max_examples=10)
@given(
    task=st.sampled_from(list(TASKS)),
    direction=st.sampled_from(DIRECTIONS),
    baseline=st.sampled_from(("source", "zero")),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(("heads", "neurons")),
    layer=st.integers(0, 2),
    component=st.integers(0, 3),
)
def test_random_models_ap_is_the_hook_loops(
    tiny, task, direction, baseline, seed, kind, layer, component
):
    pairs = load_task(task, tiny, n=1, seed=seed)
    ap = activation_patching(tiny, pairs, direction=direction, baseline=baseline)
    expected = reference.hook_loop(tiny, pairs, 0, kind, layer, component, direction, baseline)
    largest = max(ap.base.abs().max().item(), ap.source.abs().max().item())
    assert ap.of(kind)[0, layer, component].item() == pytest.approx(expected, abs=1e-4 * largest)
