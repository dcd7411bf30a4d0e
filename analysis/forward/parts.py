"""What a decoder is built of, with weights as they are: norms, positions, attention, MLPs.

A block adds what its heads and its neurons write to the residual stream. Each reads the stream
through a norm. Rows of a batch are prompts, or changes × prompts; positions of a row are the last
ones of its prompt, from `start` on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_fast": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}

Weights = Mapping[str, Tensor]  # by TransformerLens's names
Heads = Float[Tensor, "row head position d_head"]


class Affine:
    """x W + b, with W as `functional.linear` wants it; several of them side by side are one."""

    def __init__(self, *parts: tuple[Float[Tensor, "before _"], Float[Tensor, " _"]]):
        self.weight = torch.cat([weight.T for weight, _ in parts]).contiguous()
        bias = torch.cat([bias for _, bias in parts])
        self.bias = bias if bias.any() else None

    def __call__(self, values: Float[Tensor, "*row before"]) -> Float[Tensor, "*row after"]:
        return functional.linear(values, self.weight, self.bias)


@dataclass(frozen=True)
class Norm:
    """LayerNorm where there is a bias, RMSNorm where there is none."""

    weight: Float[Tensor, " size"]
    bias: Float[Tensor, " size"] | None
    epsilon: float

    def __call__(self, values: Float[Tensor, "*row size"]) -> Float[Tensor, "*row size"]:
        if self.bias is not None:
            return functional.layer_norm(
                values, self.weight.shape, self.weight, self.bias, self.epsilon
            )
        scale = (values.square().mean(dim=-1, keepdim=True) + self.epsilon).rsqrt()
        return values * scale * self.weight


class Rotary(NamedTuple):
    """Rotary positions (Su et al. 2021): a head's first coordinates, in pairs, turn with position.

    A pair is a coordinate of the first half of those that turn and one of the second half.
    """

    cos: Float[Tensor, "position turned"]
    sin: Float[Tensor, "position turned"]

    def turn(self, values: Heads, start: int) -> Heads:
        """The values of positions from `start` on, turned."""
        end, size = start + values.shape[2], self.cos.shape[1]
        turned, rest = values[..., :size], values[..., size:]
        one, other = turned.chunk(2, dim=-1)
        crossed = torch.cat([-other, one], dim=-1)
        turned = turned * self.cos[start:end] + crossed * self.sin[start:end]
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values of a normed stream, and what heads move by them.

    Heads in groups share a key and a value. `norms` are those of queries and keys, if any; with a
    `window` of w, a token attends to itself and to the w - 1 before it.
    """

    query: Affine
    key_value: Affine
    size: int  # of a head
    norms: tuple[Norm, Norm] | None
    rotary: Rotary | None
    window: int | None

    def read(
        self, normed: Float[Tensor, "row position d_model"], start: int, last_only: bool = False
    ) -> list[Float[Tensor, "row _ _ d_head"]]:
        """Queries, keys and values; with `last_only`, the query of the last position alone."""
        keys, values = self.key_value(normed).chunk(2, dim=-1)
        asking = normed[:, -1:] if last_only else normed
        read = [self._by_head(part) for part in (self.query(asking), keys, values)]
        if self.norms:
            read[:2] = [norm(part) for norm, part in zip(self.norms, read, strict=False)]
        if self.rotary:
            skipped = normed.shape[1] - asking.shape[1]
            read[:2] = (
                self.rotary.turn(part, at)
                for part, at in zip(read, (start + skipped, start), strict=False)
            )
        return read

    def move(
        self,
        queries: Float[Tensor, "row head to d_head"],
        keys: Float[Tensor, "row group from d_head"],
        values: Float[Tensor, "row group from d_head"],
    ) -> Float[Tensor, "row to head d_head"]:
        """What each head moves to the last positions (`hook_z`): attention-weighted values.

        The heads of a group stand as further positions that ask the same keys.
        """
        heads, to = queries.shape[1:3]
        each = heads // keys.shape[1]
        visible = self.visible(to, keys.shape[2], keys.device).repeat(each, 1)
        asked = queries.unflatten(1, (-1, each)).flatten(2, 3)
        moved = functional.scaled_dot_product_attention(asked, keys, values, visible)
        return moved.unflatten(2, (each, to)).flatten(1, 2).transpose(1, 2)

    def pattern(
        self,
        queries: Float[Tensor, "row head to d_head"],
        keys: Float[Tensor, "row group from d_head"],
    ) -> Float[Tensor, "row head to from"]:
        """How much each head's last positions attend to every position."""
        to, total = queries.shape[2], keys.shape[2]
        scores = queries @ self.of_each(keys, queries.shape[1]).mT * queries.shape[-1] ** -0.5
        hidden = ~self.visible(to, total, keys.device)
        return scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)

    def of_each(
        self, shared: Float[Tensor, "row group from d_head"], heads: int
    ) -> Float[Tensor, "row head from d_head"]:
        """Every head's keys or values, which those of a group share."""
        return shared.repeat_interleave(heads // shared.shape[1], dim=1)

    def visible(self, to: int, total: int, device: torch.device) -> Bool[Tensor, "to from"]:
        """Which of all positions the last ones see."""
        seen = torch.ones(to, total, dtype=torch.bool, device=device).tril(total - to)
        return seen if self.window is None else seen.triu(total - to - self.window + 1)

    def _by_head(self, values: Float[Tensor, "row position _"]) -> Heads:
        return values.unflatten(-1, (-1, self.size)).transpose(1, 2)


@dataclass(frozen=True)
class MLP:
    """Neurons of a normed stream (`hook_post`): act(x W), or gated, act(x W_gate) · (x W)."""

    reading: Affine  # of a gated one the gate's first
    gated: bool
    activation: Callable[[Tensor], Tensor]

    def __call__(
        self, normed: Float[Tensor, "row position d_model"]
    ) -> Float[Tensor, "row position neuron"]:
        read = self.reading(normed)
        if not self.gated:
            return self.activation(read)
        gate, values = read.chunk(2, dim=-1)
        return self.activation(gate) * values
