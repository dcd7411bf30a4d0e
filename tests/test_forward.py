import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward import KINDS, Forward

SITES = [(kind, layer) for kind in KINDS for layer in range(3)]


def random_tokens(model: TransformerBridge, prompts: int, positions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(prompts * 100 + positions)
    return torch.randint(0, model.cfg.d_vocab, (prompts, positions), generator=generator)


@pytest.mark.parametrize("name", ["tiny", "tiny_raw", "testbed"])
@pytest.mark.parametrize("positions", [1, 2, 13])
def test_base_run_gives_the_models_logits(request, name, positions):
    model = request.getfixturevalue(name)
    tokens = random_tokens(model, 3, positions)
    with torch.no_grad():
        expected = model(tokens)[:, -1]
    torch.testing.assert_close(Forward(model).run(tokens).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, layer", SITES)
def test_activations_are_the_hooks(tiny, kind, layer):
    tokens = random_tokens(tiny, 2, 7)
    forward = Forward(tiny)
    activations = forward.run(tokens).activations[kind, layer]
    written = torch.einsum("ptcs,csd->ptcd", activations, forward.writes(kind, layer))
    hooked = reference.cached(tiny, tokens, kind, layer)
    if kind == "neurons":
        torch.testing.assert_close(activations.squeeze(-1), hooked, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(written, hooked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, layer", SITES)
def test_resuming_equals_a_hooked_run(tiny, kind, layer):
    tokens = random_tokens(tiny, 2, 7)
    forward = Forward(tiny)
    run = forward.run(tokens)
    scale = torch.randn(run.activations[kind, layer].shape[2], generator=torch.manual_seed(1))
    change = torch.einsum(
        "ptcs,csd->ptd",
        run.activations[kind, layer] * scale[:, None],
        forward.writes(kind, layer),
    )
    shaped = scale[:, None] if kind == "heads" else scale
    expected = reference.patched(tiny, tokens, kind, layer, lambda act: act * (1 + shaped))
    resumed = run.resume(kind, layer, change)
    torch.testing.assert_close(resumed, expected[:, -1], rtol=1e-3, atol=1e-4)


@given(
    site=st.sampled_from(SITES),
    batch=st.lists(st.integers(1, 3), max_size=2),
    prompts=st.integers(1, 3),
    positions=st.integers(1, 9),
)
def test_no_change_is_the_base_run(tiny, site, batch, prompts, positions):
    run = Forward(tiny).run(random_tokens(tiny, prompts, positions))
    change = torch.zeros(*batch, prompts, positions, tiny.cfg.d_model)
    resumed = run.resume(*site, change)
    assert resumed.shape == (*batch, prompts, tiny.cfg.d_vocab)
    torch.testing.assert_close(resumed, run.logits.expand_as(resumed), rtol=1e-4, atol=1e-4)


def test_changing_the_stream_to_the_other_runs_stream_gives_its_logits(tiny):
    """Patching the whole residual stream gives the total effect, from any layer."""
    forward = Forward(tiny)
    base, source = (forward.run(random_tokens(tiny, 2, positions)[:, :5]) for positions in (5, 6))
    for site in SITES:
        resumed = base.resume(*site, source.after[site] - base.after[site])
        torch.testing.assert_close(resumed, source.logits, rtol=1e-3, atol=1e-4)


def test_the_model_is_left_as_it_was(tiny):
    tiny.set_use_attn_result(False)
    before = {name: hook.fwd_hooks[:] for name, hook in tiny.hook_dict.items()}
    Forward(tiny).run(random_tokens(tiny, 1, 4))
    assert {name: hook.fwd_hooks for name, hook in tiny.hook_dict.items()} == before
    assert not tiny.cfg.use_attn_result
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in tiny.parameters())
