"""AtP's two repairs, on networks whose effects are known, and their identities on any other."""

from dataclasses import replace

import pytest
import torch
from conftest import random_tokens, readout
from transformers import GPT2Config

from analysis import activation_patching, attribution_patching, load_task
from analysis.attribution.attribution_patching import differentiate
from analysis.attribution.repairs import repaired
from analysis.bench.workloads import Shape, random_model, random_pairs
from analysis.choices import DIRECTIONS, KINDS
from analysis.forward import forward_of
from analysis.forward.hooks import HookedForward
from analysis.sites import Plan

BOTH = ("qk-fix", "grad-drop")
EPSILON = 1e8  # a norm with so much of it is linear: its weights take it out again


def linear_norms(layers: int):
    """A model of width 8 with one head and 4 neurons a layer, which all do nothing as yet.

    Norms only subtract the mean, so that the metric is linear in what the last layer writes.
    """
    config = GPT2Config(
        vocab_size=12,
        n_positions=8,
        n_layer=layers,
        n_head=1,
        n_embd=8,
        n_inner=4,
        activation_function="relu",
        layer_norm_epsilon=EPSILON,
        tie_word_embeddings=False,
        initializer_range=1.0,
    )
    model = random_model(config, dtype=torch.float64, compatibility_mode=False)
    with torch.no_grad():
        for name, weight in model.original_model.named_parameters():
            if ".ln_" in name or "ln_f" in name:
                weight.copy_(torch.full_like(weight, EPSILON**0.5 if "weight" in name else 0.0))
            elif ".h." in name:
                weight.zero_()
    return model


def neurons_of(method, *arguments, **settings) -> torch.Tensor:
    """The first layer's neurons, the only ones that these networks score."""
    return method(*arguments, kinds=("neurons",), **settings).neurons[:, 0]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("changed", [3, 5], ids=["keys", "queries and keys"])
def test_the_qk_fix_is_exact_for_a_saturated_head(changed, direction):
    """Layer 0's neurons move what layer 1's head attends to, and none of what it moves."""
    model, pairs = linear_norms(2), random_pairs("ioi", Shape(6, changed), 8, 12)
    weights = dict(model.tl_named_parameters())
    random = torch.Generator().manual_seed(1)
    axis = torch.tensor([1.0, -1.0] + [0.0] * 6, dtype=torch.float64)  # its mean is 0
    with torch.no_grad():
        for name, scale in {
            "0.mlp.W_in": 1,
            "1.attn.W_Q": 2,
            "1.attn.W_K": 2,
            "1.attn.W_V": 1,
        }.items():
            weight = weights[f"blocks.{name}"]
            weight += scale * torch.randn(weight.shape, generator=random, dtype=torch.float64)
        weights["blocks.1.attn.W_V"][:, :2] = 0
        weights["blocks.1.attn.W_O"] += torch.eye(8, dtype=torch.float64)
        weights["blocks.0.mlp.W_out"] += torch.outer(
            torch.tensor([3.0, -2.0, 1.0, -1.0]).double(), axis
        )
    (part,) = Plan(forward_of(model), pairs, direction).parts()
    pattern = forward_of(model).patterns(part.base, 1, torch.zeros_like(part.base.embedded))
    assert pattern[:, 0, -1].amax(dim=-1).median() > 0.99, "saturated"
    chosen = model, pairs, direction
    exact = neurons_of(activation_patching, *chosen)
    fixed = neurons_of(attribution_patching, *chosen, repairs=("qk-fix",))
    plain = neurons_of(attribution_patching, *chosen)
    torch.testing.assert_close(fixed, exact, rtol=1e-4, atol=1e-4)
    assert (plain - exact).abs().max() > 0.1 * exact.abs().max()


def test_grad_drop_sees_an_effect_whose_slopes_cancel():
    """Layer 1 takes back what layer 0 writes, as long as its neuron is active."""
    model, pairs = linear_norms(2), random_pairs("ioi", Shape(6, 5), 8, 12)
    weights = dict(model.tl_named_parameters())
    axis = torch.tensor([1.0, -1.0] + [0.0] * 6, dtype=torch.float64)
    with torch.no_grad():
        weights["blocks.0.mlp.W_in"] += torch.randn(8, 4, generator=torch.manual_seed(0)).double()
        weights["blocks.0.mlp.W_out"] -= axis
        weights["blocks.1.mlp.W_in"][0, 0] += 1
        weights["blocks.1.mlp.W_out"][0] -= axis
        weights["blocks.1.mlp.b_in"] += 2
    (part,) = Plan(forward_of(model), pairs).parts()
    site = part.site(("neurons", 0))
    right, wrong = weights["unembed.W_U"].T[pairs.labels.tokens].unbind(dim=1)
    direct = -site.difference[:, -1, :, 0] * ((right - wrong) @ axis)[:, None]
    exact = neurons_of(activation_patching, model, pairs)
    plain = neurons_of(attribution_patching, model, pairs)
    dropped = neurons_of(attribution_patching, model, pairs, repairs=("grad-drop",))
    missed = (plain.abs() < 1e-3) & (exact.abs() > 0.1)
    assert missed.any(), "AtP sees nothing where there is an effect"
    torch.testing.assert_close(dropped, direct.abs().float(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("ioi", tiny, n=4)


@pytest.mark.parametrize("dropped", range(3))
def test_a_dropped_layer_is_one_that_hooks_detach(tiny, dropped):
    forward, tokens = forward_of(tiny), random_tokens(tiny, 2, 6)
    found = forward.sensitivity(forward.run(tokens), readout(2), dropped)
    written = {}

    def hook_for(kind, layer):
        def hook(passing, hook):
            if layer == dropped:
                return passing.detach()
            written[kind, layer] = passing
            return passing

        return f"blocks.{layer}.{ {'heads': 'attn.o', 'neurons': 'mlp.out'}[kind] }.hook_out", hook

    with torch.enable_grad():
        hooks = [hook_for(kind, layer) for layer in range(3) for kind in KINDS]
        logits = tiny.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
        expected = torch.autograd.grad(readout(2).of_vocabulary(logits).sum(), [*written.values()])
    for site, gradient in zip(written, expected, strict=True):
        torch.testing.assert_close(found.stream[site], gradient, rtol=1e-3, atol=1e-4)
    assert not any(found.stream[kind, dropped].any() for kind in KINDS)
    assert not found.patterns[dropped].any()


@pytest.mark.parametrize("layer", range(3))
def test_patterns_are_the_models(tiny, layer):
    """From a position on, and moved to another run's by the stream's difference."""
    forward, tokens = forward_of(tiny), random_tokens(tiny, 2, 6)
    name = f"blocks.{layer}.attn.hook_pattern"
    others = random_tokens(tiny, 3, 6)[:2]
    others[:, :3] = tokens[:, :3]
    base, source = (forward.run(side, 3) for side in (tokens, others))
    before = [run.after["neurons", layer - 1] if layer else run.embedded for run in (base, source)]
    moved = forward.patterns(base, layer, torch.stack([0 * before[0], before[1] - before[0]]))
    for row, side in enumerate((tokens, others)):
        _, seen = tiny.run_with_cache(side, names_filter=name)
        torch.testing.assert_close(moved[row], seen[name][:, :, 3:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("repairs", [("qk-fix",), ("grad-drop",), BOTH], ids=str)
def test_memory_and_order_change_nothing(tiny, pairs, repairs):
    one, other = (
        attribution_patching(tiny, pairs, repairs=of, memory=memory)
        for of, memory in ((repairs, 2**28), (repairs[::-1], 2**18))
    )
    for kind in KINDS:
        torch.testing.assert_close(one.of(kind), other.of(kind), rtol=1e-3, atol=1e-3)
    assert one.method == other.method == f"AtP, {', '.join(repairs)}"
    if "grad-drop" in repairs:
        assert one.heads.min() >= 0 and one.neurons.min() >= 0


def test_the_last_layer_has_no_later_attention_to_fix(tiny, pairs):
    plain, fixed = (attribution_patching(tiny, pairs, repairs=of) for of in ((), ("qk-fix",)))
    for kind in KINDS:
        difference = (plain.of(kind) - fixed.of(kind)).abs()
        assert difference[:, -1].max() < 1e-4 < 1e-2 < difference[:, 0].max()


def test_the_qk_fix_of_a_tiny_change_is_its_linear_term():
    """So it takes the place of what it is added for, and counts nothing twice."""
    config = GPT2Config(vocab_size=150, n_layer=3, n_head=2, n_embd=8, initializer_range=0.5)
    model = random_model(config, dtype=torch.float64)
    (part,) = Plan(forward_of(model), random_pairs("ioi", Shape(6, 3), 2, 150)).parts()
    base = part.base.activations
    values = {site: base[site] + 1e-6 * (of - base[site]) for site, of in part.values.items()}
    tiny_change = replace(part, values=values)
    plain, fixed = differentiate(tiny_change), repaired(tiny_change, KINDS, ("qk-fix",))
    for site in tiny_change.sites():
        scores = plain(site)
        assert (fixed(site) - scores).abs().max() < 1e-3 * scores.abs().max()


def test_of_two_layers_grad_drop_leaves_the_qk_fix_nothing():
    """The one later layer is left out in the one estimate that is not 0."""
    config = GPT2Config(vocab_size=150, n_layer=2, n_head=2, n_embd=8, initializer_range=0.5)
    model, pairs = random_model(config), random_pairs("ioi", Shape(6, 3), 2, 150)
    plain, fixed, dropped, both = (
        attribution_patching(model, pairs, repairs=of)
        for of in ((), ("qk-fix",), ("grad-drop",), BOTH)
    )
    for kind in KINDS:
        assert (plain.of(kind) - fixed.of(kind)).abs().max() > 1e-3
        torch.testing.assert_close(both.of(kind), dropped.of(kind), rtol=1e-4, atol=1e-5)


def test_grad_drop_needs_another_layer():
    model, pairs = linear_norms(1), random_pairs("ioi", Shape(6, 5), 2, 12)
    with pytest.raises(ValueError, match="one layer: GradDrop averages over the other"):
        attribution_patching(model, pairs, repairs=("grad-drop",))


def test_repairs_and_both_ends_are_refused(tiny, pairs):
    with pytest.raises(ValueError, match="use ends='base'"):
        attribution_patching(tiny, pairs, ends="both", repairs=("qk-fix",))


def test_hooks_refuse_repairs(tiny, pairs, monkeypatch):
    monkeypatch.setattr("analysis.sites.forward_of", HookedForward)
    with pytest.raises(ValueError, match="runs through hooks.*repairs=()"):
        attribution_patching(tiny, pairs, repairs=("qk-fix",))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "option", [{"repairs": ("glue",)}, {"repairs": "qk-fix"}, {"ends": "left"}]
)
def test_unknown_options_are_named(tiny, pairs, option):
    ((_, value),) = option.items()
    with pytest.raises(ValueError, match=value[0] if isinstance(value, tuple) else value):
        attribution_patching(tiny, pairs, **option)
