"""Models that the exact engine does not know: the same numbers, through hooks."""

import pytest
import torch
from architectures import HEADS, ONLY_HEADS, SCORED, network_of
from conftest import random_tokens, readout, weighed
from transformers import GPT2Config

from analysis import load_model
from analysis.ablation import multi_ablated_performance
from analysis.bench.workloads import Shape, random_model, random_pairs
from analysis.choices import KINDS
from analysis.forward import forward_of
from analysis.forward.hooks import HookedForward
from analysis.metrics import logit_diff, prob_diff

ROWS = SCORED | ONLY_HEADS
SITES = [(kind, layer) for layer in range(2) for kind in KINDS]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model by its name in the table of architectures."""
    models = {}

    def load(name):
        if name not in models:
            directory = tmp_path_factory.mktemp("architecture")
            network_of(ROWS[name], directory)
            models[name] = load_model(directory)
        return models[name]

    return load


def test_scaled_attention_is_no_plain_gpt2():
    """A GPT-2 whose attention is scaled by the layer's number must not take the exact engine."""
    config = GPT2Config(
        vocab_size=150, n_layer=2, n_head=2, n_embd=8, scale_attn_by_inverse_layer_idx=True
    )
    with pytest.warns(UserWarning, match="through hooks"):
        assert isinstance(forward_of(random_model(config)), HookedForward)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_have_one_interface(tiny, kind, first):
    fast, slow = forward_of(tiny), HookedForward(tiny)
    assert fast.layers == slow.layers == 3
    assert fast.components(kind) == slow.components(kind)
    tokens = random_tokens(tiny, 2, 6)
    runs = [engine.run(tokens, first) for engine in (fast, slow)]
    change = torch.randn(2, 2, 6 - first, tiny.cfg.d_model, generator=torch.manual_seed(0))
    for layer in range(3):
        one, other = (run.activations[kind, layer] for run in runs)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        for metric in (weighed, logit_diff, prob_diff):
            measure = readout(2, metric)
            one, other = (run.forward.resume(run, (kind, layer), change, measure) for run in runs)
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_both_engines_trace_the_same(tiny, first, batch):
    """The later sites alone, in the order in which they are computed."""
    tokens = random_tokens(tiny, 2, 6)
    runs = [engine(tiny).run(tokens, first) for engine in (forward_of, HookedForward)]
    change = torch.randn(*batch, 2, 6 - first, 32, generator=torch.manual_seed(0))
    sites = runs[0].forward.sites()
    for number, site in enumerate(sites):
        one, other = (dict(run.forward.trace(run, site, change)) for run in runs)
        assert list(one) == list(other) == sites[number + 1 :]
        for later, activations in one.items():
            torch.testing.assert_close(activations, other[later], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", [0, 3])
def test_both_engines_replace_the_same(tiny, first):
    fast, slow = forward_of(tiny), HookedForward(tiny)
    tokens, others = random_tokens(tiny, 2, 6), random_tokens(tiny, 3, 6)[:2]
    values = fast.run(others, first).activations
    random = torch.Generator().manual_seed(0)
    chosen = {
        kind: torch.rand(3, 3, fast.components(kind), generator=random) < 0.3 for kind in KINDS
    }
    for metric in (weighed, logit_diff, prob_diff):
        one, other = (
            engine.replace(engine.run(tokens, first), values, chosen, readout(2, metric))
            for engine in (fast, slow)
        )
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


def two_runs(engine):
    """Of prompts that differ from the third token on."""
    tokens, others = random_tokens(engine.model, 2, 6), random_tokens(engine.model, 3, 6)[:2]
    others[:, :3] = tokens[:, :3]
    return [engine.run(side, first=3) for side in (tokens, others)]


@pytest.mark.parametrize("name", ["Llama", "Pythia", "Gemma 2", "Granite", "Mixtral"])
def test_a_component_put_in_is_its_change_written(loaded, name):
    """Beside an MLP, before a norm, before a multiplier."""
    engine = HookedForward(loaded(name))
    base, source = two_runs(engine)
    for site in engine.sites():
        kind, layer = site
        weights = engine.writes(site)
        chosen = torch.eye(len(weights), dtype=torch.bool)[:4, None].repeat(1, 2, 1)
        chosen[:, 1 - layer] = False
        put_in = engine.replace(base, source.activations, {kind: chosen}, readout(2))
        difference = source.activations[site] - base.activations[site]
        changes = torch.einsum("ptcs,csd->cptd", difference, weights)[:4]
        written = engine.resume(base, site, changes, readout(2))
        torch.testing.assert_close(put_in, written, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["Llama", "Pythia", "Gemma 2", "Mixtral"])
def test_a_trace_without_a_change_is_the_run(loaded, name):
    engine = HookedForward(loaded(name))
    base, _ = two_runs(engine)
    assert engine.parallel == (name == "Pythia")
    for site in engine.sites():
        nothing = torch.zeros(2, 3, engine.model.cfg.d_model)
        traced = dict(engine.trace(base, site, nothing))
        assert list(traced) == engine.sites_after(site)
        for later, activations in traced.items():
            torch.testing.assert_close(activations, base.activations[later], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_per_head_results_change_nothing_and_stay_on(loaded, kind):
    model = loaded("Llama")
    change = torch.randn(2, 3, model.cfg.d_model, generator=torch.manual_seed(0))

    def resumed():
        engine = HookedForward(model)
        runs = two_runs(engine)
        return torch.stack([engine.resume(run, (kind, 0), change, readout(2)) for run in runs])

    expected = resumed()
    model.set_use_attn_result(True)
    try:
        torch.testing.assert_close(resumed(), expected)
        assert model.cfg.use_attn_result
    finally:
        model.set_use_attn_result(False)


@pytest.mark.parametrize("kind, layer", SITES)
def test_a_kind_that_one_layer_does_not_write_linearly_is_missing(loaded, kind, layer):
    model = loaded("Llama")
    projection = {"heads": f"blocks.{layer}.attn.o", "neurons": f"blocks.{layer}.mlp.out"}[kind]
    with model.hooks(fwd_hooks=[(f"{projection}.hook_out", lambda left, hook: left.tanh())]):
        engine = HookedForward(model)
    (other,) = set(KINDS) - {kind}
    assert engine.sites() == [(other, 0), (other, 1)]
    assert engine.components(other) in (HEADS, 48)
    for number in range(2):
        with pytest.raises(
            ValueError, match=f"Llama.* no {kind}.*layer {layer}.*its {other} alone"
        ):
            engine.writes((kind, number))


def test_sets_of_missing_components_are_refused(loaded):
    model = loaded("Mixtral")
    pairs = random_pairs("ioi", Shape(6, 3), 2, model.cfg.d_vocab)
    everything = torch.ones(1, 2, 48, dtype=torch.bool).numpy()
    with (
        pytest.warns(UserWarning, match="through hooks"),
        pytest.raises(ValueError, match="Mixtral.* no neurons.*mixtures of experts"),
    ):
        multi_ablated_performance(model, pairs, everything, "neurons")


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_both_engines_have_the_same_gradients(tiny, first, batch):
    """At the base run's embedding, and at another."""
    tokens = random_tokens(tiny, 2, 6)
    runs = [engine(tiny).run(tokens, first) for engine in (forward_of, HookedForward)]
    torch.testing.assert_close(runs[0].embedded, runs[1].embedded, rtol=1e-5, atol=1e-5)
    change = torch.randn(*batch, 2, 6 - first, 32, generator=torch.manual_seed(0))
    for size in (0, 1):
        one, other = (run.forward.gradients(run, size * change, readout(2)) for run in runs)
        assert list(one) == list(other)
        for site, gradient in one.items():
            torch.testing.assert_close(gradient, other[site], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "Pythia", "Gemma 2", "Granite", "Mixtral", "OPT"])
def test_gradients_are_those_through_resume(loaded, name):
    """From one pass for all sites: beside an MLP, before a norm, before a multiplier, flat."""
    engine = HookedForward(loaded(name))
    base, _ = two_runs(engine)
    nothing = torch.zeros(2, 3, engine.model.cfg.d_model)
    found = engine.gradients(base, nothing, readout(2))
    assert list(found) == engine.sites()
    for site, gradient in found.items():
        point = nothing.clone().requires_grad_()
        resumed = engine.resume(base, site, point, readout(2))
        (expected,) = torch.autograd.grad(resumed.sum(), point)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
