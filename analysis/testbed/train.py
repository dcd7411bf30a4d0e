"""Trains the testbed: a small GPT-2 on generated text; a seed gives the same model again.

A step's text, its dropout and so its gradient depend on the seed and the step's number alone, so
a run that was interrupted goes on from its last checkpoint to the same weights.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm
from transformers import GPT2Config
from transformers import GPT2LMHeadModel as Model
from transformers import PreTrainedTokenizerFast as Tokenizer

from analysis.testbed.corpus import sentence, train_tokenizer

# Sentences as tokens, padded with -1 to the longest; the axes differ from batch to batch.
Batch: TypeAlias = Int[Tensor, "_ _"]


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the weights.

    Dropping whole heads spreads each task over several, like GPT-2's backup heads. It sets in when
    the tasks are learnt, since it keeps IOI, which needs heads to work together, from being found.
    """

    layers: int = 4
    width: int = 192
    heads: int = 8
    positions: int = 128
    vocabulary: int = 3328
    tokenizer_sentences: int = 60_000
    steps: int = 2400
    sentences: int = 128
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    head_dropout: float = 0.15
    head_dropout_from: int = 1500
    checkpoint_every: int = 100


def train(directory: Path, seed: int, recipe: Recipe = Recipe(), progress: bool = True) -> Path:
    """Trains the testbed and saves a checkpoint like the hub's, in float16; returns `directory`.

    An interrupted run goes on from `<directory>.partial`, unless that has another recipe or seed.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    facts = {"seed": seed, "recipe": asdict(recipe)}
    tokenizer = train_tokenizer(recipe.tokenizer_sentences, recipe.vocabulary)
    model = _new_model(recipe, seed, tokenizer)
    optimizer = _optimizer(model, recipe)
    losses = _resume(model, optimizer, facts, partial)
    done = len(losses)
    steps = range(done, recipe.steps)
    bar = tqdm(steps, directory.name, recipe.steps, initial=done, disable=not progress)
    for step in bar:
        if step == max(done, recipe.head_dropout_from):
            _drop_heads(model, recipe.head_dropout)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        batches = _batches(tokenizer, recipe, seed, step)
        losses.append(_step(model, optimizer, batches, seed, step))
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if (step + 1) % recipe.checkpoint_every == 0:
            _checkpoint(model, optimizer, facts, losses, partial)
    last = losses[-100:]
    _save(model, tokenizer, facts | {"loss": sum(last) / len(last)}, directory, partial)
    return directory


def _new_model(recipe: Recipe, seed: int, tokenizer: Tokenizer) -> Model:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        bos_token_id=cast(int, tokenizer.bos_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
    )
    return Model(config).train()


def _drop_heads(model: Model, rate: float) -> None:
    """From now on drops whole heads, whose outputs are what an attention's projection reads."""
    heads = model.config.n_head

    def drop(projection: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        outputs = inputs[0].unflatten(-1, (heads, -1))
        kept = nn.functional.dropout(outputs.new_ones(len(outputs), 1, heads, 1), rate)
        return ((outputs * kept).flatten(-2),)

    for name, module in model.named_modules():
        if name.endswith("attn.c_proj"):
            module.register_forward_pre_hook(drop)


def _optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW; biases, LayerNorm and embeddings are not decayed."""
    matrices, others = [], []
    for name, weight in model.named_parameters():
        decayed = weight.ndim == 2 and "wte" not in name and "wpe" not in name
        (matrices if decayed else others).append(weight)
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then linearly down to nothing."""
    rising = (step + 1) / recipe.warmup
    falling = (recipe.steps - step) / (recipe.steps - recipe.warmup)
    return recipe.learning_rate * min(rising, falling)


def _batches(tokenizer: Tokenizer, recipe: Recipe, seed: int, step: int) -> list[Batch]:
    """A step's sentences in two halves by length, each padded with -1 to its longest."""
    random = Random(f"{seed}/{step}")
    texts = [sentence(random) for _ in range(recipe.sentences)]
    end = tokenizer.eos_token_id
    tokens = [torch.tensor([end, *ids, end]) for ids in tokenizer(texts)["input_ids"]]
    tokens.sort(key=len)
    halves = tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]
    return [nn.utils.rnn.pad_sequence(half, True, padding_value=-1) for half in halves]


def _step(model: Model, optimizer: AdamW, batches: list[Batch], seed: int, step: int) -> float:
    """One update; returns the mean loss per token, in nats."""
    torch.manual_seed(1_000_003 * seed + step)
    count = sum(int((tokens[:, 1:] >= 0).sum()) for tokens in batches)
    total = 0.0
    for tokens in batches:
        loss = _summed_loss(model, tokens) / count
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _summed_loss(model: Model, tokens: Batch) -> Float[Tensor, ""]:
    """Cross-entropy summed over real tokens; padding comes after them, out of causal reach."""
    targets = tokens[:, 1:]
    hidden = model.transformer(tokens[:, :-1].clamp(min=0)).last_hidden_state
    real = targets >= 0
    return nn.functional.cross_entropy(model.lm_head(hidden[real]), targets[real], reduction="sum")


def _checkpoint(model: Model, optimizer: AdamW, facts: dict, losses: list, partial: Path) -> None:
    """Writes what a run goes on from in one file, whole or not at all."""
    partial.mkdir(parents=True, exist_ok=True)
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"facts": facts, "losses": losses, **states}, partial / "writing.pt")
    (partial / "writing.pt").rename(partial / "checkpoint.pt")


def _resume(model: Model, optimizer: AdamW, facts: dict, partial: Path) -> list[float]:
    """Goes on from the last checkpoint, if there is one; returns the losses of the steps done."""
    path = partial / "checkpoint.pt"
    if not path.exists():
        return []
    kept = torch.load(path, weights_only=True)
    if kept["facts"] != facts:
        raise ValueError(f"{path} has another recipe or seed: delete {partial} to start over.")
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return kept["losses"]


def _save(model: Model, tokenizer: Tokenizer, facts: dict, directory: Path, partial: Path) -> None:
    """Writes the finished checkpoint beside the partial one, then puts it in its place."""
    finished = partial / "finished"
    model.half().save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    (finished / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    finished.rename(directory)
    shutil.rmtree(partial)
