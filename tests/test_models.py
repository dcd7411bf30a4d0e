import shutil

import pytest
import torch
from conftest import save_random_model
from transformers import BertConfig, XLNetConfig

from analysis import load_model, paths
from analysis.models import available_testbeds, fingerprint, load_untrained


def test_a_model_is_ready_for_analysis(testbed):
    assert not testbed.training
    assert testbed.compatibility_mode
    assert {weight.dtype for weight in testbed.parameters()} == {torch.float32}
    assert testbed.to_tokens("a")[0, 0] == testbed.tokenizer.bos_token_id


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
    again = load_model(str(tiny_directory))
    assert fingerprint(again) == fingerprint(tiny)


def test_fingerprints_tell_weights_apart(tiny, tmp_path):
    save_random_model(tmp_path, seed=1)
    assert fingerprint(load_model(tmp_path)) != fingerprint(tiny)


def test_an_untrained_model_has_the_shape_and_the_tokenizer_but_not_the_weights(testbed):
    untrained, again = load_untrained("testbed"), load_untrained("testbed")
    assert untrained.cfg.n_layers == testbed.cfg.n_layers
    assert untrained.to_tokens("Mary").tolist() == testbed.to_tokens("Mary").tolist()
    assert fingerprint(untrained) == fingerprint(again) != fingerprint(testbed)
    assert fingerprint(load_untrained("testbed", seed=1)) != fingerprint(untrained)
    assert {weight.dtype for weight in untrained.parameters()} == {torch.float32}


def test_the_name_gpt2_small_is_the_hubs_gpt2(monkeypatch, tiny_directory):
    """The real loading path, with the hub's answer replaced by a local checkpoint."""
    from analysis import models

    asked = []

    def boot(source, **arguments):
        asked.append(source)
        return original(str(tiny_directory), **arguments)

    original = models.TransformerBridge.boot_transformers
    monkeypatch.setattr(models, "_check_architecture", lambda name, source: None)
    monkeypatch.setattr(models.TransformerBridge, "boot_transformers", boot)
    assert load_model("gpt2-small").cfg.n_layers == 3
    assert asked == ["gpt2"]


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "gpt2-small"])
def test_what_cannot_be_reached_names_what_can(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{name}.*'testbed'.*offline"):
        load_model(name)


@pytest.mark.parametrize("config", [BertConfig, XLNetConfig])
def test_other_architectures_are_named(tmp_path, config):
    """One that does not read from left to right, and one that the bridge doesn't run."""
    architecture = {BertConfig: "BertForMaskedLM", XLNetConfig: "XLNetLMHeadModel"}[config]
    config(architectures=[architecture]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{architecture}.*Llama"):
        load_model(tmp_path)


def test_a_directory_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        load_model(tmp_path)


def test_a_broken_checkpoint_is_an_error(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no model"):
        load_model(tmp_path / "broken")


def test_an_unavailable_device_is_an_error():
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ValueError, match=f"{missing}.*'cpu'"):
        load_model("testbed", device=missing)
    with pytest.raises(ValueError, match="abacus"):
        load_model("testbed", device="abacus")
