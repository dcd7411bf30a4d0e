"""What is measured on: GPT-2 small's shape, random weights, prompts of the tasks' shapes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel

from analysis import paths
from analysis.metrics import Labels
from analysis.tasks import TASKS, PromptPairs


class Shape(NamedTuple):
    """A prompt pair's number of tokens, and where the two first differ."""

    length: int
    first: int


# The most frequent shape of each task's prompts under GPT-2's vocabulary (for IOI, the mean one:
# no shape is frequent). The testbed's own vocabulary gives the same.
SHAPES = {
    "ioi": Shape(17, 12),
    "greater-than": Shape(13, 8),
    "gender-bias": Shape(5, 2),
    "capital-country": Shape(8, 1),
}


def random_model(
    config: GPT2Config,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    compatibility_mode: bool = True,
) -> TransformerBridge:
    """A model of this shape with random weights."""
    torch.manual_seed(seed)
    with _new_weights_as(dtype):
        network = GPT2LMHeadModel(config)
        _disturb(network)
    with tempfile.TemporaryDirectory() as folder:
        _borrow_tokenizer(Path(folder))
        config.save_pretrained(folder)
        model = TransformerBridge.boot_transformers(
            folder, hf_model=network, device="cpu", dtype=dtype
        )
    if compatibility_mode:
        model.enable_compatibility_mode(disable_warnings=True)
    return model.eval()


def random_pairs(
    task: str, shape: Shape, prompts: int, vocabulary: int, seed: int = 0
) -> PromptPairs:
    """Pairs of random tokens of this shape, with labels and metric of the task's kind."""
    random = torch.Generator().manual_seed(seed)
    clean = torch.randint(vocabulary, (prompts, shape.length), generator=random)
    corrupted = clean.clone()
    corrupted[:, shape.first] = (clean[:, shape.first] + 1) % vocabulary
    count = 100 if task == "greater-than" else 2
    answers = torch.stack(
        [torch.randperm(vocabulary, generator=random)[:count] for _ in range(prompts)]
    )
    signs = torch.ones(prompts, count)
    signs[:, count // 2 :] = -1
    return PromptPairs(
        task=task,
        metric=TASKS[task].metric,
        clean=[""] * prompts,
        corrupted=[""] * prompts,
        clean_tokens=list(clean),
        corrupted_tokens=list(corrupted),
        labels=Labels(answers, signs),
        templates=[""] * prompts,
        trained=[False] * prompts,
    )


@torch.no_grad()
def _disturb(network: torch.nn.Module) -> None:
    """New biases are 0 and new norms do nothing: away from that, so that leaving one out shows."""
    for weight in network.parameters():
        if weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))


def _borrow_tokenizer(folder: Path) -> None:
    """The bridge wants a tokenizer beside the weights; the measured prompts are tokens already."""
    for file in (paths.MODELS / "testbed").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())


@contextmanager
def _new_weights_as(dtype: torch.dtype) -> Iterator[None]:
    """New weights of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
