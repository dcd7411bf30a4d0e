import json
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from analysis import load_model
from analysis.tasks import TASKS, gender_bias, load_task
from analysis.tasks.split import is_held_out
from analysis.training import corpus
from analysis.training import train as training
from analysis.training.corpus import sentence
from analysis.training.train import Recipe, train

TINY = Recipe(
    layers=1,
    width=16,
    heads=2,
    vocabulary=400,
    tokenizer_sentences=200,
    steps=4,
    sentences=4,
    warmup=1,
    checkpoint_every=2,
)


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("models") / "whole", 0, TINY, progress=False)


def test_a_seed_decides_the_weights(whole, tmp_path):
    same(weights(whole), weights(train(tmp_path / "again", 0, TINY, progress=False)))
    other = weights(train(tmp_path / "other", 1, TINY, progress=False))
    assert any(not torch.equal(other[name], weights(whole)[name]) for name in other)


@pytest.mark.parametrize("interrupted_at", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    whole, tmp_path, monkeypatch, interrupted_at
):
    original = training._step

    def step(model, optimizer, batches, seed, number):
        if number == interrupted_at:
            raise KeyboardInterrupt
        return original(model, optimizer, batches, seed, number)

    monkeypatch.setattr(training, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "model", 0, TINY, progress=False)
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(training, "_step", original)
    same(weights(whole), weights(train(tmp_path / "model", 0, TINY, progress=False)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_partial_run_of_another_seed_is_not_taken_over(tmp_path, monkeypatch):
    original = training._save
    monkeypatch.setattr(training, "_save", lambda *_: None)
    train(tmp_path / "model", 0, TINY, progress=False)
    monkeypatch.setattr(training, "_save", original)
    with pytest.raises(ValueError, match=r"another recipe or seed: delete .*model\.partial"):
        train(tmp_path / "model", 1, TINY, progress=False)


def test_what_is_saved_loads_like_any_checkpoint(whole):
    model = load_model(whole)
    assert model.cfg.n_layers == 1
    assert {weight.dtype for weight in weights(whole).values()} == {torch.float16}
    assert json.loads((whole / "training.json").read_text())["seed"] == 0


def test_the_loss_is_the_mean_over_real_tokens(whole):
    """Padding to a batch's longest sentence changes nothing."""
    tokenizer = training._tokenizer(TINY)
    model = training._new_model(TINY, 0, tokenizer).eval()
    halves = training._batches(tokenizer, TINY, 0, 0)
    together = sum(training._summed_loss(model, tokens) for tokens in halves)
    alone = sum(
        training._summed_loss(model, row[row >= 0][None]) for tokens in halves for row in tokens
    )
    torch.testing.assert_close(together, alone)


def test_the_corpus_is_decided_by_its_seed_and_keeps_to_the_training_split(testbed):
    random, again = Random(3), Random(3)
    sentences = [sentence(random) for _ in range(4000)]
    assert sentences == [sentence(again) for _ in range(4000)]
    for task in TASKS:
        held_out = load_task(task, testbed, n=100).clean
        assert not [line for line in sentences for prompt in held_out if prompt in line]
    for line in sentences:
        if line.startswith("The ") and " lasted from the year " in line:
            year = line.split(" year ")[1][:4]
            assert year.endswith("01") or not is_held_out("greater-than", year)


def test_most_task_sentences_end_as_the_task_has_it_and_some_do_not():
    random = Random(0)
    lines = [corpus._gender_bias(random) for _ in range(3000)]
    stereotyped = gender_bias.stereotypes()
    ended = [(stereotyped.get(line.split()[1]), line.split()) for line in lines]
    right = [pronoun in words for pronoun, words in ended if pronoun]
    assert 0.88 < sum(right) / len(right) < 0.92
