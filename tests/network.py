"""A network small enough to know every answer: two layers of scalars, and any metric of them.

Layer 0's neurons are the tokens times weights of their own, layer 1's are linear in layer 0's, and
each position is on its own. Heads are silent. The metric is a function of the last position's
neurons of both layers.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from analysis.bench.workloads import Shape, random_pairs
from analysis.forward import BaseRun, Forward
from analysis.metrics import Labels
from analysis.tasks import PromptPairs

PROMPTS = 3


class LinearLayers(Forward):
    """`weights` (layer-1 neuron, layer-0 neuron); `metric` maps both layers' to a number."""

    layers, device, itemsize = 2, torch.device("cpu"), 4

    def __init__(self, reads: Tensor, weights: Tensor, metric: Callable[[Tensor, Tensor], Tensor]):
        self.reads, self.weights, self.metric = reads, weights, metric
        self.width = len(reads)

    def writes(self, site):
        kind, layer = site
        size = {"heads": 1, "neurons": self.width}[kind]
        writes = torch.zeros(size, 1, 2 * self.width)
        if kind == "neurons":
            writes[torch.arange(size), 0, layer * self.width + torch.arange(size)] = 1
        return writes

    def run(self, tokens, first=0):
        early = tokens[:, first:, None] * self.reads
        stream = torch.cat([early, early @ self.weights.T], dim=-1)
        silent = torch.zeros(*early.shape[:2], 1, 1)
        activations = {("heads", layer): silent for layer in range(2)}
        activations["neurons", 0] = early.unsqueeze(-1)
        activations["neurons", 1] = (early @ self.weights.T).unsqueeze(-1)
        nothing = torch.zeros_like(stream)  # the embedding writes to the stream
        return BaseRun(self, tokens, first, activations, self._logits(early, stream), nothing)

    def resume(self, run, site, change, readout):
        raise AssertionError("neither effects nor mediation resume")

    @torch.enable_grad()
    def gradients(self, run, change, readout):
        read = run.activations["neurons", 0].squeeze(-1)
        early = (change + functional.pad(read, (0, self.width))).detach().requires_grad_()
        late = early + functional.pad(early[..., : self.width] @ self.weights.T, (self.width, 0))
        logits = self._logits(late[..., : self.width], late)
        found = self.differentiate(readout.of_vocabulary(logits), [early, late])
        return {site: found[site[1]] for site in self.sites() if site != ("heads", 1)} | {
            ("heads", 1): found[0]
        }

    def trace(self, run, site, change):
        early = run.activations["neurons", 0].squeeze(-1) + change[..., : self.width]
        for later in self.sites_after(site):
            if later == ("neurons", 1):
                yield later, (early @ self.weights.T).unsqueeze(-1)
            else:
                yield later, run.activations[later].expand(*change.shape[:-1], -1, 1)

    def replace(self, run, values, chosen, readout):
        mask = chosen["neurons"]
        early = run.activations["neurons", 0].repeat(len(mask), 1, 1, 1)
        early = self.replaced(early, values["neurons", 0], mask[:, 0]).squeeze(-1)
        late = (early @ self.weights.T).unsqueeze(-1)
        late = self.replaced(late, values["neurons", 1], mask[:, 1]).squeeze(-1)
        logits = self._logits(early, torch.cat([early, late], dim=-1)).unflatten(0, (len(mask), -1))
        return readout.of_vocabulary(logits)

    def floats_kept(self, length, first):
        return 1

    def floats_held(self, length, first, readout, gradient):
        return 1

    def floats_traced(self, length, first):
        return 1

    def _logits(self, early: Tensor, stream: Tensor) -> Tensor:
        value = self.metric(early[..., -1, :], stream[..., -1, self.width :])
        return torch.stack([value, torch.zeros_like(value)], dim=-1)


def scalar_pairs(clean: float, corrupted: float) -> PromptPairs:
    """One token of these two values; the metric reads the first of the network's two logits."""
    pairs = random_pairs("ioi", Shape(2, 1), PROMPTS, 5)
    sides = ([torch.tensor([0, side])] * PROMPTS for side in (clean, corrupted))
    names = ("clean_tokens", "corrupted_tokens")
    labels = Labels(torch.tensor([[0, 1]] * PROMPTS), torch.tensor([[1.0, -1.0]] * PROMPTS))
    return replace(pairs, labels=labels, **dict(zip(names, sides, strict=True)))
