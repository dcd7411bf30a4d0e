"""The fast engine: GPT-2's forward pass, computed with its weights directly.

No hook runs and no flag of the model is touched. Three things make it fast, all of them exact:
the layers below a change are not computed again; positions before the first change keep their keys
and values; and what only the last token needs is computed there alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config

from analysis.forward.engine import Activations, BaseRun, Chosen, Forward, Place, replaced
from analysis.metrics import Readout

Past = tuple[Float[Tensor, "_ head before d_head"], Float[Tensor, "_ head before d_head"]]

_CHUNK = 2048
_OF_A_METRIC = 8  # copies of the logits that a metric of the whole vocabulary may make
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_fast": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


def knows(model: TransformerBridge) -> bool:
    """Whether `GPT2Forward` computes this model."""
    config = cast(GPT2Config, model.original_model.config)
    return (
        model.cfg.architecture == "GPT2LMHeadModel"
        and model.cfg.act_fn in _ACTIVATIONS
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
    )


class Affine:
    """x W + b, with W as `functional.linear` wants it."""

    def __init__(self, weight: Float[Tensor, "before after"], bias: Float[Tensor, " after"]):
        self.weight, self.bias = weight.T.contiguous(), bias

    def __call__(self, values: Float[Tensor, "*row before"]) -> Float[Tensor, "*row after"]:
        return functional.linear(values, self.weight, self.bias)


@dataclass(frozen=True)
class Block:
    """One layer's weights."""

    attention_norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    query: Affine
    key: Affine
    value: Affine
    head_writes: Float[Tensor, "head d_head d_model"]
    attention_write: Affine
    mlp_norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    neuron_read: Affine
    neuron_writes: Float[Tensor, "neuron 1 d_model"]
    mlp_write: Affine


class GPT2Forward(Forward):
    """GPT-2's forward pass over a model's weights, processed or raw."""

    def __init__(self, model: TransformerBridge):
        config = model.cfg
        self.layers, self.heads, self.epsilon = config.n_layers, config.n_heads, config.eps
        self.activation = _ACTIVATIONS[config.act_fn]
        weights = {name: weight.detach() for name, weight in model.tl_named_parameters()}
        self.embedding, self.positions = weights["embed.W_E"], weights["pos_embed.W_pos"]
        self.device, self.itemsize = self.embedding.device, self.embedding.itemsize
        self.blocks = [_block(weights, layer) for layer in range(self.layers)]
        self.final_norm = weights["ln_final.w"], weights["ln_final.b"]
        self.unembed = Affine(weights["unembed.W_U"], weights["unembed.b_U"])

    def writes(self, kind: str, layer: int) -> Float[Tensor, "component size d_model"]:
        block = self.blocks[layer]
        return block.head_writes if kind == "heads" else block.neuron_writes

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        stream = self.embedding[tokens] + self.positions[: tokens.shape[1]]
        after: dict[tuple[str, int], Tensor] = {}
        activations: dict[tuple[str, int], Tensor] = {}
        prefix: list[Past] = []
        for layer, block in enumerate(self.blocks):
            queries, keys, values = self._read(block, stream)
            prefix.append((keys[:, :, :first].clone(), values[:, :, :first].clone()))
            moved = self._move(queries, keys, values)
            stream = stream + block.attention_write(moved.flatten(-2))
            activations["heads", layer] = moved[:, first:].clone()
            after["heads", layer] = stream[:, first:].clone()
            posts = self._neurons(block, stream)
            stream = stream + block.mlp_write(posts)
            activations["neurons", layer] = posts[:, first:].unsqueeze(-1).clone()
            after["neurons", layer] = stream[:, first:].clone()
        logits = self.unembed(self._norm(stream[:, -1], self.final_norm))
        return BaseRun(self, tokens, first, activations, after, logits, prefix)

    def resume(
        self,
        run: BaseRun,
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "*batch prompt column"]:
        """The last layer reads every position but is needed at the last one only."""
        stream = (run.after[kind, layer] + change).flatten(0, -3)
        if (kind, layer) == ("heads", self.layers - 1):
            stream = stream[:, -1:]
        for place in self.places_after(kind, layer):
            last_only = place[1] == self.layers - 1
            stream = self._write(place, stream, self._activate(run, place, stream, last_only))
        final = self._norm(stream[:, -1], self.final_norm).unflatten(0, change.shape[:-2])
        return self._unembed(final, columns, normalised)

    @torch.no_grad()
    def trace(
        self,
        run: BaseRun,
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
    ) -> Iterator[tuple[Place, Float[Tensor, "*batch prompt changed component size"]]]:
        stream = (run.after[kind, layer] + change).flatten(0, -3)
        places = self.places_after(kind, layer)
        for place in places:
            activations = self._activate(run, place, stream)
            yield place, activations.unflatten(0, change.shape[:-2])
            if place != places[-1]:  # nothing reads what the last ones write
                stream = self._write(place, stream, activations)

    @torch.no_grad()
    def replace(
        self,
        run: BaseRun,
        values: Activations,
        chosen: Chosen,
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "set prompt column"]:
        sets = len(next(iter(chosen.values())))
        tokens = run.tokens[:, run.first :].repeat(sets, 1)
        stream = self.embedding[tokens] + self.positions[run.first : run.tokens.shape[1]]
        for kind, layer in self.places():
            last_only = layer == self.layers - 1
            own = self._activate(run, (kind, layer), stream, last_only)
            activations = replaced(own, values[kind, layer], chosen.get(kind), layer)
            stream = self._write((kind, layer), stream, activations)
        final = self._norm(stream[:, -1], self.final_norm)
        return self._unembed(final.unflatten(0, (sets, -1)), columns, normalised)

    def floats_kept(self, length: int, first: int) -> int:
        d_model, neurons = self.embedding.shape[1], self.components("neurons")
        prefix, changed = 2 * first * d_model, (length - first) * (3 * d_model + neurons)
        return self.layers * (prefix + changed) + self.embedding.shape[0]

    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        d_model, columns = self.embedding.shape[1], readout.width(len(self.unembed.weight))
        block = self.floats_traced(length, first)
        read_out = (_OF_A_METRIC if readout.columns is None else d_model + 4) * columns
        if readout.normalised:
            read_out += 3 * _CHUNK + (2 * len(self.unembed.weight) if gradient else 0)
        return block * (self.layers if gradient else 1) + read_out

    def floats_traced(self, length: int, first: int) -> int:
        d_model, neurons = self.embedding.shape[1], self.components("neurons")
        return (length - first) * (8 * d_model + 3 * neurons) + 4 * length * d_model

    def _activate(
        self,
        run: BaseRun,
        place: Place,
        stream: Float[Tensor, "row position d_model"],
        last_only: bool = False,
    ) -> Float[Tensor, "row to component size"]:
        """A layer's heads or neurons when the stream before them is this one."""
        kind, layer = place
        if kind == "heads":
            return self._move_after(self.blocks[layer], stream, run.prefix[layer], last_only)
        return self._neurons(self.blocks[layer], stream).unsqueeze(-1)

    def _write(
        self,
        place: Place,
        stream: Float[Tensor, "row position d_model"],
        activations: Float[Tensor, "row to component size"],
    ) -> Float[Tensor, "row to d_model"]:
        """The stream after them, at the positions that they were computed at."""
        kind, layer = place
        block = self.blocks[layer]
        write = block.attention_write if kind == "heads" else block.mlp_write
        return stream[:, -activations.shape[1] :] + write(activations.flatten(-2))

    def _read(
        self, block: Block, stream: Float[Tensor, "row position d_model"], last_only: bool = False
    ) -> tuple[
        Float[Tensor, "row head to d_head"],
        Float[Tensor, "row head position d_head"],
        Float[Tensor, "row head position d_head"],
    ]:
        """Queries, keys and values."""
        normed = self._norm(stream, block.attention_norm)
        queries = block.query(normed[:, -1:] if last_only else normed)
        return (
            self._by_head(queries),
            self._by_head(block.key(normed)),
            self._by_head(block.value(normed)),
        )

    def _move(
        self,
        queries: Float[Tensor, "row head to d_head"],
        keys: Float[Tensor, "row head from d_head"],
        values: Float[Tensor, "row head from d_head"],
    ) -> Float[Tensor, "row to head d_head"]:
        """What each head moves to the last positions (`hook_z`): attention-weighted values."""
        to, start = queries.shape[2], keys.shape[2] - queries.shape[2]
        visible = torch.ones(to, start + to, dtype=torch.bool, device=self.device).tril(start)
        moved = functional.scaled_dot_product_attention(queries, keys, values, visible)
        return moved.transpose(1, 2)

    def _move_after(
        self,
        block: Block,
        stream: Float[Tensor, "row position d_model"],
        past: Past,
        last_only: bool,
    ) -> Float[Tensor, "row to head d_head"]:
        """The same for rows that share the keys and values of their prompts' earlier positions."""
        queries, *own = self._read(block, stream, last_only)
        keys, values = (
            torch.cat([before.repeat(len(late) // len(before), 1, 1, 1), late], dim=2)
            for before, late in zip(past, own, strict=True)
        )
        return self._move(queries, keys, values)

    def _by_head(
        self, values: Float[Tensor, "row position heads_d_head"]
    ) -> Float[Tensor, "row head position d_head"]:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _neurons(
        self, block: Block, stream: Float[Tensor, "row position d_model"]
    ) -> Float[Tensor, "row position neuron"]:
        """Each neuron's scalar at each position (`hook_post`)."""
        return self.activation(block.neuron_read(self._norm(stream, block.mlp_norm)))

    def _unembed(
        self,
        final: Float[Tensor, "*batch prompt d_model"],
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "*batch prompt column"]:
        """Logits or log-probabilities of some columns, or of all of them."""
        if columns is None:
            logits = self.unembed(final)
            return logits.log_softmax(dim=-1) if normalised else logits
        weight, bias = self.unembed.weight[columns], self.unembed.bias[columns]
        logits = torch.einsum("...pd,pcd->...pc", final, weight) + bias
        return logits - self._log_normaliser(final) if normalised else logits

    def _log_normaliser(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """log Σ exp of all logits, by parts of the vocabulary that a processor's cache holds."""
        parts = zip(self.unembed.weight.split(_CHUNK), self.unembed.bias.split(_CHUNK), strict=True)
        sums = [
            functional.linear(final, weight, bias).logsumexp(dim=-1, keepdim=True)
            for weight, bias in parts
        ]
        return torch.cat(sums, dim=-1).logsumexp(dim=-1, keepdim=True)

    def _norm(
        self,
        values: Float[Tensor, "*row d_model"],
        norm: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]],
    ) -> Float[Tensor, "*row d_model"]:
        return functional.layer_norm(values, values.shape[-1:], *norm, self.epsilon)


def _block(weights: dict[str, Tensor], layer: int) -> Block:
    block = {
        name.removeprefix(f"blocks.{layer}."): weight
        for name, weight in weights.items()
        if name.startswith(f"blocks.{layer}.")
    }
    query, key, value = (
        Affine(
            block[f"attn.W_{part}"].transpose(0, 1).flatten(1), block[f"attn.b_{part}"].flatten()
        )
        for part in "QKV"
    )
    return Block(
        attention_norm=(block["ln1.w"], block["ln1.b"]),
        query=query,
        key=key,
        value=value,
        head_writes=block["attn.W_O"],
        attention_write=Affine(block["attn.W_O"].flatten(0, 1), block["attn.b_O"]),
        mlp_norm=(block["ln2.w"], block["ln2.b"]),
        neuron_read=Affine(block["mlp.W_in"], block["mlp.b_in"]),
        neuron_writes=block["mlp.W_out"].unsqueeze(1),
        mlp_write=Affine(block["mlp.W_out"], block["mlp.b_out"]),
    )
