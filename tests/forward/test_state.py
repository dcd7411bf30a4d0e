"""A model's numbers are the model's, whatever state its user keeps it in."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import saved
from transformers import LlamaConfig

from analysis import Scores, activation_patching, integrated_gradients, load_model, load_task
from analysis.ablation import activation_differences, multi_ablated_performance
from analysis.mediation import component_effects, mediate
from analysis.models import fingerprint
from analysis.studies import store

LINK = (("heads", 0, 1), ("heads", 1, 2))
COMPUTE = {
    "AP": lambda model, pairs: activation_patching(model, pairs, kinds=("heads",)).heads,
    "IG": lambda model, pairs: integrated_gradients(model, pairs, steps=3).neurons,
    "ablation": lambda model, pairs: multi_ablated_performance(
        model, pairs, np.ones((1, model.cfg.n_layers, 4), dtype=bool), "heads"
    ),
    "differences": lambda model, pairs: torch.from_numpy(
        activation_differences(model, pairs, "heads")
    ),
    "effects": lambda model, pairs: component_effects(model, pairs, "heads", ("heads",))[
        "heads"
    ].nan_to_num(),
    "mediation": lambda model, pairs: mediate(model, pairs, [LINK]),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model of the hook engine, with dropout."""
    config = LlamaConfig(
        vocab_size=3328,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        attention_dropout=0.5,
        initializer_range=0.3,
    )
    return load_model(saved(config, tmp_path_factory.mktemp("llama")))


@pytest.fixture(params=["tiny", "llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def pairs(model):
    return load_task("gender-bias", model, n=3)


pytestmark = pytest.mark.filterwarnings("ignore:No exact engine")


def doubled(*arguments):
    """A hook, of TransformerLens or of PyTorch, that changes what it is given."""
    return arguments[0] * 2 if isinstance(arguments[0], torch.Tensor) else None


HOOKS = {
    "a hook point's": lambda model: model.add_hook("blocks.1.attn.hook_z", doubled),
    "a permanent one": lambda model: model.blocks[1].mlp.hook_post.add_hook(
        doubled, is_permanent=True
    ),
    "a backward one": lambda model: model.add_hook("blocks.1.hook_mlp_out", doubled, dir="bwd"),
    "a block's": lambda model: model.blocks[0].register_forward_hook(doubled),
    "a module's": lambda model: model.blocks[0].attn.register_forward_pre_hook(doubled),
    "the model's": lambda model: model.original_model.register_forward_hook(doubled),
    "every module's": lambda model: torch.nn.modules.module.register_module_forward_hook(doubled),
}


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_the_users_are_refused_by_both_engines(model, pairs, compute, hook):
    handle = HOOKS[hook](model)
    try:
        with pytest.raises(ValueError, match="hooks of your own"):
            COMPUTE[compute](model, pairs)
    finally:
        getattr(handle, "remove", bool)()  # TransformerLens's go by a reset
        model.reset_hooks(including_permanent=True)
    COMPUTE[compute](model, pairs)


def test_kept_scores_are_not_served_to_a_model_with_hooks(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.paths.RESULTS", tmp_path)
    pairs = load_task("ioi", tiny, n=1)
    store.scores(activation_patching, tiny, pairs)
    tiny.add_hook("blocks.1.attn.hook_z", doubled)
    try:
        with pytest.raises(ValueError, match="hooks of your own"):
            store.scores(activation_patching, tiny, pairs)
    finally:
        tiny.reset_hooks()


@pytest.mark.parametrize("compute", COMPUTE)
def test_dropout_is_off_and_comes_back(model, pairs, compute):
    expected = COMPUTE[compute](model, pairs)
    model.train()
    model.blocks[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        assert torch.equal(COMPUTE[compute](model, pairs), expected)
        assert {name: module.training for name, module in model.named_modules()} == modes
    finally:
        model.eval()


def in_inference_mode(compute):
    with torch.inference_mode():
        return compute()


def with_float64(compute):
    torch.set_default_dtype(torch.float64)
    try:
        return compute()
    finally:
        torch.set_default_dtype(torch.float32)


def without_gradients(compute):
    with torch.no_grad():
        return compute()


def in_autocast(compute):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return compute()


def on_another_default_device(compute):
    with torch.device("meta"):
        return compute()


@pytest.mark.parametrize(
    "under",
    [in_inference_mode, with_float64, without_gradients, in_autocast, on_another_default_device],
)
@pytest.mark.parametrize("compute", COMPUTE)
def test_pytorchs_modes_and_defaults_change_nothing(model, compute, under):
    """Of the prompts too, which may be made under them."""
    expected = COMPUTE[compute](model, load_task("gender-bias", model, n=3))
    found = under(lambda: COMPUTE[compute](model, load_task("gender-bias", model, n=3)))
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_weights_made_in_inference_mode_are_one_sentence(tiny_directory):
    from transformer_lens.model_bridge import TransformerBridge

    with torch.inference_mode():
        model = TransformerBridge.boot_transformers(str(tiny_directory), device="cpu")
        model.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="inference_mode.*load the model outside"):
        activation_patching(model, load_task("ioi", model, n=1))


def test_a_model_whose_code_was_replaced_is_refused_by_the_engine_that_reads_weights(
    tiny_directory,
):
    model = load_model(tiny_directory)
    pairs = load_task("ioi", model, n=1)
    model.blocks[1].mlp.original_component.act = torch.nn.Tanh()
    with pytest.raises(ValueError, match="something else than its weights say"):
        activation_patching(model, pairs)


def test_weights_changed_after_loading_are_the_models(tiny_directory):
    """By both engines and in the fingerprint."""
    model = load_model(tiny_directory)
    pairs = load_task("ioi", model, n=1)
    before, first = fingerprint(model), activation_patching(model, pairs)
    with torch.no_grad():
        model.blocks[1].mlp.out.original_component.bias[0] += 1
    assert fingerprint(model) != before
    assert not torch.equal(activation_patching(model, pairs).base, first.base)


def same(one: Scores, other: Scores) -> bool:
    return torch.equal(one.heads, other.heads) and torch.equal(one.base, other.base)


def test_threads_take_turns_with_a_models_hooks(llama, tiny):
    """Two models and two methods from four threads."""
    tasks = [
        (method, model, load_task("gender-bias", model, n=2, seed=seed))
        for seed in range(2)
        for model in (llama, tiny)
        for method in (activation_patching, integrated_gradients)
    ]

    def compute(task) -> Scores:
        method, model, pairs = task
        return method(model, pairs, kinds=("heads",))

    expected = [compute(task) for task in tasks]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(compute, tasks * 2))
    assert all(same(one, other) for one, other in zip(found, expected * 2, strict=True))
