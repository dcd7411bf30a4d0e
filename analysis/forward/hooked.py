"""The general engine: any decoder that TransformerLens's bridge runs, through its hooks.

Every resumed run is a whole forward pass, so it is slow; it exists so that models with rotary
positions, gated MLPs or other norms have the same methods and the same numbers. A change is added
where components write, at their output projection, and what follows is the model's own.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import ParallelBlockBridge

from analysis.forward.engine import KINDS, Activations, BaseRun, Chosen, Forward, Place, replaced
from analysis.forward.projections import (
    activations_hook,
    projection_hooks,
    read_projections,
    run_through_projections,
    written_hook,
)
from analysis.metrics import Readout

Hook = tuple[str | Callable, Callable]  # as the bridge declares it

_STREAMS = ("blocks.{}.hook_in", "blocks.{}.hook_out")


class HookedForward(Forward):
    """A model's own forward pass, changed by hooks.

    A model may lack one kind of component, as a mixture of experts lacks neurons: a run then holds
    the other one, and `writes` says why.

    Raises:
        ValueError: where a model has neither heads nor neurons, as a state-space model, or reads
            from both sides.
    """

    def __init__(self, model: TransformerBridge):
        self.model, self.layers = model, model.cfg.n_layers
        parameter = next(model.parameters())
        self.device, self.itemsize = parameter.device, parameter.itemsize
        self._weights, self._missing = read_projections(model)

    def writes(self, kind: str, layer: int) -> Float[Tensor, "component size d_model"]:
        if kind in self._missing:
            raise ValueError(self._missing[kind])
        return self._weights[kind, layer]

    def places(self) -> list[Place]:
        return [place for place in super().places() if place in self._weights]

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        streams = {name.format(layer) for name in _STREAMS for layer in range(self.layers)}
        logits, cache = self._run_with_cache(tokens, projection_hooks(self.places()) | streams)
        activations = {
            place: self._by_component(place, cache[activations_hook(place)])[:, first:].clone()
            for place in self.places()
        }
        after = {place: stream[:, first:].clone() for place, stream in self._streams(cache)}
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
        tokens = run.tokens.repeat(change.shape[:-3].numel(), 1)
        logits = self._logits(tokens, [_adding(run, (kind, layer), change)])
        return _columns(logits.unflatten(0, change.shape[:-2]), columns, normalised)

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
        tokens = run.tokens.repeat(change.shape[:-3].numel(), 1)
        with self.model.hooks(fwd_hooks=[_adding(run, (kind, layer), change)]):
            _, cache = self._run_with_cache(tokens, {activations_hook(place) for place in later})
        for place in later:
            late = self._by_component(place, cache[activations_hook(place)])[:, run.first :]
            yield place, late.unflatten(0, change.shape[:-2])

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

        def hook_for(kind: str, layer: int) -> Hook:
            place = kind, layer
            self.writes(*place)  # or the sentence that says why there are none

            def edit(activations: Tensor, hook: object) -> Tensor:
                shaped = self._by_component(place, activations)
                late = replaced(shaped[:, run.first :], values[place], chosen[kind], layer)
                return torch.cat([shaped[:, : run.first], late], dim=1).view_as(activations)

            return activations_hook(place), edit

        hooks = [hook_for(kind, layer) for kind in chosen for layer in range(self.layers)]
        logits = self._logits(run.tokens.repeat(sets, 1), hooks)
        return _columns(logits.unflatten(0, (sets, -1)), columns, normalised)

    def floats_kept(self, length: int, first: int) -> int:
        d_model, neurons = self._widths()
        return length * (self.layers * (8 * d_model + 2 * neurons) + self.model.cfg.d_vocab)

    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        d_model, neurons = self._widths()
        block = length * (12 * d_model + 6 * neurons)
        return block * (self.layers if gradient else 1) + 3 * length * self.model.cfg.d_vocab

    def floats_traced(self, length: int, first: int) -> int:
        d_model, neurons = self._widths()
        block = length * (12 * d_model + 6 * neurons)
        kept = self.layers * length * (2 * d_model + neurons)
        return block + kept + length * self.model.cfg.d_vocab

    def _widths(self) -> tuple[int, int]:
        """A token's numbers in the residual stream, and in an MLP or its active experts."""
        config = self.model.cfg
        if "neurons" not in self._missing:
            return config.d_model, self.components("neurons")
        expert, experts = config.d_mlp or 4 * config.d_model, config.experts_per_token or 1
        return config.d_model, experts * expert

    def _logits(
        self, tokens: Int[Tensor, "row position"], hooks: list[Hook]
    ) -> Float[Tensor, "row vocabulary"]:
        """The last token's."""
        with run_through_projections(self.model):
            return self.model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]

    def _run_with_cache(
        self, tokens: Int[Tensor, "row position"], names: set[str]
    ) -> tuple[Float[Tensor, "row position vocabulary"], ActivationCache]:
        with run_through_projections(self.model):
            return self.model.run_with_cache(tokens, names_filter=lambda name: name in names)

    def _by_component(
        self, place: Place, activations: Float[Tensor, "row position *_"]
    ) -> Float[Tensor, "row position component size"]:
        """What enters a projection, flat or by head, as its components' activations."""
        return activations.reshape(*activations.shape[:2], *self._weights[place].shape[:2])

    def _streams(
        self, cache: ActivationCache
    ) -> Iterator[tuple[Place, Float[Tensor, "prompt position d_model"]]]:
        """The residual stream after each place, in layers that only add to it.

        With a norm after the attention or the MLP there is none that a change is added to, and
        what heads add beside an MLP is not the stream that this MLP reads.
        """
        for layer in range(self.layers):
            ends = [name.format(layer) for name in _STREAMS]
            if self._missing or not all(name in cache for name in ends):
                continue
            before, after = (cache[name] for name in ends)
            heads, neurons = (cache[written_hook((kind, layer))] for kind in KINDS)
            if not _close(after, before + heads + neurons):
                continue
            if not isinstance(self.model.blocks[layer], ParallelBlockBridge):
                yield ("heads", layer), before + heads
            yield ("neurons", layer), after


def _adding(
    run: BaseRun, place: Place, change: Float[Tensor, "*batch prompt changed d_model"]
) -> Hook:
    """A hook that lets a layer's heads or neurons write `change` more."""
    added = functional.pad(change.flatten(0, -3), (0, 0, run.first, 0))

    def add(written: Tensor, hook: object) -> Tensor:
        return written + added

    return written_hook(place), add


def _columns(
    logits: Float[Tensor, "*batch prompt vocabulary"],
    columns: Int[Tensor, "prompt column"] | None,
    normalised: bool,
) -> Float[Tensor, "*batch prompt column"]:
    values = logits.log_softmax(dim=-1) if normalised else logits
    return values if columns is None else values.gather(-1, columns.expand(*values.shape[:-1], -1))


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())
