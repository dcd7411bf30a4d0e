"""The exact engine against hooks."""

from random import Random

import pytest
import torch
from conftest import random_tokens, readout, weighed
from hypothesis import given
from hypothesis import strategies as st
from reference import activations_when_patched
from transformers import GPT2Config

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.bench.workloads import SHAPES, Shape, random_model, random_pairs
from analysis.choices import DIRECTIONS, KINDS
from analysis.forward import forward_of, reference
from analysis.forward.decoder import Decoder
from analysis.forward.hooks import HookedForward
from analysis.metrics import LabelMetric, Labels, Readout, logit_diff, prob_diff
from analysis.sites import Part, Plan

SITES = [(kind, layer) for kind in KINDS for layer in range(3)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# Every number of models has each of these in turn: their counts have no common factor.
ACTIVATIONS = ("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu")
EPSILONS = (1e-5, 0.1)
VOCABULARIES = (150, 2049, 4100)


def configuration(number: int, draw: Random) -> GPT2Config:
    """Layers, heads, widths, norms, activation functions and vocabularies of small models."""
    heads = draw.randint(1, 4)
    return GPT2Config(
        vocab_size=VOCABULARIES[number % len(VOCABULARIES)],
        n_positions=16,
        n_layer=draw.randint(1, 4),
        n_head=heads,
        n_embd=heads * draw.choice((2, 8)),
        n_inner=draw.choice((None, 5)),
        activation_function=ACTIVATIONS[number % len(ACTIVATIONS)],
        layer_norm_epsilon=EPSILONS[number % len(EPSILONS)],
        tie_word_embeddings=draw.choice((True, False)),
        initializer_range=0.3,
    )


def shape(draw: Random) -> Shape:
    length = draw.randint(1, 9)
    return Shape(length, draw.randrange(length))


def relative(part: Part, found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = max(part.measure(run).abs().max().item() for run in (part.base, part.source))
    return (found - expected).abs().max().item() / scale


@pytest.mark.parametrize("number", range(30))
def test_the_engine_is_the_hooks(number):
    """AP and IG at a random site of a random model, whatever the chunks."""
    draw = Random(number)
    config, dtype = configuration(number, draw), draw.choice(list(TOLERANCE))
    model = random_model(config, number, dtype, compatibility_mode=draw.choice((True, False)))
    task = draw.choice(("ioi", "greater-than"))
    pairs = random_pairs(task, shape(draw), 3, config.vocab_size, number)
    direction, memory = draw.choice(DIRECTIONS), draw.choice((1, 2**18, 2**28))
    kind, layer = draw.choice(KINDS), draw.randrange(config.n_layer)
    forward, nodes = forward_of(model), quadrature("gauss-legendre", 3)
    assert isinstance(forward, Decoder)
    for part in Plan(forward, pairs, direction, memory=memory).parts():
        site = next(site for site in part.sites((kind,)) if site.layer == layer)
        runs = (part.base.tokens, part.source.tokens)
        components = list(range(min(4, len(site.writes))))
        expected = reference.patch(model, runs, part.readout, (kind, layer), components)
        patched = patch_each(site)[:, components]
        assert relative(part, patched, torch.stack(list(expected), dim=1)) <= TOLERANCE[dtype]
        integrated = integrate_jointly(site, *nodes)
        path = list(zip(*nodes, strict=True))
        expected = reference.integrate(model, runs, part.readout, (kind, layer), path)
        assert relative(part, integrated, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    "other",
    [
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "tanh"},
        {"activation_function": "quick_gelu"},
    ],
    ids=str,
)
def test_a_model_that_the_engine_does_not_compute_goes_through_hooks(other):
    config = GPT2Config(vocab_size=150, n_layer=2, n_head=2, n_embd=8, **other)
    with pytest.warns(UserWarning, match="through hooks"):
        assert isinstance(forward_of(random_model(config)), HookedForward)


def test_the_engine_is_the_hooks_at_gpt2_smalls_shape():
    model = random_model(GPT2Config(), compatibility_mode=False)  # folding it takes seconds
    pairs = random_pairs("ioi", SHAPES["ioi"], 2, 50257)
    (part,) = Plan(forward_of(model), pairs, memory=2**28).parts()
    for kind, layer, component in [("heads", 3, 7), ("neurons", 5, 2000)]:
        site = next(site for site in part.sites((kind,)) if site.layer == layer)
        change = torch.einsum(
            "pts,sd->ptd", site.difference[:, :, component], site.writes[component]
        )
        runs = (part.base.tokens, part.source.tokens)
        (expected,) = reference.patch(model, runs, part.readout, (kind, layer), [component])
        assert relative(part, site.resume(change) - site.base, expected) <= 1e-5


@pytest.mark.parametrize("name", ["tiny", "tiny_raw", "testbed"])
@pytest.mark.parametrize("positions", [1, 2, 13])
def test_base_run_gives_the_models_logits(request, name, positions):
    model = request.getfixturevalue(name)
    tokens = random_tokens(model, 3, positions)
    with torch.no_grad():
        expected = model(tokens)[:, -1]
    logits = forward_of(model).run(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, layer", SITES)
def test_activations_are_the_hooks(tiny, kind, layer):
    tokens = random_tokens(tiny, 2, 7)
    forward = forward_of(tiny)
    activations = forward.run(tokens).activations[kind, layer]
    hooked = reference.activation(tiny, tokens, (kind, layer))
    if kind == "heads":
        activations = torch.einsum("ptcs,csd->ptcd", activations, forward.writes((kind, layer)))
    torch.testing.assert_close(activations.reshape(hooked.shape), hooked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, layer", SITES)
def test_a_trace_is_what_hooks_see(tiny, kind, layer):
    """Every later site with one component patched; none before it is traced."""
    tokens = [random_tokens(tiny, 2, positions)[:, :5] for positions in (5, 6)]
    forward = forward_of(tiny)
    base, source = (forward.run(side) for side in tokens)
    difference = (source.activations[kind, layer] - base.activations[kind, layer])[:, :, 3]
    change = torch.einsum("pts,sd->ptd", difference, forward.writes((kind, layer))[3])
    expected = activations_when_patched(tiny, *tokens, [(kind, layer, 3)])
    traced = dict(base.forward.trace(base, (kind, layer), change))
    assert list(traced) == forward.sites()[forward.sites().index((kind, layer)) + 1 :]
    for site, activations in traced.items():
        written = torch.einsum("ptcs,csd->ptcd", activations, forward.writes(site))
        found = written if site[0] == "heads" else activations.squeeze(-1)
        torch.testing.assert_close(found, expected[site], rtol=1e-4, atol=1e-5)
        assert not found.requires_grad


@pytest.mark.parametrize("first", [0, 3, 6])
def test_a_run_from_a_position_on_keeps_what_the_whole_run_has_there(tiny, first):
    tokens = random_tokens(tiny, 2, 7)
    whole, late = (forward_of(tiny).run(tokens, start) for start in (0, first))
    for site in SITES:
        torch.testing.assert_close(late.activations[site], whole.activations[site][:, first:])
        torch.testing.assert_close(late.after[site], whole.after[site][:, first:])
        for kept in (late.activations[site], late.after[site]):
            assert kept.untyped_storage().nbytes() == kept.nbytes, "nothing earlier is held"
        change = torch.randn(2, 7 - first, tiny.cfg.d_model, generator=torch.manual_seed(0))
        everywhere = torch.nn.functional.pad(change, (0, 0, first, 0))
        torch.testing.assert_close(
            late.forward.resume(late, site, change, readout(2)),
            whole.forward.resume(whole, site, everywhere, readout(2)),
            rtol=1e-4,
            atol=1e-4,
        )
    for kept in (side for layer in late.prefix for side in layer):
        assert kept.shape[2] == first and kept.untyped_storage().nbytes() == kept.nbytes


@given(
    site=st.sampled_from(SITES),
    batch=st.lists(st.integers(1, 3), max_size=2),
    prompts=st.integers(1, 3),
    positions=st.integers(1, 9),
    data=st.data(),
)
def test_no_change_is_the_base_run(tiny, site, batch, prompts, positions, data):
    first = data.draw(st.integers(0, positions - 1))
    run = forward_of(tiny).run(random_tokens(tiny, prompts, positions), first)
    change = torch.zeros(*batch, prompts, positions - first, tiny.cfg.d_model)
    for metric in (weighed, logit_diff, prob_diff):
        measure = readout(prompts, metric)
        resumed = run.forward.resume(run, site, change, measure)
        assert resumed.shape == (*batch, prompts)
        expected = measure.of_vocabulary(run.logits).expand_as(resumed)
        torch.testing.assert_close(resumed, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("vocabulary", [2047, 2048, 2049, 4100])
def test_columns_are_the_vocabularys(vocabulary, normalised):
    """However many parts the normaliser takes the vocabulary in."""
    model = random_model(
        GPT2Config(vocab_size=vocabulary, n_layer=1, n_head=2, n_embd=8, initializer_range=0.3)
    )
    tokens = torch.randint(vocabulary, (2, 5), generator=torch.manual_seed(0))
    with torch.no_grad():
        logits = model(tokens)[:, -1]
    columns = torch.tensor([[5, 9, 9, 2046], [0, vocabulary - 1, 17, vocabulary // 2]])
    weights = torch.tensor([1.0, 2.0, -3.0, 5.0])
    metric = LabelMetric(lambda values, labels: values @ weights, normalised=normalised)
    labels = Labels(columns, torch.ones(2, 4))
    expected = metric(logits, labels).expand(3, -1)
    run, change = forward_of(model).run(tokens), torch.zeros(3, 2, 5, 8)
    for same in (metric, lambda *given: metric(*given)):  # the second gets the whole vocabulary
        found = run.forward.resume(run, ("heads", 0), change, Readout(same, labels))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_patching_the_whole_residual_stream_gives_the_total_effect(tiny):
    """From any layer."""
    forward = forward_of(tiny)
    base, source = (forward.run(random_tokens(tiny, 2, positions)[:, :5]) for positions in (5, 6))
    for site in SITES:
        resumed = base.forward.resume(base, site, source.after[site] - base.after[site], readout(2))
        expected = readout(2).of_vocabulary(source.logits)
        torch.testing.assert_close(resumed, expected, rtol=1e-3, atol=1e-3)


def test_the_model_is_left_as_it_was(tiny):
    tiny.set_use_attn_result(False)
    before = {name: hook.fwd_hooks[:] for name, hook in tiny.hook_dict.items()}
    forward_of(tiny).run(random_tokens(tiny, 1, 4))
    assert {name: hook.fwd_hooks for name, hook in tiny.hook_dict.items()} == before
    assert not tiny.cfg.use_attn_result
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in tiny.parameters())


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_without_a_change_are_those_through_resume(tiny, first, batch):
    forward = forward_of(tiny)
    run = forward.run(random_tokens(tiny, 2, 6), first)
    nothing = torch.zeros(*batch, 2, 6 - first, tiny.cfg.d_model)
    for metric in (weighed, logit_diff, prob_diff):
        found = forward.gradients(run, nothing, readout(2, metric))
        assert list(found) == forward.sites()
        for site, gradient in found.items():
            point = nothing.clone().requires_grad_()
            resumed = forward.resume(run, site, point, readout(2, metric))
            (expected,) = torch.autograd.grad(resumed.sum(), point)
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
            assert not gradient.requires_grad


def test_a_run_of_some_prompts_is_theirs_alone(tiny):
    tokens = random_tokens(tiny, 4, 6)
    chosen = [3, 1]
    found = forward_of(tiny).run(tokens, 2).select(chosen)
    alone = found.forward.run(tokens[chosen], 2)
    torch.testing.assert_close(found.logits, alone.logits)
    torch.testing.assert_close(found.embedded, alone.embedded)
    change = torch.randn(2, 4, tiny.cfg.d_model, generator=torch.manual_seed(0))
    for site in SITES:
        torch.testing.assert_close(found.activations[site], alone.activations[site])
        resumed = (run.forward.resume(run, site, change, readout(2)) for run in (found, alone))
        torch.testing.assert_close(*resumed, rtol=1e-4, atol=1e-4)
    gradients = (run.forward.gradients(run, change, readout(2)) for run in (found, alone))
    for one, other in zip(*(each.values() for each in gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
