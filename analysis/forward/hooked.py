"""The general engine: any decoder that TransformerLens's bridge runs, through its hooks.

Every resumed run is a whole forward pass, so it is slow; it exists so that models with rotary
positions, gated MLPs or other norms have the same methods and the same numbers.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward.engine import Activations, BaseRun, Chosen, Forward, Place, replaced
from analysis.metrics import Readout

ACTIVATIONS = {"heads": "blocks.{}.attn.hook_z", "neurons": "blocks.{}.mlp.hook_post"}
WRITTEN = {"heads": "blocks.{}.hook_attn_out", "neurons": "blocks.{}.hook_mlp_out"}
STREAMS = ("blocks.{}.hook_resid_pre", "blocks.{}.hook_attn_out", "blocks.{}.hook_resid_post")


class HookedForward(Forward):
    """A model's own forward pass, changed by hooks.

    Raises:
        ValueError: where a layer's output is not the sum of what its components write, as with a
            norm after the attention, because then a component has no writing weights.
    """

    def __init__(self, model: TransformerBridge):
        self.model = model
        self.layers = model.cfg.n_layers
        self.weights = {name: weight.detach() for name, weight in model.tl_named_parameters()}
        embedding = self.weights["embed.W_E"]
        self.device, self.itemsize = embedding.device, embedding.itemsize

    def writes(self, kind: str, layer: int) -> Float[Tensor, "component size d_model"]:
        if kind == "heads":
            return self.weights[f"blocks.{layer}.attn.W_O"]
        return self.weights[f"blocks.{layer}.mlp.W_out"].unsqueeze(1)

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        names = [*ACTIVATIONS.values(), *WRITTEN.values(), *STREAMS]
        wanted = {name.format(layer) for name in names for layer in range(self.layers)}
        logits, cache = self.model.run_with_cache(tokens, names_filter=lambda name: name in wanted)
        activations: dict[tuple[str, int], Tensor] = {}
        after: dict[tuple[str, int], Tensor] = {}
        for layer in range(self.layers):
            before, attention, whole = (
                cache[name.format(layer)][:, first:].clone() for name in STREAMS
            )
            after["heads", layer], after["neurons", layer] = before + attention, whole
            for kind, name in ACTIVATIONS.items():
                values = cache[name.format(layer)][:, first:].clone()
                activations[kind, layer] = values if kind == "heads" else values.unsqueeze(-1)
                self._check_writes(kind, layer, cache)
        return BaseRun(self, tokens, first, activations, after, logits[:, -1].clone())

    def resume(
        self,
        run: BaseRun,
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "*batch prompt column"]:
        logits = self.model.run_with_hooks(
            run.tokens.repeat(change.shape[:-3].numel(), 1),
            fwd_hooks=[_adding(run, kind, layer, change)],
        )
        return _columns(logits[:, -1].unflatten(0, change.shape[:-2]), columns, normalised)

    @torch.no_grad()
    def trace(
        self,
        run: BaseRun,
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
    ) -> Iterator[tuple[Place, Float[Tensor, "*batch prompt changed component size"]]]:
        """All places are kept until the last is yielded: the run is one."""
        later = self.places_after(kind, layer)
        wanted = {ACTIVATIONS[kind].format(layer) for kind, layer in later}
        with self.model.hooks(fwd_hooks=[_adding(run, kind, layer, change)]):
            _, cache = self.model.run_with_cache(
                run.tokens.repeat(change.shape[:-3].numel(), 1),
                names_filter=lambda name: name in wanted,
            )
        for place in later:
            late = cache[ACTIVATIONS[place[0]].format(place[1])][:, run.first :]
            shaped = late.reshape(*late.shape[:2], -1, self._size(place[0]))
            yield place, shaped.unflatten(0, change.shape[:-2])

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

        def hook_for(kind: str, layer: int) -> tuple[str, Callable]:
            def edit(activations: Tensor, hook: object) -> Tensor:
                shaped = activations.reshape(*activations.shape[:2], -1, self._size(kind))
                late = shaped[:, run.first :]
                late = replaced(late, values[kind, layer], chosen[kind], layer)
                return torch.cat([shaped[:, : run.first], late], dim=1).view_as(activations)

            return ACTIVATIONS[kind].format(layer), edit

        logits = self.model.run_with_hooks(
            run.tokens.repeat(sets, 1),
            fwd_hooks=[hook_for(kind, layer) for kind in chosen for layer in range(self.layers)],
        )
        return _columns(logits[:, -1].unflatten(0, (sets, -1)), columns, normalised)

    def floats_kept(self, length: int, first: int) -> int:
        d_model, neurons = self._widths()
        return length * (self.layers * (8 * d_model + 2 * neurons) + self._vocabulary())

    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        d_model, neurons = self._widths()
        block = length * (12 * d_model + 6 * neurons)
        return block * (self.layers if gradient else 1) + 3 * length * self._vocabulary()

    def floats_traced(self, length: int, first: int) -> int:
        d_model, neurons = self._widths()
        block = length * (12 * d_model + 6 * neurons)
        kept = self.layers * length * (2 * d_model + neurons)
        return block + kept + length * self._vocabulary()

    def _check_writes(self, kind: str, layer: int, cache: ActivationCache) -> None:
        """Differences between positions, so that no bias matters."""
        activations = cache[ACTIVATIONS[kind].format(layer)]
        written = cache[WRITTEN[kind].format(layer)]
        values = activations if kind == "heads" else activations.unsqueeze(-1)
        expected = torch.einsum("ptcs,csd->ptd", values, self.writes(kind, layer))
        gap = written - expected
        gap = gap - gap[:, :1]
        if gap.abs().max() > 1e-3 * written.abs().max():
            raise ValueError(
                f"The {kind} of layer {layer} don't write straight to the residual stream of "
                f"{self.model.cfg.architecture}: this project can't patch one of them alone."
            )

    def _size(self, kind: str) -> int:
        return self.writes(kind, 0).shape[1]

    def _widths(self) -> tuple[int, int]:
        return self.weights["embed.W_E"].shape[1], self.components("neurons")

    def _vocabulary(self) -> int:
        return self.weights["unembed.W_U"].shape[1]


def _adding(
    run: BaseRun, kind: str, layer: int, change: Float[Tensor, "*batch prompt changed d_model"]
) -> tuple[str, Callable]:
    """A hook that lets a layer's heads or neurons write `change` more."""
    added = functional.pad(change.flatten(0, -3), (0, 0, run.first, 0))

    def add(written: Tensor, hook: object) -> Tensor:
        return written + added

    return WRITTEN[kind].format(layer), add


def _columns(
    logits: Float[Tensor, "*batch prompt vocabulary"],
    columns: Int[Tensor, "prompt column"] | None,
    normalised: bool,
) -> Float[Tensor, "*batch prompt column"]:
    values = logits.log_softmax(dim=-1) if normalised else logits
    return values if columns is None else values.gather(-1, columns.expand(*values.shape[:-1], -1))
