"""What a forward engine does: run a model once, then resume that run with changes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.choices import KINDS
from analysis.metrics import Readout

# A layer's heads or neurons, by kind and layer.
Place = tuple[str, int]

# Activations (prompt, changed, component, size) of every (kind, layer), and sets of components
# (set, layer, component) by kind. One prompt's activations may stand for all. The kinds differ in
# their numbers of components, so axes have no names.
Activations = dict[Place, Float[Tensor, "_ _ _ _"]]
Chosen = dict[str, Bool[Tensor, "_ _ _"]]


class Forward(ABC):
    """A model's forward pass.

    Prompts of one call have one length. `first` is the first position that any change will touch:
    what lies before it stays as it is, so a run keeps nothing of it that only a change could need.
    """

    layers: int
    device: torch.device
    itemsize: int  # bytes of a number

    @abstractmethod
    def writes(self, kind: str, layer: int) -> Float[Tensor, "component size d_model"]:
        """The writing weights: activation times these is what a component adds to the stream."""

    @abstractmethod
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> "BaseRun":
        """A base run, with everything that resuming it needs."""

    @abstractmethod
    def resume(
        self,
        run: "BaseRun",
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "*batch prompt column"]:
        """What `BaseRun.resume` returns."""

    @abstractmethod
    def trace(
        self,
        run: "BaseRun",
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
    ) -> Iterator[tuple[Place, Float[Tensor, "*batch prompt changed component size"]]]:
        """What `BaseRun.trace` yields."""

    @abstractmethod
    def replace(
        self,
        run: "BaseRun",
        values: Activations,
        chosen: Chosen,
        columns: Int[Tensor, "prompt column"] | None,
        normalised: bool,
    ) -> Float[Tensor, "set prompt column"]:
        """What `BaseRun.replace` returns."""

    @abstractmethod
    def floats_kept(self, length: int, first: int) -> int:
        """A bound on the numbers that a run of one prompt keeps when it is done."""

    @abstractmethod
    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        """A bound on the numbers held while one prompt is resumed with one change."""

    @abstractmethod
    def floats_traced(self, length: int, first: int) -> int:
        """A bound on the numbers held while one prompt is traced with one change."""

    def components(self, kind: str) -> int:
        """How many heads or neurons a layer has."""
        return len(self.writes(kind, 0))

    def places(self) -> list[Place]:
        """Every layer's heads and neurons, in the order in which they are computed."""
        return [(kind, layer) for layer in range(self.layers) for kind in KINDS]

    def places_after(self, kind: str, layer: int) -> list[Place]:
        """Those that a layer's heads or neurons can change: neurons come after their own heads."""
        places = self.places()
        return places[places.index((kind, layer)) + 1 :]


@dataclass(frozen=True)
class BaseRun:
    """The run being changed, from its position `first` on.

    `activations` holds each site's activations, `after` the residual stream just after them and
    `logits` those at the last token. `prefix` is what an engine keeps of the earlier positions.
    """

    forward: Forward
    tokens: Int[Tensor, "prompt position"]
    first: int
    activations: Activations
    after: dict[Place, Float[Tensor, "prompt changed d_model"]]
    logits: Float[Tensor, "prompt vocabulary"]
    prefix: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def resume(
        self,
        kind: str,
        layer: int,
        change: Float[Tensor, "*batch prompt changed d_model"],
        columns: Int[Tensor, "prompt column"] | None = None,
        normalised: bool = False,
    ) -> Float[Tensor, "*batch prompt column"]:
        """The last token's logits when a layer's heads or neurons write `change` more.

        Any number of changes, each of all prompts, at once; differentiable in `change`. `columns`
        are the tokens whose logits are wanted for each prompt, None for the whole vocabulary;
        `normalised` gives log-probabilities in place of logits.
        """
        return self.forward.resume(self, kind, layer, change, columns, normalised)

    def trace(
        self, kind: str, layer: int, change: Float[Tensor, "*batch prompt changed d_model"]
    ) -> Iterator[tuple[Place, Float[Tensor, "*batch prompt changed component size"]]]:
        """Every later layer's heads and neurons when a layer's write `change` more.

        Any number of changes, each of all prompts, at once; all changed positions, one place after
        the other in the order in which they are computed. No gradient is kept.
        """
        return self.forward.trace(self, kind, layer, change)

    def replace(
        self,
        values: Activations,
        chosen: Chosen,
        columns: Int[Tensor, "prompt column"] | None = None,
        normalised: bool = False,
    ) -> Float[Tensor, "set prompt column"]:
        """The last token's logits when all chosen components take these values together.

        Any number of sets of components at once; a kind that `chosen` lacks stays as it is.
        """
        return self.forward.replace(self, values, chosen, columns, normalised)


def replaced(
    activations: Float[Tensor, "row position component size"],
    values: Float[Tensor, "_ changed component size"],
    chosen: Bool[Tensor, "set layer component"] | None,
    layer: int,
) -> Float[Tensor, "row position component size"]:
    """A layer's activations with each set's components at their values; rows are sets × prompts.

    Where only the last positions are computed, the values' last ones are taken.
    """
    if chosen is None:
        return activations
    by_set = activations.unflatten(0, (len(chosen), -1))
    latest = values[:, -activations.shape[1] :]
    return torch.where(chosen[:, layer, None, None, :, None], latest, by_set).flatten(0, 1)
