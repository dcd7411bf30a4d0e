"""What a forward engine does: run a model once, then resume that run with changes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.choices import KINDS, Kind
from analysis.metrics import Readout

SiteKey = tuple[Kind, int]  # a site, one layer's heads or neurons, by its kind and layer
# (prompt, changed, component, size) of every site, or one prompt's for all. The last axes have no
# names, as heads and neurons differ in number and size.
Activations = dict[SiteKey, Float[Tensor, "_ changed _ _"]]
Chosen = dict[Kind, Bool[Tensor, "set layer _"]]  # sets of components
Change = Float[Tensor, "*batch prompt changed d_model"]  # what a site writes more
Gradients = dict[SiteKey, Float[Tensor, "*batch prompt changed d_model"]]
_NOT_TAKEN_APART = (
    "Repairs need the exact engine, which does not know this model's architecture: it runs through "
    "hooks, so use repairs=()."
)
Traced = Iterator[tuple[SiteKey, Float[Tensor, "*batch prompt changed _ _"]]]

Pattern = Float[Tensor, "*batch prompt head changed position"]  # how much each attends to each


class Sensitivity(NamedTuple):
    """The metric's gradients in one run: after each site, and in each layer's attention pattern."""

    stream: Gradients
    patterns: list[Pattern]


class Forward(ABC):
    """A model's forward pass.

    Prompts of one call have one length. `first` is the first position that any change will touch:
    what lies before it stays as it is, so a run keeps nothing of it that only a change could need.
    """

    layers: int
    device: torch.device
    itemsize: int  # bytes of a number
    parallel: bool = False  # whether a layer's neurons read nothing of what its heads write

    @abstractmethod
    def writes(self, site: SiteKey) -> Float[Tensor, "component size d_model"]:
        """The writing weights: activation times these is what a component adds to the stream."""

    @abstractmethod
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> "BaseRun":
        """A base run, with everything that resuming it needs."""

    @abstractmethod
    def resume(
        self, run: "BaseRun", site: SiteKey, change: Change, readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric when a site writes `change` more, each of a batch; differentiable in it."""

    @abstractmethod
    def gradients(self, run: "BaseRun", change: Change, readout: Readout) -> Gradients:
        """∂m/∂r just after each site when the *embedding* writes `change` more, each of a batch.

        One forward and one backward pass for all sites. r is the residual stream, so this is the
        gradient in what the site writes. No change gives the gradients in the run itself.
        """

    def sensitivity(
        self, run: "BaseRun", readout: Readout, dropped: int | None = None
    ) -> Sensitivity:
        """∂m/∂r just after each site and ∂m/∂pattern of each layer, in the run as it is.

        The pass back leaves out what the `dropped` layer's attention and MLP add, so that the
        gradients at its own sites are 0. Only an engine that computes a model from its weights
        takes a model apart so far; another one refuses.
        """
        raise ValueError(_NOT_TAKEN_APART)

    def patterns(self, run: "BaseRun", layer: int, change: Change) -> Pattern:
        """A layer's attention patterns when the stream before it is `change` more.

        Differentiable in the change; refused as `sensitivity` is.
        """
        raise ValueError(_NOT_TAKEN_APART)

    @abstractmethod
    def trace(self, run: "BaseRun", site: SiteKey, change: Change) -> Traced:
        """Every later site's activations then, in the order in which they are computed."""

    @abstractmethod
    def replace(
        self, run: "BaseRun", values: Activations, chosen: Chosen, readout: Readout
    ) -> Float[Tensor, "set prompt"]:
        """The metric when all components of a set take these values together, for each set."""

    @abstractmethod
    def floats_kept(self, length: int, first: int) -> int:
        """A bound on the numbers that a run of one prompt keeps when it is done."""

    @abstractmethod
    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        """A bound on the numbers held while one prompt is resumed with one change."""

    @abstractmethod
    def floats_traced(self, length: int, first: int) -> int:
        """A bound on the numbers held while one prompt is traced with one change."""

    @staticmethod
    def differentiate(metric: Tensor, points: list[Tensor]) -> list[Tensor]:
        """The metric's gradient at each of these points; refuses a metric that has none."""
        if not metric.requires_grad:
            raise ValueError(
                "The metric has no gradient, which gradient methods need: use one without "
                "rounding, comparing or choosing, or activation_patching."
            )
        return list(torch.autograd.grad(metric.sum(), points))

    @staticmethod
    def replaced(
        activations: Float[Tensor, "row position component size"],
        values: Float[Tensor, "_ changed component size"],
        chosen: Bool[Tensor, "set component"] | None,
    ) -> Float[Tensor, "row position component size"]:
        """Activations with each set's components at their values; rows are sets × prompts.

        Where only the last positions are computed, the values' last ones are taken.
        """
        if chosen is None:
            return activations
        by_set = activations.unflatten(0, (len(chosen), -1))
        latest = values[:, -activations.shape[1] :]
        return torch.where(chosen[:, None, None, :, None], latest, by_set).flatten(0, 1)

    def components(self, kind: Kind) -> int:
        """How many heads or neurons a layer has."""
        return len(self.writes((kind, 0)))

    def sites(self) -> list[SiteKey]:
        """Every layer's heads and neurons, in the order in which they are computed."""
        return [(kind, layer) for layer in range(self.layers) for kind in KINDS]

    def sites_after(self, site: SiteKey) -> list[SiteKey]:
        """Those that a site can change: of its own layer, the neurons after heads in sequence."""
        later = self.sites()[self.sites().index(site) + 1 :]
        return [other for other in later if not (self.parallel and other[1] == site[1])]


@dataclass(frozen=True)
class BaseRun:
    """The run being changed, from its position `first` on.

    `activations` holds each site's activations, `logits` those at the last token and `embedded` the
    residual stream before the first layer. An engine may keep `after`, the stream just after each
    site, and a `prefix` of the earlier positions.
    """

    forward: Forward
    tokens: Int[Tensor, "prompt position"]
    first: int
    activations: Activations
    logits: Float[Tensor, "prompt vocabulary"]
    embedded: Float[Tensor, "prompt changed d_model"]
    after: dict[SiteKey, Float[Tensor, "prompt changed d_model"]] = field(default_factory=dict)
    prefix: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def select(self, prompts: list[int]) -> "BaseRun":
        """The same run of some of its prompts, by their rows."""
        return replace(
            self,
            tokens=self.tokens[prompts],
            activations={site: values[prompts] for site, values in self.activations.items()},
            logits=self.logits[prompts],
            embedded=self.embedded[prompts],
            after={site: stream[prompts] for site, stream in self.after.items()},
            prefix=[(keys[prompts], values[prompts]) for keys, values in self.prefix],
        )
