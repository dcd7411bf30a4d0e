"""EAP-IG's path from one input to the other, against plain hooks on the whole model."""

import pytest
import reference
import torch

from analysis import attribution_patching, integrated_gradients, load_task
from analysis.attribution.quadrature import quadrature
from analysis.choices import DIRECTIONS, KINDS
from analysis.forward.reference import HOOKS


def hooked(model, pairs, prompt: int, direction: str, nodes, weights):
    """Every site's scores on one prompt; nothing of the engines takes part."""
    names = {
        (kind, layer): HOOKS[kind].format(layer)
        for kind in KINDS
        for layer in range(model.cfg.n_layers)
    }
    first = "blocks.0.hook_in"
    runs, readout = reference.sides(pairs, prompt, direction), reference.readout(pairs, prompt)
    model.set_use_attn_result(True)
    with torch.no_grad():
        base, source = (model.run_with_cache(tokens)[1] for tokens in runs)
    kept: dict[str, torch.Tensor] = {}
    keep = [(name, lambda it, hook: kept.__setitem__(hook.name, it)) for name in names.values()]
    scores = dict.fromkeys(names, 0.0)
    for node, weight in zip(nodes, weights, strict=True):
        start = (base[first] + node * (source[first] - base[first])).requires_grad_()
        put_in = (first, lambda it, hook, start=start: start)
        logits = model.run_with_hooks(runs[0], fwd_hooks=[put_in, *keep])
        metric = readout.of_vocabulary(logits[:, -1]).sum()
        gradients = torch.autograd.grad(metric, [kept[name] for name in names.values()])
        for (site, name), gradient in zip(names.items(), gradients, strict=True):
            terms = weight * gradient * (source[name] - base[name])
            scores[site] += terms.sum(dim=(1, 3) if site[0] == "heads" else 1)[0]
    model.set_use_attn_result(False)
    return scores


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rule, steps", [("gauss-legendre", 3), ("left", 2)])
def test_scores_are_those_of_hooked_runs(tiny, direction, rule, steps):
    pairs = load_task("ioi", tiny, n=2)
    ig = integrated_gradients(
        tiny, pairs, direction=direction, steps=steps, rule=rule, path="input"
    )
    scale = max(ig.base.abs().max(), ig.source.abs().max()).item()
    expected = hooked(tiny, pairs, 1, direction, *quadrature(rule, steps))
    for (kind, layer), scores in expected.items():
        torch.testing.assert_close(ig.of(kind)[1, layer], scores, rtol=0, atol=1e-4 * scale)
    assert ig.heads_gap.isnan().all() and ig.neurons_gap.isnan().all()


def test_one_left_step_is_atp(tiny):
    pairs = load_task("ioi", tiny, n=3)
    ig = integrated_gradients(tiny, pairs, steps=1, rule="left", path="input")
    atp = attribution_patching(tiny, pairs)
    for kind in KINDS:
        scale = atp.of(kind).abs().max().item()
        torch.testing.assert_close(ig.of(kind), atp.of(kind), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("task", ["greater-than", "gender-bias"])
def test_to_a_tolerance_it_is_many_steps(testbed, task):
    pairs = load_task(task, testbed, n=4)
    loose, exact = (
        integrated_gradients(testbed, pairs, path="input", **how) for how in ({}, {"steps": 64})
    )
    within = 1e-3 * loose.total.abs().max().item()
    for kind in KINDS:
        torch.testing.assert_close(loose.of(kind), exact.of(kind), rtol=0, atol=within)
        layer_joint = integrated_gradients(testbed, pairs, kinds=(kind,))
        assert (layer_joint.of(kind) - loose.of(kind)).abs().max() > 10 * within


def test_other_prompts_and_kinds_change_nothing_but_the_scale(tiny):
    pairs = load_task("ioi", tiny, n=4)
    settings = {"steps": 5, "rule": "clenshaw-curtis", "path": "input"}
    together = integrated_gradients(tiny, pairs, **settings)
    alone = integrated_gradients(tiny, pairs.select([2]), kinds=("neurons",), **settings)
    torch.testing.assert_close(alone.neurons[0], together.neurons[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_it_leads_to_the_source_only(tiny, baseline):
    pairs = load_task("ioi", tiny, n=2)
    with pytest.raises(ValueError, match=f"path='input'.*baseline='{baseline}'.*source"):
        integrated_gradients(tiny, pairs, baseline=baseline, path="input")
