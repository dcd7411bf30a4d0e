"""The fast engine: GPT-2's forward pass, computed with its weights directly.

No hook runs and no flag of the model is touched. Three things make it fast, all of them exact:
the layers below a change are not computed again; positions before the first change keep their keys
and values; and what only the last token needs is computed there alone.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config

from analysis.forward.engine import (
    Activations,
    BaseRun,
    Change,
    Chosen,
    Forward,
    Gradients,
    SiteKey,
    Traced,
)
from analysis.metrics import Readout

Past = tuple[Float[Tensor, "_ head before d_head"], Float[Tensor, "_ head before d_head"]]
Norm = tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
Stream = Float[Tensor, "row position d_model"]

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


class Block:
    """One layer's weights: `writes` are those of its heads and neurons, `write` applies them."""

    def __init__(self, weights: dict[str, Tensor], layer: int):
        get = {
            name.removeprefix(f"blocks.{layer}."): weight for name, weight in weights.items()
        }.__getitem__
        self.attention_norm = get("ln1.w"), get("ln1.b")
        self.query, self.key, self.value = (
            Affine(
                get(f"attn.W_{part}").transpose(0, 1).flatten(1), get(f"attn.b_{part}").flatten()
            )
            for part in "QKV"
        )
        self.mlp_norm = get("ln2.w"), get("ln2.b")
        self.neuron_read = Affine(get("mlp.W_in"), get("mlp.b_in"))
        self.writes = {"heads": get("attn.W_O"), "neurons": get("mlp.W_out").unsqueeze(1)}
        self.write = {
            "heads": Affine(get("attn.W_O").flatten(0, 1), get("attn.b_O")),
            "neurons": Affine(get("mlp.W_out"), get("mlp.b_out")),
        }


class GPT2Forward(Forward):
    """GPT-2's forward pass over a model's weights, processed or raw."""

    def __init__(self, model: TransformerBridge):
        config = model.cfg
        self.layers, self.heads, self.epsilon = config.n_layers, config.n_heads, config.eps
        self.activation = _ACTIVATIONS[config.act_fn]
        weights = {name: weight.detach() for name, weight in model.tl_named_parameters()}
        self.embedding, self.positions = weights["embed.W_E"], weights["pos_embed.W_pos"]
        self.device, self.itemsize = self.embedding.device, self.embedding.itemsize
        self.blocks = [Block(weights, layer) for layer in range(self.layers)]
        self.final_norm = weights["ln_final.w"], weights["ln_final.b"]
        self.unembed = Affine(weights["unembed.W_U"], weights["unembed.b_U"])

    def writes(self, site: SiteKey) -> Float[Tensor, "component size d_model"]:
        return self.blocks[site[1]].writes[site[0]]

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        stream = self.embedding[tokens] + self.positions[: tokens.shape[1]]
        embedded = stream[:, first:].clone()
        after: dict[SiteKey, Tensor] = {}
        activations: dict[SiteKey, Tensor] = {}
        prefix: list[Past] = []
        for layer, block in enumerate(self.blocks):
            queries, keys, values = self._read(block, stream)
            prefix.append((keys[:, :, :first].clone(), values[:, :, :first].clone()))
            moved = self._move(queries, keys, values)
            stream = stream + block.write["heads"](moved.flatten(-2))
            activations["heads", layer] = moved[:, first:].clone()
            after["heads", layer] = stream[:, first:].clone()
            posts = self._neurons(block, stream)
            stream = stream + block.write["neurons"](posts)
            activations["neurons", layer] = posts[:, first:].unsqueeze(-1).clone()
            after["neurons", layer] = stream[:, first:].clone()
        logits = self.unembed(self._norm(stream[:, -1], self.final_norm))
        return BaseRun(self, tokens, first, activations, logits, embedded, after, prefix)

    def resume(
        self, run: BaseRun, site: SiteKey, change: Change, readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        """The last layer reads every position but is needed at the last one only."""
        stream = (run.after[site] + change).flatten(0, -3)
        if site == ("heads", self.layers - 1):
            stream = stream[:, -1:]
        for later in self.sites_after(site):
            last_only = later[1] == self.layers - 1
            stream = self._write(later, stream, self._activate(run, later, stream, last_only))
        final = self._norm(stream[:, -1], self.final_norm).unflatten(0, change.shape[:-2])
        return self._measure(final, readout)

    @torch.enable_grad()
    def gradients(self, run: BaseRun, change: Change, readout: Readout) -> Gradients:
        """The last layer reads every position but is needed at the last one only."""
        after: dict[SiteKey, Tensor] = {}
        stream = (run.embedded + change).flatten(0, -3).detach().requires_grad_()
        for site in self.sites():
            last_only = site[1] == self.layers - 1
            stream = self._write(site, stream, self._activate(run, site, stream, last_only))
            after[site] = stream
        final = self._norm(stream[:, -1], self.final_norm).unflatten(0, change.shape[:-2])
        found = self.differentiate(self._measure(final, readout), list(after.values()))
        return {
            site: functional.pad(gradient, (0, 0, change.shape[-2] - gradient.shape[1], 0)).view(
                change.shape
            )
            for site, gradient in zip(after, found, strict=True)
        }

    @torch.no_grad()
    def trace(self, run: BaseRun, site: SiteKey, change: Change) -> Traced:
        stream = (run.after[site] + change).flatten(0, -3)
        sites = self.sites_after(site)
        for later in sites:
            activations = self._activate(run, later, stream)
            yield later, activations.unflatten(0, change.shape[:-2])
            if later != sites[-1]:  # nothing reads what the last one writes
                stream = self._write(later, stream, activations)

    @torch.no_grad()
    def replace(
        self, run: BaseRun, values: Activations, chosen: Chosen, readout: Readout
    ) -> Float[Tensor, "set prompt"]:
        sets = len(next(iter(chosen.values())))
        stream = run.embedded.repeat(sets, 1, 1)
        for site in self.sites():
            kind, layer = site
            before = self._activate(run, site, stream, last_only=layer == self.layers - 1)
            here = chosen[kind][:, layer] if kind in chosen else None
            stream = self._write(site, stream, self.replaced(before, values[site], here))
        final = self._norm(stream[:, -1], self.final_norm)
        return self._measure(final.unflatten(0, (sets, -1)), readout)

    def floats_kept(self, length: int, first: int) -> int:
        d_model, neurons = self.embedding.shape[1], self.components("neurons")
        prefix, changed = 2 * first * d_model, (length - first) * (3 * d_model + neurons)
        embedded = (length - first) * d_model
        return self.layers * (prefix + changed) + embedded + self.embedding.shape[0]

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
        self, run: BaseRun, site: SiteKey, stream: Stream, last_only: bool = False
    ) -> Float[Tensor, "row to component size"]:
        """A site's activations when the stream before it is this one."""
        kind, layer = site
        if kind == "neurons":
            return self._neurons(self.blocks[layer], stream).unsqueeze(-1)
        queries, *here = self._read(self.blocks[layer], stream, last_only)
        keys, values = (  # rows share those of their prompts' earlier positions
            torch.cat([before.repeat(len(late) // len(before), 1, 1, 1), late], dim=2)
            for before, late in zip(run.prefix[layer], here, strict=True)
        )
        return self._move(queries, keys, values)

    def _write(
        self, site: SiteKey, stream: Stream, activations: Float[Tensor, "row to component size"]
    ) -> Float[Tensor, "row to d_model"]:
        """The stream after a site, at the positions that its activations were computed at."""
        write = self.blocks[site[1]].write[site[0]]
        return stream[:, -activations.shape[1] :] + write(activations.flatten(-2))

    def _read(self, block: Block, stream: Stream, last_only: bool = False) -> list[Tensor]:
        """Queries, keys and values (row, head, position, d_head)."""
        normed = self._norm(stream, block.attention_norm)
        queries = block.query(normed[:, -1:] if last_only else normed)
        read = (queries, block.key(normed), block.value(normed))
        return [values.unflatten(-1, (self.heads, -1)).transpose(1, 2) for values in read]

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

    def _neurons(self, block: Block, stream: Stream) -> Float[Tensor, "row position neuron"]:
        """Each neuron's scalar at each position (`hook_post`)."""
        return self.activation(block.neuron_read(self._norm(stream, block.mlp_norm)))

    def _measure(
        self, final: Float[Tensor, "*batch prompt d_model"], readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric from the logits or log-probabilities that it needs."""
        if readout.columns is None:
            return readout.read(self.unembed(final))
        weight, bias = self.unembed.weight[readout.columns], self.unembed.bias[readout.columns]
        logits = torch.einsum("...pd,pcd->...pc", final, weight) + bias
        return readout.read(logits - self._log_normaliser(final) if readout.normalised else logits)

    def _log_normaliser(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """log Σ exp of all logits, by parts of the vocabulary that a processor's cache holds."""
        parts = zip(self.unembed.weight.split(_CHUNK), self.unembed.bias.split(_CHUNK), strict=True)
        sums = [
            functional.linear(final, weight, bias).logsumexp(dim=-1, keepdim=True)
            for weight, bias in parts
        ]
        return torch.cat(sums, dim=-1).logsumexp(dim=-1, keepdim=True)

    def _norm(
        self, values: Float[Tensor, "*row d_model"], norm: Norm
    ) -> Float[Tensor, "*row d_model"]:
        return functional.layer_norm(values, values.shape[-1:], *norm, self.epsilon)
