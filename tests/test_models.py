"""Loading: a name leads to one model, which is what transformers loads, or to one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from conftest import save_random_model, saved
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    OPTConfig,
    XLNetConfig,
)

from analysis import load_model, paths
from analysis.models import (
    available_testbeds,
    fingerprint,
    largest_difference,
    load_untrained,
    log_probabilities,
    random_prompts,
)


@pytest.fixture
def copied(tiny_directory, tmp_path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return shutil.copytree(tiny_directory, tmp_path / "copied")


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Edits a JSON file in its place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def change_weights(directory: Path, edit: Callable[[dict], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def test_a_model_is_ready_for_analysis(testbed):
    assert not testbed.training
    assert testbed.compatibility_mode
    assert {weight.dtype for weight in testbed.parameters()} == {torch.float32}
    assert testbed.to_tokens("a")[0, 0] == testbed.tokenizer.bos_token_id
    assert testbed.cfg.model_name == "testbed"


def test_the_testbeds_tokenizer_reads_as_the_design_says(testbed):
    def read(text):
        return testbed.to_str_tokens(text, prepend_bos=False)

    assert read(" 1741") == [" 17", "41"]
    assert read(" Mary") == [" Mary"]
    anything = "Ünknown wörds, 日本 and \n\t too"
    assert testbed.tokenizer.decode(testbed.to_tokens(anything)[0, 1:]) == anything


def test_testbeds_are_small_half_precision_files():
    from safetensors import safe_open

    assert available_testbeds() == ["testbed", "testbed-2", "testbed-3"]
    for name in available_testbeds():
        path = paths.MODELS / name / "model.safetensors"
        assert path.stat().st_size <= 8e6
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(key).dtype for key in list(file.keys())} == {torch.float16}


def test_a_directory_loads_by_name_or_path(tiny, tiny_directory):
    assert fingerprint(load_model(str(tiny_directory))) == fingerprint(tiny)


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2", "pythia-70m", "testbed", "./gpt2", "a b"])
def test_a_directory_is_that_directory_whatever_its_name(
    tiny, tiny_directory, tmp_path, monkeypatch, name
):
    """Also where a testbed, the hub or one of TransformerLens's aliases has its name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_directory, tmp_path / name)
    shutil.copytree(paths.MODELS / "testbed-3", tmp_path / "EleutherAI" / "pythia-70m")
    if name != "gpt2":
        shutil.copytree(
            paths.MODELS / "testbed-3", tmp_path / "gpt2", dirs_exist_ok=name == "./gpt2"
        )
    expected = "testbed-3" if name == "./gpt2" else tiny_directory
    assert fingerprint(load_model(name)) == fingerprint(load_model(expected))


def test_a_fingerprint_is_of_the_weights_and_of_the_whole_configuration(tiny, tmp_path):
    """Each of these gives other numbers from the same or from other weights."""
    settings = [
        {"seed": 1},
        {"seed": 0, "scale_attn_by_inverse_layer_idx": True},
        {"seed": 0, "activation_function": "relu"},
        {"seed": 0, "layer_norm_epsilon": 1e-3},
        {"seed": 0, "n_head": 2},
    ]
    found = {fingerprint(tiny)}
    for number, setting in enumerate(settings):
        save_random_model(tmp_path / str(number), **setting)
        found.add(fingerprint(load_model(tmp_path / str(number))))
    assert len(found) == len(settings) + 1


@pytest.mark.parametrize(
    "part", ["attn.b_Q", "attn.b_O", "mlp.b_in", "mlp.W_out", "ln1.w", "ln2.b"]
)
def test_a_fingerprint_is_of_every_weight(tiny_raw, part):
    before = fingerprint(tiny_raw)
    weight = dict(tiny_raw.tl_named_parameters())[f"blocks.1.{part}"]
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] += 1
        assert fingerprint(tiny_raw) != before
        weight.copy_(kept)
    assert fingerprint(tiny_raw) == before


def test_a_fingerprint_does_not_depend_on_how_the_bridge_rounds(tiny_directory, monkeypatch):
    """Its processed weights have other last bits on another machine."""
    from transformer_lens.model_bridge import TransformerBridge

    expected = fingerprint(load_model(tiny_directory))
    process = TransformerBridge.enable_compatibility_mode

    def rounded(model, **settings):
        process(model, **settings)
        with torch.no_grad():
            model.blocks[1].mlp.out.original_component.bias[0] *= 1 + 1e-6

    monkeypatch.setattr(TransformerBridge, "enable_compatibility_mode", rounded)
    other = load_model(tiny_directory)
    assert fingerprint(other) == expected
    with torch.no_grad():
        other.blocks[1].mlp.out.original_component.bias[0] *= 1 + 1e-6
    assert fingerprint(other) != expected, "a weight that was changed after loading counts"


def test_an_untrained_model_has_the_shape_and_the_tokenizer_but_not_the_weights(testbed):
    untrained, again = load_untrained("testbed"), load_untrained("testbed")
    assert untrained.cfg.n_layers == testbed.cfg.n_layers
    assert untrained.to_tokens("Mary").tolist() == testbed.to_tokens("Mary").tolist()
    assert fingerprint(untrained) == fingerprint(again) != fingerprint(testbed)
    assert fingerprint(load_untrained("testbed", seed=1)) != fingerprint(untrained)
    assert {weight.dtype for weight in untrained.parameters()} == {torch.float32}


def test_the_name_gpt2_small_is_the_hubs_gpt2(monkeypatch, tiny, tiny_directory, tmp_path):
    """The real loading code, with a hub's cache that holds another model under that id."""
    snapshot = tmp_path / "models--gpt2" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_directory, snapshot)
    (tmp_path / "models--gpt2" / "refs").mkdir()
    (tmp_path / "models--gpt2" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load_model("gpt2-small")
    assert fingerprint(loaded) == fingerprint(tiny)
    assert loaded.cfg.model_name == "gpt2-small"


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "gpt2-small", "../no"])
def test_what_cannot_be_reached_names_what_can(name, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{name}.*not found.*'testbed'.*offline"):
        load_model(name)


@pytest.mark.parametrize("config", [BertConfig, XLNetConfig])
def test_other_architectures_are_named(tmp_path, config):
    """One that does not read from left to right, and one that the bridge doesn't run."""
    architecture = {BertConfig: "BertForMaskedLM", XLNetConfig: "XLNetLMHeadModel"}[config]
    config(architectures=[architecture]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{architecture}.*Llama"):
        load_model(tmp_path)


def delete(*names: str) -> Callable[[Path], None]:
    return lambda directory: [(directory / name).unlink() for name in names]


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(content)


def edited(edit: Callable[[dict], object], name: str = "config.json") -> Callable[[Path], None]:
    return lambda directory: change(directory / name, edit)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
WEIGHT = "transformer.h.1.mlp.c_fc.weight"
SPOILT = {
    "an empty directory": (delete("config.json", "model.safetensors"), "no model"),
    "a broken config.json": (write("config.json", b"{"), "no model.*broken"),
    "an unknown kind": (edited(lambda c: c.update(model_type="new")), "no model.*new"),
    "an adapter": (
        lambda directory: (directory / "config.json").rename(directory / "adapter_config.json"),
        "adapter.*merge",
    ),
    "a pointer for weights": (write("model.safetensors", POINTER), "LFS pointer.*git lfs pull"),
    "a pointer for the tokenizer": (write("tokenizer.json", POINTER), "tokenizer.json.*pointer"),
    "no weights": (delete("model.safetensors"), "weights.*cannot be read"),
    "damaged weights": (write("model.safetensors", b"damaged"), "weights.*cannot be read"),
    "no tokenizer": (delete(*TOKENIZER), "no tokenizer"),
    "a weight too few": (
        lambda directory: change_weights(directory, lambda weights: weights.pop(WEIGHT)),
        f"lacks {WEIGHT}\\.",
    ),
    "a weight too many": (
        lambda directory: change_weights(directory, lambda w: w.update(odd=torch.ones(2))),
        "unknown odd",
    ),
    "other names": (
        lambda directory: change_weights(
            directory, lambda w: [w.update({f"module.{name}": w.pop(name)}) for name in list(w)]
        ),
        "lacks .* and .* more and has unknown module",
    ),
    "a layer too few": (edited(lambda c: c.update(n_layer=2)), "unknown .*h.2"),
    "a layer too many": (edited(lambda c: c.update(n_layer=4)), "lacks .*h.3"),
    "another width": (edited(lambda c: c.update(n_embd=16)), "cannot be read|another shape"),
    "a head of its own": (edited(lambda c: c.update(tie_word_embeddings=False)), "lacks lm_head"),
    "a weight that is no number": (
        lambda directory: change_weights(
            directory, lambda weights: weights[WEIGHT].fill_(torch.nan)
        ),
        f"NaN or infinite in {WEIGHT}",
    ),
    "unscaled attention": (
        edited(lambda c: c.update(scale_attn_weights=False)),
        "computes something else than transformers.*GPT2LMHeadModel",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_checkpoint_that_is_not_whole_and_sound_is_one_sentence(copied, fault):
    spoil, expected = SPOILT[fault]
    spoil(copied)
    with pytest.raises(ValueError, match=expected) as raised:
        load_model(copied)
    assert str(copied) in str(raised.value) and "\n" not in str(raised.value)


def test_buffers_that_older_versions_saved_are_no_unknown_weights(copied, tiny):
    mask = torch.ones(1, 1, 40, 40).tril().bool()
    change_weights(copied, lambda weights: weights.update({"transformer.h.0.attn.bias": mask}))
    assert fingerprint(load_model(copied)) == fingerprint(tiny)


def test_what_the_bridge_does_not_run_is_one_sentence(tmp_path):
    """Its own errors are of many types; `tests/architectures.py` has more of them."""
    after = OPTConfig(
        vocab_size=3328,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=24,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    )
    with pytest.raises(ValueError, match="bridge.*OPTForCausalLM") as raised:
        load_model(saved(after, tmp_path))
    assert "\n" not in str(raised.value)


def test_the_bridge_is_compared_with_what_transformers_computes(tiny_directory, monkeypatch):
    """A bridge whose processing of weights went wrong is not returned."""
    from transformer_lens.model_bridge import TransformerBridge

    process = TransformerBridge.enable_compatibility_mode

    def spoil(model, **settings):
        process(model, **settings)
        with torch.no_grad():
            model.blocks[1].mlp.out.original_component.bias[0] += 0.1

    monkeypatch.setattr(TransformerBridge, "enable_compatibility_mode", spoil)
    with pytest.raises(ValueError, match="computes something else than transformers"):
        load_model(tiny_directory)


def test_what_is_loaded_is_close_to_transformers_itself(testbed):
    """Far closer than what is tolerated."""
    from transformers import AutoModelForCausalLM

    directory = str(paths.MODELS / "testbed")
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompts = random_prompts(testbed.cfg.d_vocab, testbed.cfg.n_ctx)
    expected = log_probabilities(network.eval(), prompts)
    assert largest_difference(log_probabilities(testbed, prompts), expected) < 1e-6


def test_an_unavailable_device_is_an_error():
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ValueError, match=f"{missing}.*'cpu'"):
        load_model("testbed", device=missing)
    for device in ("abacus", "cpu:x", "cpu:1", ""):
        with pytest.raises(ValueError, match=f"Device '{device}' is not available here: use 'cpu'"):
            load_model("testbed", device=device)


def test_a_models_state_does_not_depend_on_the_callers(tiny, tiny_directory):
    """Under another default type, in inference mode, on a device that is an object."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            model = load_model(tiny_directory, device=torch.device("cpu"))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.is_inference() for weight in model.parameters())
    assert fingerprint(model) == fingerprint(tiny)
