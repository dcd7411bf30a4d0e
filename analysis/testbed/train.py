"""Trains the testbed: a small GPT-2 on generated text, the same for the same seed.

A step's text, its dropout and so its gradient depend on the seed and the step's number alone, so
a run that was interrupted goes on from its last checkpoint to the same weights.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from random import Random
from typing import TypeAlias, cast

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from analysis.tasks.greater_than import YEARS
from analysis.testbed.corpus import sentence
from analysis.testbed.tokenizer import train_tokenizer

# Sentences as tokens, padded with -1 to the longest; the axes differ from batch to batch.
Batch: TypeAlias = Int[Tensor, "_ _"]


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the weights.

    Of the usual dropouts only whole heads are dropped: it spreads each task over several heads,
    like the backup heads of GPT-2. It sets in at a step by which the tasks are learnt, because it
    keeps IOI, which needs heads to work together, from being found.
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


@dataclass
class _Run:
    """A model in training; `losses` has one for each step that is done."""

    recipe: Recipe
    seed: int
    tokenizer: PreTrainedTokenizerFast
    model: GPT2LMHeadModel
    optimizer: torch.optim.AdamW
    losses: list[float]

    @property
    def identity(self) -> str:
        """What decides the weights."""
        return json.dumps(asdict(self.recipe) | {"seed": self.seed}, sort_keys=True)


def train(directory: Path, seed: int, recipe: Recipe = Recipe(), progress: bool = True) -> Path:
    """Trains the testbed with this seed and saves a checkpoint like the hub's in `directory`.

    Weights are float16 on disk. Returns `directory`; while it trains, checkpoints lie beside it in
    `<directory>.partial`, from which an interrupted run goes on.

    Raises:
        ValueError: where a partial run of another recipe or seed is in the way.
    """
    partial, tokenizer = directory.with_name(directory.name + ".partial"), _tokenizer(recipe)
    model = _new_model(recipe, seed, tokenizer)
    run = _Run(recipe, seed, tokenizer, model, _optimizer(model, recipe), losses=[])
    _resume(run, partial)
    set_rate = _drop_heads(model)
    done = len(run.losses)
    bar = tqdm(
        range(done, recipe.steps), directory.name, recipe.steps, initial=done, disable=not progress
    )
    for step in bar:
        _set_learning_rate(run.optimizer, step, recipe)
        set_rate(recipe.head_dropout if step >= recipe.head_dropout_from else 0.0)
        batches = _batches(tokenizer, recipe, seed, step)
        run.losses.append(_step(model, run.optimizer, batches, seed, step))
        bar.set_postfix(loss=f"{run.losses[-1]:.3f}")
        if (step + 1) % recipe.checkpoint_every == 0:
            _checkpoint(run, partial)
    _save(run, directory, partial)
    return directory


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The same for every seed, so that all testbeds read the same prompts."""
    random = Random("tokenizer")
    sentences = (sentence(random) for _ in range(recipe.tokenizer_sentences))
    every_year = [f" 17{year}" for year in YEARS] * 20
    return train_tokenizer(chain(sentences, every_year), recipe.vocabulary)


def _new_model(recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=cast(int, tokenizer.bos_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
    )
    return GPT2LMHeadModel(config).train()


def _drop_heads(model: GPT2LMHeadModel) -> Callable[[float], None]:
    """Dropout of whole heads, whose outputs are what an attention's last projection reads.

    Returns what sets its rate.
    """
    rate = 0.0

    def set_rate(value: float) -> None:
        nonlocal rate
        rate = value

    def drop(projection: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        outputs = inputs[0].unflatten(-1, (model.config.n_head, -1))
        kept = nn.functional.dropout(
            outputs.new_ones(len(outputs), 1, model.config.n_head, 1), rate
        )
        return ((outputs * kept).flatten(-2),)

    for name, module in model.named_modules():
        if name.endswith("attn.c_proj"):
            module.register_forward_pre_hook(drop)
    return set_rate


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases, LayerNorm and embeddings are not decayed."""
    matrices = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and "wte" not in name and "wpe" not in name
    ]
    decayed = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in decayed]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, recipe: Recipe) -> None:
    """Linear warm-up, then linearly down to nothing."""
    rising = (step + 1) / recipe.warmup
    falling = (recipe.steps - step) / (recipe.steps - recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * min(rising, falling)


def _batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int, step: int
) -> list[Batch]:
    """A step's sentences in two halves by length, each padded with -1 to its longest."""
    random = Random(f"{seed}/{step}")
    texts = [sentence(random) for _ in range(recipe.sentences)]
    end = tokenizer.eos_token_id
    tokens = [torch.tensor([end, *ids, end]) for ids in tokenizer(texts)["input_ids"]]
    tokens.sort(key=len)
    half = len(tokens) // 2
    return [
        nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=-1)
        for part in (tokens[:half], tokens[half:])
    ]


def _step(
    model: GPT2LMHeadModel,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    seed: int,
    step: int,
) -> float:
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


def _summed_loss(
    model: GPT2LMHeadModel, tokens: Int[Tensor, "sentence position"]
) -> Float[Tensor, ""]:
    """Cross-entropy summed over real tokens; padding comes after them, out of causal reach."""
    targets = tokens[:, 1:]
    hidden = model.transformer(tokens[:, :-1].clamp(min=0)).last_hidden_state
    real = targets >= 0
    return nn.functional.cross_entropy(model.lm_head(hidden[real]), targets[real], reduction="sum")


def _checkpoint(run: _Run, partial: Path) -> None:
    """Writes weights, the optimizer's moments and the losses in one file, whole or not at all."""
    tensors = {f"weight/{name}": weight.detach() for name, weight in run.model.named_parameters()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"moment/{index}/{name}": value for name, value in state.items()}
    tensors["losses"] = torch.tensor(run.losses, dtype=torch.float64)
    partial.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial / "writing.safetensors", {"run": run.identity})
    (partial / "writing.safetensors").rename(partial / "checkpoint.safetensors")


def _resume(run: _Run, partial: Path) -> None:
    """Goes on from the last checkpoint, if there is one."""
    path = partial / "checkpoint.safetensors"
    if not path.exists():
        return
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    if metadata["run"] != run.identity:
        raise ValueError(
            f"{path} belongs to a run with another recipe or seed: delete {partial} to start over."
        )
    run.model.load_state_dict(dict(_below(tensors, "weight/")), strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "moment/"):
        index, field = name.split("/")
        state.setdefault(int(index), {})[field] = value
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state})
    run.losses = tensors["losses"].tolist()


def _below(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


def _save(run: _Run, directory: Path, partial: Path) -> None:
    """Writes the finished checkpoint beside the partial one, then puts it in its place."""
    finished, last = partial / "finished", run.losses[-100:]
    run.model.half().save_pretrained(finished)
    run.tokenizer.save_pretrained(finished)
    facts = {"seed": run.seed, "recipe": asdict(run.recipe), "loss": sum(last) / len(last)}
    (finished / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    if directory.exists():
        shutil.rmtree(directory)
    finished.rename(directory)
    shutil.rmtree(partial)
