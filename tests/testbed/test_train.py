import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from analysis import load_model
from analysis.tasks.greater_than import YEARS
from analysis.testbed import train as training
from analysis.testbed.corpus import train_tokenizer
from analysis.testbed.train import Recipe, train

TINY = Recipe(
    layers=1,
    width=16,
    heads=2,
    vocabulary=400,
    tokenizer_sentences=200,
    steps=4,
    sentences=4,
    warmup=1,
    head_dropout=0.5,
    head_dropout_from=1,
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


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TINY.tokenizer_sentences, TINY.vocabulary)


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
    torch.manual_seed(7)
    again = train(tmp_path / "model", 0, TINY, progress=False)
    same(weights(whole), weights(again))
    assert (again / "training.json").read_text() == (whole / "training.json").read_text()
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


def test_the_loss_is_the_mean_over_real_tokens(tokenizer):
    """Padding to a batch's longest sentence changes nothing."""
    model = training._new_model(TINY, 0, tokenizer).eval()
    halves = training._batches(tokenizer, TINY, 0, 0)
    together = sum(training._summed_loss(model, tokens) for tokens in halves)
    alone = sum(
        training._summed_loss(model, row[row >= 0][None]) for tokens in halves for row in tokens
    )
    torch.testing.assert_close(together, alone)
    tokens = sum((half[:, 1:] >= 0).sum().item() for half in halves)
    found = training._step(model, training._optimizer(model, TINY), halves, 0, 0)
    assert found == pytest.approx(together.item() / tokens)


def test_the_learning_rate_rises_then_falls_to_nothing():
    recipe = replace(TINY, learning_rate=6.0, warmup=3, steps=9)
    rates = [training._learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates == pytest.approx([2, 4, 6, 6, 5, 4, 3, 2, 1])


def test_matrices_alone_are_decayed(tokenizer):
    """Embeddings are matrices too, but say how often a word occurs."""
    model = training._new_model(TINY, 0, tokenizer)
    optimizer = training._optimizer(model, replace(TINY, weight_decay=0.3))
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {id(weight): name for name, weight in model.named_parameters()}
    decay = {
        names[id(weight)]: group["weight_decay"]
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    block = "transformer.h.0."
    decayed = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert decay.keys() == set(names.values())
    assert {name for name, value in decay.items() if value} == {
        f"{block}{name}.weight" for name in decayed
    }
    assert set(decay.values()) == {0.3, 0.0}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.98)}


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_dropout_takes_whole_heads_of_single_sentences(tokenizer, rate):
    """What an attention's projection reads: all of a head's positions and dimensions, or none."""
    model = training._new_model(replace(TINY, heads=4, layers=2), 0, tokenizer)
    projections = [block.attn.c_proj for block in model.transformer.h]
    before, after = ([], [])
    for projection in projections:
        projection.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    training._drop_heads(model, rate)
    for projection in projections:
        projection.register_forward_pre_hook(lambda _, inputs: after.append(inputs[0]))
    model(torch.randint(400, (64, 5), generator=torch.manual_seed(0)))
    for whole, dropped in zip(before, after, strict=True):
        ratio = (dropped / whole).unflatten(-1, (4, -1))
        by_head = ratio[:, :1, :, :1]
        torch.testing.assert_close(ratio, by_head.expand_as(ratio))
        lost = by_head == 0
        torch.testing.assert_close(by_head[~lost], torch.full_like(by_head[~lost], 1 / (1 - rate)))
        assert lost.float().mean() == pytest.approx(rate, abs=0.11)
        apart = lost.float().std(dim=0).min() > 0 and lost.float().std(dim=2).max() > 0
        assert apart == bool(rate), "sentences and heads are drawn apart"
    assert not any(isinstance(module, nn.Dropout) and module.p for module in model.modules())


@pytest.mark.parametrize("start", [0, 2])
def test_dropout_sets_in_once_at_its_step(tmp_path, monkeypatch, start):
    happened = []
    monkeypatch.setattr(training, "_drop_heads", lambda model, rate: happened.append(rate))
    monkeypatch.setattr(training, "_step", lambda *_: happened.append("step") or 0.0)
    recipe = replace(TINY, head_dropout=0.4, head_dropout_from=start)
    train(tmp_path / "model", 0, recipe, progress=False)
    assert happened == ["step"] * start + [0.4] + ["step"] * (4 - start)


def test_each_step_draws_its_text_and_its_dropout_anew(tokenizer, monkeypatch):
    """Another seed or step, other sentences and another state of the generator; none is kept."""
    texts = {
        (seed, step): torch.cat(
            [half.flatten() for half in training._batches(tokenizer, TINY, seed, step)]
        )
        for seed, step in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    assert len({tuple(text.tolist()) for text in texts.values()}) == 4
    model = training._new_model(TINY, 0, tokenizer)
    optimizer = training._optimizer(model, TINY)
    summed, seeds = training._summed_loss, []
    monkeypatch.setattr(
        training,
        "_summed_loss",
        lambda *given: seeds.append(torch.initial_seed()) or summed(*given),
    )
    for seed, step in texts:
        training._step(model, optimizer, training._batches(tokenizer, TINY, seed, step), seed, step)
    assert len(seeds) == 8 and len(set(seeds)) == 4


def test_a_sentence_lies_between_ends_of_text(tokenizer):
    halves = training._batches(tokenizer, replace(TINY, sentences=10), 0, 0)
    end = tokenizer.eos_token_id
    lengths = []
    for half in halves:
        assert len(half) == 5
        for row in half:
            tokens = row[row >= 0].tolist()
            assert tokens[0] == tokens[-1] == end and end not in tokens[1:-1]
            assert (row[len(tokens) :] == -1).all(), "padding comes last"
            lengths.append(len(tokens))
        assert half.shape[1] == lengths[-1]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("size", [1, 100])
def test_gradients_are_clipped_and_forgotten(tokenizer, monkeypatch, size):
    model = training._new_model(TINY, 0, tokenizer)
    model.lm_head.weight.data *= size
    optimizer = training._optimizer(model, TINY)
    norms = []

    def step():
        gradients = [weight.grad.flatten() for weight in model.parameters()]
        norms.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(optimizer, "step", step)
    batches = training._batches(tokenizer, TINY, 0, 0)
    training._step(model, optimizer, batches, 0, 0)
    assert norms[0] == pytest.approx(1, abs=1e-4) if size == 100 else 0.1 < norms[0] < 0.9
    assert all(weight.grad is None for weight in model.parameters())


def test_a_new_models_weights_depend_on_the_seed_alone(tokenizer):
    first, again, other = (
        training._new_model(TINY, seed, tokenizer).state_dict() for seed in (0, 0, 1)
    )
    same(first, again)
    assert not torch.equal(*(side["transformer.wte.weight"] for side in (first, other)))


def test_the_loss_of_the_record_is_that_of_the_last_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_step", lambda *given: float(given[-1]))
    train(tmp_path / "model", 0, replace(TINY, steps=150), progress=False)
    assert json.loads((tmp_path / "model" / "training.json").read_text())["loss"] == 99.5


def test_a_years_last_two_digits_are_one_token():
    tokenizer = train_tokenizer(TINY.tokenizer_sentences, vocabulary=600)
    assert len(tokenizer) == 600
    for year in YEARS:
        assert len(tokenizer.tokenize(f" 17{year}")) == 2
