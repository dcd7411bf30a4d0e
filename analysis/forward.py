"""The forward engine: a base run kept once, then resumed with a changed residual stream.

A component's activation reaches the rest of the network through one linear map only: a head's
vector (`hook_z`) or a neuron's scalar (`hook_post`) times its *writing weights* is what it adds to
the residual stream. So whatever is done to the components of a layer is, for everything after
them, one change of the residual stream, and `BaseRun.resume` computes what follows from it.

`Forward` reads GPT-2's weights from a `TransformerBridge`, processed or raw, and computes with
them directly: no hook runs, no flag of the model is touched, and the layers below a change are
not computed again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

KINDS = ("heads", "neurons")

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_fast": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class LayerWeights:
    """One block's weights; `qkv` holds the queries', the keys' and the values' matrix."""

    attention_norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    qkv: Float[Tensor, "3 d_model heads_d_head"]
    qkv_bias: Float[Tensor, "3 heads_d_head"]
    head_writes: Float[Tensor, "head d_head d_model"]
    attention_bias: Float[Tensor, " d_model"]
    mlp_norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    neuron_reads: Float[Tensor, "d_model neuron"]
    neuron_bias: Float[Tensor, " neuron"]
    neuron_writes: Float[Tensor, "neuron 1 d_model"]
    mlp_bias: Float[Tensor, " d_model"]


class Forward:
    """GPT-2's forward pass over a model's weights, layer by layer."""

    def __init__(self, model: TransformerBridge):
        config = model.cfg
        self.heads, self.epsilon = config.n_heads, config.eps
        self.activation = _ACTIVATIONS[config.act_fn]
        weights = {name: weight.detach() for name, weight in model.tl_named_parameters()}
        self.embedding = weights["embed.W_E"]
        self.positions = weights["pos_embed.W_pos"]
        self.layers = [_layer_weights(weights, layer) for layer in range(config.n_layers)]
        self.final_norm = weights["ln_final.w"], weights["ln_final.b"]
        self.unembedding, self.unembedding_bias = weights["unembed.W_U"], weights["unembed.b_U"]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def floats_per_position(self) -> int:
        """A bound on the numbers that one block holds at one position while it is computed."""
        return 8 * self.embedding.shape[1] + 3 * self.components("neurons")

    def components(self, kind: str) -> int:
        """How many heads or neurons a layer has."""
        return len(self.writes(kind, 0))

    def writes(self, kind: str, layer: int) -> Float[Tensor, "component size d_model"]:
        """The writing weights: activation times these is what a component adds to the stream."""
        weights = self.layers[layer]
        return weights.head_writes if kind == "heads" else weights.neuron_writes

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"]) -> "BaseRun":
        """A base run over prompts of one length, with everything that resuming needs."""
        stream = self.embedding[tokens] + self.positions[: tokens.shape[1]]
        after: dict[tuple[str, int], Tensor] = {}
        activations: dict[tuple[str, int], Tensor] = {}
        for layer in range(len(self.layers)):
            activations["heads", layer] = self._head_activations(layer, stream)
            stream = self._add_attention(layer, stream, activations["heads", layer])
            after["heads", layer] = stream
            activations["neurons", layer] = self._neuron_activations(layer, stream)
            stream = self._add_mlp(layer, stream, activations["neurons", layer])
            after["neurons", layer] = stream
        return BaseRun(self, activations, after, self.logits(stream))

    def rest(
        self, kind: str, layer: int, stream: Float[Tensor, "row position d_model"]
    ) -> Float[Tensor, "row vocabulary"]:
        """The logits at the last position, from the stream just after a layer's heads or neurons.

        The last layer reads every position but is needed at the last one only.
        """
        last = len(self.layers) - 1
        if kind == "heads":
            stream = stream[:, -1:] if layer == last else stream
            stream = self._add_mlp(layer, stream, self._neuron_activations(layer, stream))
        for later in range(layer + 1, last + 1):
            moved = self._head_activations(later, stream, last_only=later == last)
            stream = self._add_attention(later, stream[:, -moved.shape[1] :], moved)
            stream = self._add_mlp(later, stream, self._neuron_activations(later, stream))
        return self.logits(stream)

    def logits(
        self, stream: Float[Tensor, "row position d_model"]
    ) -> Float[Tensor, "row vocabulary"]:
        """The last position's logits."""
        last = self._norm(stream[:, -1], self.final_norm)
        return last @ self.unembedding + self.unembedding_bias

    def _head_activations(
        self, layer: int, stream: Float[Tensor, "row position d_model"], last_only: bool = False
    ) -> Float[Tensor, "row to_position head d_head"]:
        """What each head moves to each position: attention-weighted values (`hook_z`)."""
        weights = self.layers[layer]
        normed = self._norm(stream, weights.attention_norm)
        readers = (normed[:, -1:] if last_only else normed, normed, normed)
        queries, keys, values = (
            (read @ matrix + bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for read, matrix, bias in zip(readers, weights.qkv, weights.qkv_bias, strict=True)
        )
        moved = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=not last_only
        )
        return moved.transpose(1, 2)

    def _add_attention(
        self,
        layer: int,
        stream: Float[Tensor, "row position d_model"],
        activations: Float[Tensor, "row position head d_head"],
    ) -> Float[Tensor, "row position d_model"]:
        weights = self.layers[layer]
        written = activations.flatten(-2) @ weights.head_writes.flatten(0, 1)
        return stream + written + weights.attention_bias

    def _neuron_activations(
        self, layer: int, stream: Float[Tensor, "row position d_model"]
    ) -> Float[Tensor, "row position neuron 1"]:
        """Each neuron's scalar at each position (`hook_post`)."""
        weights = self.layers[layer]
        before = self._norm(stream, weights.mlp_norm) @ weights.neuron_reads + weights.neuron_bias
        return self.activation(before).unsqueeze(-1)

    def _add_mlp(
        self,
        layer: int,
        stream: Float[Tensor, "row position d_model"],
        activations: Float[Tensor, "row position neuron 1"],
    ) -> Float[Tensor, "row position d_model"]:
        weights = self.layers[layer]
        written = activations.squeeze(-1) @ weights.neuron_writes.squeeze(1)
        return stream + written + weights.mlp_bias

    def _norm(
        self,
        values: Float[Tensor, "*row d_model"],
        norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]],
    ) -> Float[Tensor, "*row d_model"]:
        return functional.layer_norm(values, values.shape[-1:], *norm, self.epsilon)


@dataclass(frozen=True)
class BaseRun:
    """The run being changed: its activations, its residual stream, its logits at the last token."""

    forward: Forward
    activations: dict[tuple[str, int], Float[Tensor, "prompt position component size"]]
    after: dict[tuple[str, int], Float[Tensor, "prompt position d_model"]]
    logits: Float[Tensor, "prompt vocabulary"]

    def resume(
        self, kind: str, layer: int, change: Float[Tensor, "*batch prompt position d_model"]
    ) -> Float[Tensor, "*batch prompt vocabulary"]:
        """The last token's logits when a layer's heads or neurons write `change` more.

        Any number of changes, each of all prompts, at once; differentiable in `change`.
        """
        stream = (self.after[kind, layer] + change).flatten(0, -3)
        return self.forward.rest(kind, layer, stream).unflatten(0, change.shape[:-2])


def _layer_weights(weights: dict[str, Tensor], layer: int) -> LayerWeights:
    block = {
        name.removeprefix(f"blocks.{layer}."): weight
        for name, weight in weights.items()
        if name.startswith(f"blocks.{layer}.")
    }
    qkv = [block[f"attn.W_{part}"].transpose(0, 1).flatten(1) for part in "QKV"]
    qkv_bias = [block[f"attn.b_{part}"].flatten() for part in "QKV"]
    return LayerWeights(
        attention_norm=(block["ln1.w"], block["ln1.b"]),
        qkv=torch.stack(qkv),
        qkv_bias=torch.stack(qkv_bias),
        head_writes=block["attn.W_O"],
        attention_bias=block["attn.b_O"],
        mlp_norm=(block["ln2.w"], block["ln2.b"]),
        neuron_reads=block["mlp.W_in"],
        neuron_bias=block["mlp.b_in"],
        neuron_writes=block["mlp.W_out"].unsqueeze(1),
        mlp_bias=block["mlp.b_out"],
    )
