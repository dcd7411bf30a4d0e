"""What is measured on: GPT-2 small's shape, random weights, prompts of the tasks' shapes.

And how many multiplications and additions the matrix products of a run take. At a position a block
does 8 d² + 4 d n (queries, keys, values and output; the MLP), with d the width and n the neurons;
attention 4 d for each position it may see or not; the unembedding 2 d for each column.
"""

import shutil
import tempfile
from typing import NamedTuple

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, GPT2Config

from analysis import paths
from analysis.forward import BaseRun
from analysis.metrics import Labels
from analysis.tasks import TASKS, PromptPairs


class Network(NamedTuple):
    """A model's shape."""

    layers: int
    width: int
    neurons: int
    vocabulary: int


GPT2_SMALL = Network(layers=12, width=768, neurons=3072, vocabulary=50257)


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


@torch.no_grad()
def random_model(
    config: GPT2Config,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    compatibility_mode: bool = True,
) -> TransformerBridge:
    """A model of this shape with random weights (biases and norms too, so that each matters)."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for weight in network.parameters():
        if weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))
    with tempfile.TemporaryDirectory() as folder:
        # The bridge wants a tokenizer beside the weights; the measured prompts are tokens already.
        for file in (paths.MODELS / "testbed").glob("tokenizer*"):
            shutil.copy(file, folder)
        config.save_pretrained(folder)
        boot = TransformerBridge.boot_transformers
        model = boot(folder, hf_model=network, device="cpu", dtype=dtype)
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
    count, texts = 100 if task == "greater-than" else 2, [""] * prompts
    answers = [torch.randperm(vocabulary, generator=random)[:count] for _ in range(prompts)]
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(count // 2).repeat(prompts, 1)
    labels, sides = Labels(torch.stack(answers), signs), (list(clean), list(corrupted))
    metric, trained = TASKS[task].metric, [False] * prompts
    return PromptPairs(task, metric, texts, texts, *sides, labels, trained)


def network_of(run: BaseRun) -> Network:
    """The shape of the model that was run."""
    neurons, _, width = run.forward.writes(("neurons", 0)).shape
    return Network(run.forward.layers, width, neurons, vocabulary=run.logits.shape[1])


def whole_run(network: Network, length: int) -> int:
    """One prompt through the whole model, unembedded at every position, as the hook loop does."""
    unembedding = 2 * length * network.width * network.vocabulary
    return network.layers * _block(network, length, length) + unembedding


def resumed_run(network: Network, shape: Shape, kind: str, layer: int, columns: int) -> int:
    """One prompt resumed after a layer's heads or neurons, as the engine does it.

    `columns` is how many logits are computed. After the last layer's attention the last position
    alone is needed; the others give that layer's keys and values only.
    """
    changed, total = shape.length - shape.first, 2 * network.width * columns
    for at in range(layer, network.layers):
        needed = 1 if at == network.layers - 1 else changed
        if at > layer:
            total += _block(network, needed, shape.length)
            total += (changed - needed) * 4 * network.width**2
        elif kind == "heads":
            total += 4 * needed * network.width * network.neurons
    return total


def _block(network: Network, positions: int, length: int) -> int:
    return positions * network.width * (8 * network.width + 4 * network.neurons + 4 * length)
