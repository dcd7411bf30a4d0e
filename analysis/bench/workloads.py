"""What is measured on: models and their prompts, random ones of a shape or real ones.

And how many multiplications and additions the matrix products of a run take. At a position a block
does 4 d (h + k) + 4 d n, or 6 d n if its MLP is gated (queries and output, keys and values; the
MLP), with d the width, n the neurons, h the width of all queries and k that of all keys, which in
GPT-2 are d too; attention 4 h for each position it may see or not; the unembedding 2 d for each
column.
"""

import shutil
import tempfile
from collections import Counter
from typing import NamedTuple

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PretrainedConfig

from analysis import paths
from analysis.forward import BaseRun
from analysis.forward.decoder import Decoder
from analysis.metrics import Labels
from analysis.sites import first_difference
from analysis.tasks import TASKS, PromptPairs, load_task


class Network(NamedTuple):
    """A model's shape; `queries` and `keys` are the widths of those of all heads."""

    layers: int
    width: int
    neurons: int
    vocabulary: int
    queries: int
    keys: int
    gated: bool = False


GPT2_SMALL = Network(12, width=768, neurons=3072, vocabulary=50257, queries=768, keys=768)


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
    config: PretrainedConfig,
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


def shaped_pairs(task: str, model: TransformerBridge, prompts: int) -> PromptPairs:
    """Random pairs of the task's shape and the model's vocabulary."""
    return random_pairs(task, SHAPES[task], prompts, model.cfg.d_vocab)


def real_pairs(task: str, model: TransformerBridge, prompts: int) -> PromptPairs:
    """Of a hundred held-out pairs, at most so many of the shape that occurs most often."""
    pairs = load_task(task, model, n=100)
    sides = zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)
    shapes = [Shape(len(clean), first_difference(clean, other)) for clean, other in sides]
    (most, _) = Counter(shapes).most_common(1)[0]
    return pairs.select([index for index, shape in enumerate(shapes) if shape == most][:prompts])


def network_of(run: BaseRun) -> Network:
    """The shape of the model that was run, by the exact engine."""
    forward = run.forward
    assert isinstance(forward, Decoder)
    neurons, _, width = forward.writes(("neurons", 0)).shape
    heads, size, _ = forward.writes(("heads", 0)).shape
    _, groups, _, _ = run.prefix[0][0].shape
    vocabulary, gated = run.logits.shape[1], forward.blocks[0].mlp.gated
    return Network(
        *(forward.layers, width, neurons, vocabulary), heads * size, groups * size, gated
    )


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
            total += (changed - needed) * 4 * network.width * network.keys
        elif kind == "heads":
            total += needed * _mlp(network)
    return total


def _block(network: Network, positions: int, length: int) -> int:
    projections = 4 * network.width * (network.queries + network.keys)
    return positions * (projections + 4 * network.queries * length + _mlp(network))


def _mlp(network: Network) -> int:
    return (6 if network.gated else 4) * network.width * network.neurons
