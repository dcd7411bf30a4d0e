"""The fast engine against hooks."""

import pytest
import reference
import torch
from conftest import random_tokens
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.parts import DIRECTIONS, Part, split_into_parts
from analysis.attribution.quadrature import quadrature
from analysis.bench.contenders import hook_loop
from analysis.bench.workloads import SHAPES, Shape, random_model, random_pairs
from analysis.forward import KINDS, forward_of

SITES = [(kind, layer) for kind in KINDS for layer in range(3)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
VOCABULARY = 150


@st.composite
def configurations(draw) -> GPT2Config:
    """Layers, heads, widths and activation functions of small models."""
    heads = draw(st.integers(1, 4))
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=16,
        n_layer=draw(st.integers(1, 4)),
        n_head=heads,
        n_embd=heads * draw(st.sampled_from((2, 8))),
        n_inner=draw(st.sampled_from((None, 5))),
        activation_function=draw(st.sampled_from(("gelu_new", "gelu", "relu"))),
        initializer_range=0.3,
    )


@st.composite
def shapes(draw) -> Shape:
    length = draw(st.integers(1, 9))
    return Shape(length, draw(st.integers(0, length - 1)))


def relative(part: Part, found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = max(part.measure(run).abs().max().item() for run in (part.base, part.source))
    return (found - expected).abs().max().item() / scale


# No shrinking: every example loads a model.
@settings(max_examples=20, phases=(Phase.generate,))
@given(
    configuration=configurations(),
    processed=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    shape=shapes(),
    task=st.sampled_from(("ioi", "greater-than")),
    direction=st.sampled_from(DIRECTIONS),
    memory=st.sampled_from((1, 2**18, 2**28)),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_engine_is_the_hooks(
    configuration, processed, dtype, shape, task, direction, memory, seed, data
):
    """AP and IG at a random site of a random model, whatever the chunks."""
    model = random_model(configuration, seed, dtype, processed)
    pairs = random_pairs(task, shape, 3, VOCABULARY, seed)
    kind = data.draw(st.sampled_from(KINDS))
    layer = data.draw(st.integers(0, configuration.n_layer - 1))
    nodes = quadrature("gauss-legendre", 3)
    for part in split_into_parts(forward_of(model), pairs, direction, "source", memory):
        site = next(site for site in part.sites((kind,)) if site.layer == layer)
        tokens = (part.base.tokens, part.source.tokens)
        components = list(range(min(4, len(site.writes))))
        loop = hook_loop(model, *tokens, part.readout, kind, layer, components)
        patched = patch_each(site)[:, components]
        assert relative(part, patched, torch.stack(list(loop), dim=1)) <= TOLERANCE[dtype]
        integrated = integrate_jointly(site, *nodes)
        expected = reference.integrated_by_hooks(
            model, *tokens, part.readout, kind, layer, list(zip(*nodes, strict=True))
        )
        assert relative(part, integrated, expected) <= TOLERANCE[dtype]


def test_the_engine_is_the_hooks_at_gpt2_smalls_shape():
    model = random_model(GPT2Config())
    pairs = random_pairs("ioi", SHAPES["ioi"], 2, 50257)
    (part,) = split_into_parts(forward_of(model), pairs, "noising", "source", 2**28)
    for kind, layer, component in [("heads", 3, 7), ("neurons", 5, 2000)]:
        site = next(site for site in part.sites((kind,)) if site.layer == layer)
        change = torch.einsum(
            "pts,sd->ptd", site.difference[:, :, component], site.writes[component]
        )
        (expected,) = hook_loop(
            model, part.base.tokens, part.source.tokens, part.readout, kind, layer, [component]
        )
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
    hooked = reference.hooked_activation(tiny, tokens, kind, layer)
    if kind == "heads":
        activations = torch.einsum("ptcs,csd->ptcd", activations, forward.writes(kind, layer))
    torch.testing.assert_close(activations.reshape(hooked.shape), hooked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, layer", SITES)
def test_a_trace_is_what_hooks_see(tiny, kind, layer):
    """Every later place with one component patched; no place before it is traced."""
    tokens = [random_tokens(tiny, 2, positions)[:, :5] for positions in (5, 6)]
    forward = forward_of(tiny)
    base, source = (forward.run(side) for side in tokens)
    difference = (source.activations[kind, layer] - base.activations[kind, layer])[:, :, 3]
    change = torch.einsum("pts,sd->ptd", difference, forward.writes(kind, layer)[3])
    expected = reference.activations_when_patched(tiny, *tokens, [(kind, layer, 3)])
    traced = dict(base.trace(kind, layer, change))
    assert list(traced) == forward.places()[forward.places().index((kind, layer)) + 1 :]
    for place, activations in traced.items():
        written = torch.einsum("ptcs,csd->ptcd", activations, forward.writes(*place))
        found = written if place[0] == "heads" else activations.squeeze(-1)
        torch.testing.assert_close(found, expected[place], rtol=1e-4, atol=1e-5)
        assert not found.requires_grad


@pytest.mark.parametrize("first", [0, 3, 6])
def test_a_run_from_a_position_on_keeps_what_the_whole_run_has_there(tiny, first):
    tokens = random_tokens(tiny, 2, 7)
    whole, late = (forward_of(tiny).run(tokens, start) for start in (0, first))
    for site in SITES:
        torch.testing.assert_close(late.activations[site], whole.activations[site][:, first:])
        torch.testing.assert_close(late.after[site], whole.after[site][:, first:])
        change = torch.randn(2, 7 - first, tiny.cfg.d_model, generator=torch.manual_seed(0))
        everywhere = torch.nn.functional.pad(change, (0, 0, first, 0))
        torch.testing.assert_close(
            late.resume(*site, change), whole.resume(*site, everywhere), rtol=1e-4, atol=1e-4
        )


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
    resumed = run.resume(*site, change)
    assert resumed.shape == (*batch, prompts, tiny.cfg.d_vocab)
    torch.testing.assert_close(resumed, run.logits.expand_as(resumed), rtol=1e-4, atol=1e-4)


def test_columns_are_the_vocabularys(tiny):
    run = forward_of(tiny).run(random_tokens(tiny, 2, 5))
    columns = torch.tensor([[5, 9, 9], [0, 3327, 17]])
    change = torch.randn(3, 2, 5, tiny.cfg.d_model, generator=torch.manual_seed(0))
    everything = run.resume("heads", 1, change)
    expected = everything.gather(-1, columns.expand(3, 2, 3))
    some = run.resume("heads", 1, change, columns)
    torch.testing.assert_close(some, expected, rtol=1e-4, atol=1e-4)


def test_changing_the_stream_to_the_other_runs_stream_gives_its_logits(tiny):
    """Patching the whole residual stream gives the total effect, from any layer."""
    forward = forward_of(tiny)
    base, source = (forward.run(random_tokens(tiny, 2, positions)[:, :5]) for positions in (5, 6))
    for site in SITES:
        resumed = base.resume(*site, source.after[site] - base.after[site])
        torch.testing.assert_close(resumed, source.logits, rtol=1e-3, atol=1e-4)


def test_the_model_is_left_as_it_was(tiny):
    tiny.set_use_attn_result(False)
    before = {name: hook.fwd_hooks[:] for name, hook in tiny.hook_dict.items()}
    forward_of(tiny).run(random_tokens(tiny, 1, 4))
    assert {name: hook.fwd_hooks for name, hook in tiny.hook_dict.items()} == before
    assert not tiny.cfg.use_attn_result
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in tiny.parameters())
