"""Models that the fast engine does not know: the same numbers, through hooks."""

import pytest
import torch
from conftest import random_tokens
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from analysis import activation_patching, integrated_gradients, load_model, load_task, paths
from analysis.bench.contenders import captum, hook_loop
from analysis.bench.workloads import random_model
from analysis.forward import KINDS, forward_of
from analysis.forward.hooked import HookedForward
from analysis.metrics import Readout

SMALL = {
    "vocab_size": 3328,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
OTHERS = [LlamaConfig(**GROUPED), Qwen2Config(**GROUPED), GPTNeoXConfig(**SMALL)]


def saved(config: PretrainedConfig, directory) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(paths.MODELS / "testbed")).save_pretrained(directory)


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.model_type)
def test_other_architectures_have_the_same_methods(config, tmp_path):
    """Rotary positions, gated MLPs, other norms, shared keys, attention beside the MLP."""
    saved(config, tmp_path)
    model = load_model(tmp_path)
    pairs = load_task("gender-bias", model, n=2)
    with pytest.warns(UserWarning, match="fast engine.*through hooks"):
        ap = activation_patching(model, pairs)
    with pytest.warns(UserWarning, match="through hooks"):
        ig = integrated_gradients(model, pairs, steps=4)
    scale = max(ap.base.abs().max(), ap.source.abs().max()).item()
    for place in range(2):
        tokens = pairs.clean_tokens[place][None], pairs.corrupted_tokens[place][None]
        readout = Readout(pairs.metric, pairs.labels[torch.tensor([place])])
        for kind in KINDS:
            effects = hook_loop(model, *tokens, readout, kind, 0, [0, 3])
            expected = torch.cat(list(effects))
            found = ap.of(kind)[place, 0, [0, 3]]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)
            expected = captum(model, *tokens, readout, kind, 0, steps=4)[0]
            torch.testing.assert_close(ig.of(kind)[place, 0], expected, rtol=0, atol=1e-5 * scale)


def test_scaled_attention_is_no_plain_gpt2():
    """A GPT-2 whose attention is scaled by the layer's number must not take the fast engine."""
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
    columns = torch.tensor([[1, 2], [3, 4]])
    for layer in range(3):
        for name in ("activations", "after"):
            one, other = (getattr(run, name)[kind, layer] for run in runs)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        for wanted in (None, columns):
            for normalised in (False, True):
                one, other = (run.resume(kind, layer, change, wanted, normalised) for run in runs)
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_both_engines_trace_the_same(tiny, first, batch):
    """The later places alone, in the order in which they are computed."""
    tokens = random_tokens(tiny, 2, 6)
    runs = [engine(tiny).run(tokens, first) for engine in (forward_of, HookedForward)]
    change = torch.randn(*batch, 2, 6 - first, 32, generator=torch.manual_seed(0))
    places = runs[0].forward.places()
    for number, place in enumerate(places):
        one, other = (dict(run.trace(*place, change)) for run in runs)
        assert list(one) == list(other) == places[number + 1 :]
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
    one, other = (engine.run(tokens, first).replace(values, chosen) for engine in (fast, slow))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_components_that_do_not_write_to_the_stream_are_an_error(tmp_path):
    """Gemma 2 norms the sum of the heads before it is added."""
    saved(Gemma2Config(**GROUPED, head_dim=8), tmp_path)
    model = load_model(tmp_path)
    pairs = load_task("gender-bias", model, n=2)
    with (
        pytest.warns(UserWarning, match="through hooks"),
        pytest.raises(ValueError, match="don't write straight to the residual stream"),
    ):
        activation_patching(model, pairs)
