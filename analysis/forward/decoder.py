"""The exact engine: a decoder's forward pass, computed with its weights directly.

GPT-2, Llama (SmolLM2, Mistral, Qwen2, Qwen3) and GPT-NeoX (Pythia) are made of the same few parts,
in blocks whose MLP reads what the heads wrote (sequential) or does not (parallel). No hook runs and
no flag of the model is touched. Three things make it fast, all of them exact: the layers below a
change are not computed again; positions before the first change keep their keys and values; and
what only the last token needs is computed there alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from analysis.choices import Kind
from analysis.forward.engine import (
    Activations,
    BaseRun,
    Change,
    Chosen,
    Forward,
    Gradients,
    Pattern,
    Sensitivity,
    SiteKey,
    Traced,
)
from analysis.forward.parts import ACTIVATIONS, MLP, Affine, Attention, Norm, Rotary, Weights
from analysis.metrics import Readout

Stream = Float[Tensor, "row position d_model"]
Edit = Callable[[SiteKey, Float[Tensor, "row to component size"]], Tensor]
Walked = tuple[SiteKey, Float[Tensor, "row to component size"], Float[Tensor, "row to d_model"]]

_CHUNK = 2048
_OF_A_METRIC = 8  # copies of the logits that a metric of the whole vocabulary may make
_SEQUENTIAL = ("Llama", "Mistral", "Qwen2", "Qwen3")
_WINDOWED = ("mistral", "qwen2", "qwen3")  # model types whose attention may see so far back only
# Rotary positions that hang on the prompt's length.
_VARYING = ("dynamic", "longrope")


def knows(model: TransformerBridge) -> bool:
    """Whether `Decoder` computes this model."""
    config: Any = model.original_model.config
    name = model.cfg.architecture
    if model.cfg.act_fn not in ACTIVATIONS:
        return False
    if name == "GPT2LMHeadModel":
        return config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
    if name not in ("GPTNeoXForCausalLM", *(f"{family}ForCausalLM" for family in _SEQUENTIAL)):
        return False
    rotary = getattr(config, "rope_parameters", None) or {}
    plain = rotary.get("rope_type", "default") not in _VARYING
    return plain and not getattr(config, "mlp_bias", False)


@dataclass(frozen=True)
class Block:
    """One layer: `writes` are the weights of its heads and neurons, `write` applies them."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: MLP
    writes: dict[Kind, Float[Tensor, "component size d_model"]]
    write: dict[Kind, Affine]


class Decoder(Forward):
    """A decoder's forward pass over a model's weights, processed or raw.

    In a parallel block the neurons read what the heads read, so that `after` holds the stream
    behind both, for both.
    """

    def __init__(self, model: TransformerBridge):
        config = model.cfg
        self.layers = config.n_layers
        self.parallel = bool(config.parallel_attn_mlp)
        weights = {name: weight.detach() for name, weight in model.tl_named_parameters()}
        self.embedding, self.positions = weights["embed.W_E"], weights.get("pos_embed.W_pos")
        self.device, self.itemsize = self.embedding.device, self.embedding.itemsize
        rotary = _rotary(model)
        self.blocks = [_block(model, weights, layer, rotary) for layer in range(self.layers)]
        self.final_norm = _norm(weights, "ln_final", config.eps)
        self.unembed = Affine((weights["unembed.W_U"], weights["unembed.b_U"]))

    def writes(self, site: SiteKey) -> Float[Tensor, "component size d_model"]:
        return self.blocks[site[1]].writes[site[0]]

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        stream = self._embed(tokens)
        embedded = stream[:, first:].clone()
        after: dict[SiteKey, Tensor] = {}
        activations: dict[SiteKey, Tensor] = {}
        prefix: list[tuple[Tensor, Tensor]] = []
        for layer, block in enumerate(self.blocks):
            queries, keys, values = block.attention.read(block.attention_norm(stream), start=0)
            prefix.append((keys[:, :, :first].clone(), values[:, :, :first].clone()))
            moved = block.attention.move(queries, keys, values)
            between = stream + block.write["heads"](moved.flatten(-2))
            posts = block.mlp(block.mlp_norm(stream if self.parallel else between))
            stream = between + block.write["neurons"](posts)
            activations["heads", layer] = moved[:, first:].clone()
            activations["neurons", layer] = posts[:, first:].unsqueeze(-1).clone()
            after["neurons", layer] = stream[:, first:].clone()
            after["heads", layer] = (
                after["neurons", layer] if self.parallel else between[:, first:].clone()
            )
        logits = self.unembed(self.final_norm(stream[:, -1]))
        return BaseRun(self, tokens, first, activations, logits, embedded, after, prefix)

    def resume(
        self, run: BaseRun, site: SiteKey, change: Change, readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        """The last layer reads every position but is needed at the last one only."""
        stream = (run.after[site] + change).flatten(0, -3)
        if site == ("heads", self.layers - 1):
            stream = stream[:, -1:]
        end = self._end(run, self.sites_after(site), stream)
        return self._measure(end.unflatten(0, change.shape[:-2]), readout)

    @torch.no_grad()
    def trace(self, run: BaseRun, site: SiteKey, change: Change) -> Traced:
        stream = (run.after[site] + change).flatten(0, -3)
        walk = self._walk(run, self.sites_after(site), stream, last_only=False)
        for later, activations, _ in walk:
            yield later, activations.unflatten(0, change.shape[:-2])

    @torch.no_grad()
    def replace(
        self, run: BaseRun, values: Activations, chosen: Chosen, readout: Readout
    ) -> Float[Tensor, "set prompt"]:
        sets = len(next(iter(chosen.values())))

        def edit(site: SiteKey, activations: Tensor) -> Tensor:
            here = chosen[site[0]][:, site[1]] if site[0] in chosen else None
            return self.replaced(activations, values[site], here)

        end = self._end(run, self.sites(), run.embedded.repeat(sets, 1, 1), edit)
        return self._measure(end.unflatten(0, (sets, -1)), readout)

    def gradients(self, run: BaseRun, change: Change, readout: Readout) -> Gradients:
        """The last layer reads every position but is needed at the last one only."""
        with torch.enable_grad():
            stream = (run.embedded + change).flatten(0, -3).detach().requires_grad_()
            after = {site: stream for site, _, stream in self._walk(run, self.sites(), stream)}
            if self.parallel:  # what heads write is read where what neurons write is
                after = {site: after["neurons", site[1]] for site in after}
            final = after["neurons", self.layers - 1][:, -1].unflatten(0, change.shape[:-2])
            found = self.differentiate(self._measure(final, readout), list(after.values()))
        return {
            site: functional.pad(gradient, (0, 0, change.shape[-2] - gradient.shape[1], 0)).view(
                change.shape
            )
            for site, gradient in zip(after, found, strict=True)
        }

    @torch.enable_grad()
    def sensitivity(
        self, run: BaseRun, readout: Readout, dropped: int | None = None
    ) -> Sensitivity:
        after: dict[SiteKey, Tensor] = {}
        patterns: list[Tensor] = []
        stream = run.embedded.detach().clone().requires_grad_()
        for layer, block in enumerate(self.blocks):
            queries, keys, values = self._read(run, layer, stream)
            patterns.append(block.attention.pattern(queries, keys))
            moved = patterns[-1] @ block.attention.of_each(values, queries.shape[1])
            heads = block.write["heads"](moved.transpose(1, 2).flatten(-2))
            between = stream + (heads.detach() if layer == dropped else heads)
            read = stream if self.parallel else between
            neurons = block.write["neurons"](block.mlp(block.mlp_norm(read)))
            stream = between + (neurons.detach() if layer == dropped else neurons)
            after["heads", layer] = stream if self.parallel else between
            after["neurons", layer] = stream
        metric = self._measure(stream[:, -1], readout)
        points = {site: of for site, of in after.items() if site[1] != dropped}
        used = [pattern for layer, pattern in enumerate(patterns) if layer != dropped]
        found = iter(self.differentiate(metric, [*points.values(), *used]))
        written = {site: next(found) for site in points}
        return Sensitivity(
            {site: written.get(site, torch.zeros_like(run.embedded)) for site in after},
            [
                torch.zeros_like(pattern) if layer == dropped else next(found)
                for layer, pattern in enumerate(patterns)
            ],
        )

    def patterns(self, run: BaseRun, layer: int, change: Change) -> Pattern:
        before = run.embedded if layer == 0 else run.after["neurons", layer - 1]
        queries, keys, _ = self._read(run, layer, (before + change).flatten(0, -3))
        pattern = self.blocks[layer].attention.pattern(queries, keys)
        return pattern.unflatten(0, change.shape[:-2])

    def floats_kept(self, length: int, first: int) -> int:
        width, neurons = self._width, self.components("neurons")
        prefix, changed = 2 * first * width, (length - first) * (3 * width + neurons)
        return self.layers * (prefix + changed) + length * width + self.embedding.shape[0]

    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        d_model, columns = self.embedding.shape[1], readout.width(len(self.unembed.weight))
        block = self.floats_traced(length, first)
        read_out = (_OF_A_METRIC if readout.columns is None else d_model + 4) * columns
        if readout.normalised:
            read_out += 3 * _CHUNK + (2 * len(self.unembed.weight) if gradient else 0)
        return block * (self.layers if gradient else 1) + read_out

    def floats_traced(self, length: int, first: int) -> int:
        neurons, wide = self.components("neurons"), 5 if self.blocks[0].mlp.gated else 3
        return (length - first) * (10 * self._width + wide * neurons) + 4 * length * self._width

    @property
    def _width(self) -> int:
        """Of the stream or of all heads together, whichever is more."""
        heads = self.components("heads") * self.blocks[0].attention.size
        return max(self.embedding.shape[1], heads)

    def _embed(self, tokens: Int[Tensor, "prompt position"]) -> Stream:
        stream = self.embedding[tokens]
        return stream if self.positions is None else stream + self.positions[: tokens.shape[1]]

    def _walk(
        self,
        run: BaseRun,
        sites: list[SiteKey],
        stream: Stream,
        edit: Edit | None = None,
        last_only: bool = True,
    ) -> Iterator[Walked]:
        """Each site's activations, edited, and the stream after it, from the stream before it on.

        With `last_only` the last layer's are computed at the last position alone.
        """
        read = stream
        for site in sites:
            kind, layer = site
            if kind == "heads" or not self.parallel:
                read = stream
            at_last = last_only and layer == self.layers - 1
            activations = self._activate(run, site, read, at_last)
            if edit:
                activations = edit(site, activations)
            written = self.blocks[layer].write[kind](activations.flatten(-2))
            stream = stream[:, -written.shape[1] :] + written
            yield site, activations, stream

    def _end(
        self, run: BaseRun, sites: list[SiteKey], stream: Stream, edit: Edit | None = None
    ) -> Float[Tensor, "row d_model"]:
        """The stream after these sites, at the last position."""
        for walked in self._walk(run, sites, stream, edit):
            stream = walked[2]
        return stream[:, -1]

    def _activate(
        self, run: BaseRun, site: SiteKey, stream: Stream, last_only: bool
    ) -> Float[Tensor, "row to component size"]:
        """A site's activations when the stream that its block's part reads is this one."""
        block = self.blocks[site[1]]
        if site[0] == "neurons":
            stream = stream[:, -1:] if last_only else stream
            return block.mlp(block.mlp_norm(stream)).unsqueeze(-1)
        return block.attention.move(*self._read(run, site[1], stream, last_only))

    def _read(
        self, run: BaseRun, layer: int, stream: Stream, last_only: bool = False
    ) -> list[Float[Tensor, "row _ _ d_head"]]:
        """Queries, and the keys and values of all positions: rows share their prompts' earlier."""
        block = self.blocks[layer]
        queries, *here = block.attention.read(block.attention_norm(stream), run.first, last_only)
        return [queries] + [
            torch.cat([before.repeat(len(late) // len(before), 1, 1, 1), late], dim=2)
            for before, late in zip(run.prefix[layer], here, strict=True)
        ]

    def _measure(
        self, stream: Float[Tensor, "*batch prompt d_model"], readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric of the last position's stream, from the columns that it needs."""
        final = self.final_norm(stream)
        if readout.columns is None:
            return readout.read(self.unembed(final))
        logits = torch.einsum("...pd,pcd->...pc", final, self.unembed.weight[readout.columns])
        if self.unembed.bias is not None:
            logits = logits + self.unembed.bias[readout.columns]
        return readout.read(logits - self._log_normaliser(final) if readout.normalised else logits)

    def _log_normaliser(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """log Σ exp of all logits, by parts of the vocabulary that a processor's cache holds."""
        sums = []
        for start in range(0, len(self.unembed.weight), _CHUNK):
            some = slice(start, start + _CHUNK)
            bias = None if self.unembed.bias is None else self.unembed.bias[some]
            logits = functional.linear(final, self.unembed.weight[some], bias)
            sums.append(logits.logsumexp(dim=-1, keepdim=True))
        return torch.cat(sums, dim=-1).logsumexp(dim=-1, keepdim=True)


def _norm(weights: Weights, name: str, epsilon: float) -> Norm:
    return Norm(weights[f"{name}.w"], weights.get(f"{name}.b"), epsilon)


def _rotary(model: TransformerBridge) -> Rotary | None:
    """transformers' own angles of every position; None where positions are embedded."""
    if model.cfg.architecture == "GPT2LMHeadModel":
        return None
    like = next(model.parameters())[None, None, :1]
    positions = torch.arange(model.cfg.n_ctx, device=like.device)[None]
    cos, sin = model.rotary_emb.original_component(like, positions)
    return Rotary(cos[0], sin[0])


def _block(model: TransformerBridge, weights: Weights, layer: int, rotary: Rotary | None) -> Block:
    config = model.cfg
    here = f"blocks.{layer}."
    get = {
        name.removeprefix(here): weight for name, weight in weights.items() if name.startswith(here)
    }
    # TransformerLens repeats the keys and values that several heads share.
    each = config.n_heads // (config.n_key_value_heads or config.n_heads)
    query, key, value = (
        (
            get[f"attn.W_{part}"][::shared].transpose(0, 1).flatten(1),
            get[f"attn.b_{part}"][::shared].flatten(),
        )
        for part, shared in (("Q", 1), ("K", each), ("V", each))
    )
    attention = Attention(
        query=Affine(query),
        key_value=Affine(key, value),
        size=get["attn.W_Q"].shape[2],
        norms=_query_and_key_norms(model, layer),
        rotary=rotary,
        window=_window(model, layer),
    )
    reading = get["mlp.W_in"], get["mlp.b_in"]
    gated = "mlp.W_gate" in get
    gate = [(get["mlp.W_gate"], torch.zeros_like(get["mlp.b_in"]))] if gated else []
    return Block(
        attention_norm=_norm(get, "ln1", config.eps),
        attention=attention,
        mlp_norm=_norm(get, "ln2", config.eps),
        mlp=MLP(Affine(*gate, reading), gated, ACTIVATIONS[config.act_fn]),
        writes={"heads": get["attn.W_O"], "neurons": get["mlp.W_out"].unsqueeze(1)},
        write={
            "heads": Affine((get["attn.W_O"].flatten(0, 1), get["attn.b_O"])),
            "neurons": Affine((get["mlp.W_out"], get["mlp.b_out"])),
        },
    )


def _query_and_key_norms(model: TransformerBridge, layer: int) -> tuple[Norm, Norm] | None:
    """Qwen3's norms of each head's queries and keys, which TransformerLens has no name for."""
    attention: Any = model.blocks[layer].attn.original_component
    if not hasattr(attention, "q_norm"):
        return None
    query, key = (
        Norm(norm.weight.detach(), None, norm.variance_epsilon)
        for norm in (attention.q_norm, attention.k_norm)
    )
    return query, key


def _window(model: TransformerBridge, layer: int) -> int | None:
    """How far back a layer sees, itself included; None for everything.

    A configuration may name a window that its architecture has no use for.
    """
    config: Any = model.original_model.config
    if config.model_type not in _WINDOWED:
        return None
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        return window if types[layer] == "sliding_attention" else None
    return window
