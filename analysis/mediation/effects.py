"""Effects of all components of a kind on all later ones, as sums and lists of the strongest."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.attribution.checkpoints import Unit
from analysis.forward import Forward
from analysis.mediation.reduction import Strongest
from analysis.mediation.targets import MEASURES


@dataclass(frozen=True)
class Effects:
    """Effects of all components of one kind on all later ones of a kind, float32 on the CPU.

    `by_source` holds each source's sums over a later layer's components, `by_target` each
    target's sums over a source layer's; their first axis is `MEASURES`: norm, relative,
    projection, and reach, the number of relative changes over 5 %. Where relative and projected
    values are not `defined` they are left out. `strongest_targets` and `strongest_sources` are the
    largest relative changes, at places `layer * components + component`. `block` has every pair of
    the `sampled` places, its relative and projected values NaN where undefined. What is not later
    is not changed: 0.

    The nearest layer of targets is the next one, and from heads to neurons the sources' own.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import component_effects
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)
        >>> effects = component_effects(model, pairs, "heads", ("heads",), strongest=3)["heads"]

        How many of the 24 later heads each head of the first layer changes by more than 5 %:

        >>> effects.of_sources("reach")[0, 0].tolist()
        [8.0, 24.0, 23.0, 21.0, 22.0, 10.0, 20.0, 24.0]
        >>> effects.strongest_targets.places.shape
        torch.Size([2, 4, 8, 3])
    """

    source: str
    target: str
    by_source: Float[Tensor, "measure prompt layer source later_layer"]
    by_target: Float[Tensor, "measure prompt layer later_layer target"]
    defined: Bool[Tensor, "prompt later_layer target"]
    strongest_targets: Strongest
    strongest_sources: Strongest
    sampled_sources: Int[Tensor, " sampled_source"]
    sampled_targets: Int[Tensor, " sampled_target"]
    block: Float[Tensor, "measure prompt sampled_source sampled_target"]

    def of_sources(
        self, measure: str, nearest: bool = False
    ) -> Float[Tensor, "prompt layer source"]:
        """Each source's mean over its defined targets; for `reach`, how many it reaches.

        `norm` is a mean over all its targets. NaN where there are none.
        """
        scope = self._scope(nearest)
        sums = (self._sums(self.by_source, measure) * scope[:, None]).sum(dim=3)
        counts = torch.einsum("ml,pl->pm", scope, self._counted(measure).sum(dim=2))
        return sums if measure == "reach" else _mean(sums, counts[:, :, None])

    def of_targets(
        self, measure: str, nearest: bool = False
    ) -> Float[Tensor, "prompt later_layer target"]:
        """Each target's mean over its sources; for `reach`, how many reach it.

        NaN where it is not defined, or has no sources.
        """
        scope = self._scope(nearest)
        sums = (self._sums(self.by_target, measure) * scope[:, :, None]).sum(dim=1)
        sources = scope.sum(dim=0) * self.by_source.shape[3]
        counts = sources[:, None] * self._counted(measure)
        return sums if measure == "reach" else _mean(sums, counts)

    def of_layers(self, measure: str) -> Float[Tensor, "prompt layer later_layer"]:
        """The mean over the pairs of two layers, NaN if there are none; for `reach`, how many."""
        sums = self._sums(self.by_source, measure).sum(dim=2)
        targets = self._counted(measure).sum(dim=2)[:, None] * self._scope(nearest=False)
        return sums if measure == "reach" else _mean(sums, targets * self.by_source.shape[3])

    def undefined(self, nearest: bool = False) -> Int[Tensor, "prompt layer"]:
        """How many targets of each source of a layer have no relative value."""
        missing = (~self.defined).sum(dim=2).float()
        return torch.einsum("ml,pl->pm", self._scope(nearest), missing).long()

    def _scope(self, nearest: bool) -> Float[Tensor, "layer later_layer"]:
        layers = torch.arange(self.by_source.shape[2])
        apart = layers - layers[:, None]
        least = 0 if (self.source, self.target) == ("heads", "neurons") else 1
        return (apart == least if nearest else apart >= least).float()

    def _sums(self, values: Float[Tensor, "_ *rest"], measure: str) -> Float[Tensor, "*rest"]:
        if measure not in MEASURES:
            expected = ", ".join(MEASURES)
            raise ValueError(f"There is no measure {measure!r}: expected one of {expected}.")
        return values[MEASURES.index(measure)]

    def _counted(self, measure: str) -> Float[Tensor, "prompt later_layer target"]:
        """A norm needs nothing to be divided by."""
        return (torch.ones_like(self.defined) if measure == "norm" else self.defined).float()


class Collector:
    """Units as they come in, at their prompts' places."""

    def __init__(
        self,
        forward: Forward,
        prompts: int,
        kinds: tuple[str, str],
        strongest: int,
        sampled: dict[str, Int[Tensor, " sampled"]],
    ):
        layers, measures = forward.layers, len(MEASURES)
        sources, targets = (forward.components(kind) for kind in kinds)
        rows, columns = (sampled[kind] for kind in kinds)
        self.kinds, self.rows, self.columns, self.sources = kinds, rows, columns, sources
        self.by_source = torch.zeros(measures, prompts, layers, sources, layers)
        self.by_target = torch.zeros(measures, prompts, layers, layers, targets)
        self.block = torch.zeros(measures, prompts, len(rows), len(columns))
        self.defined = torch.zeros(prompts, layers, targets, dtype=torch.bool)
        self.strongest_targets = Strongest.none(prompts, layers, sources, strongest)
        self.strongest_sources = Strongest.none(prompts, layers, targets, strongest)

    def rows_of(self, layer: int) -> Bool[Tensor, " sampled"]:
        """Which sampled sources are of this layer."""
        return self.rows // self.sources == layer

    def add(self, layer: int, prompts: Int[Tensor, " prompt"], unit: Unit) -> None:
        """A source layer's reduction."""
        found = {
            name.removeprefix(f"{self.kinds[1]}."): values
            for name, values in unit.items()
            if name.startswith(self.kinds[1])
        }
        self.by_source[:, prompts, layer] = found["by_source"]
        self.by_target[:, prompts, layer] = found["by_target"]
        rows = self.rows_of(layer).nonzero()
        self.block[:, prompts[:, None, None], rows, torch.arange(len(self.columns))] = found[
            "block"
        ]
        self.strongest_targets.values[prompts, layer] = found["strongest_targets"]
        self.strongest_targets.places[prompts, layer] = found["strongest_targets_places"]
        here = Strongest(found["strongest_sources"], found["strongest_sources_places"])
        kept = Strongest(*(part[prompts] for part in self.strongest_sources))
        for part, joined in zip(self.strongest_sources, kept.join(here), strict=True):
            part[prompts] = joined

    def effects(self) -> Effects:
        """Everything, when all units are in."""
        undefined = ~self.defined.flatten(1)[:, self.columns]
        for measure in ("relative", "projection"):
            self.block[MEASURES.index(measure)].masked_fill_(undefined[:, None], torch.nan)
        return Effects(
            *self.kinds,
            by_source=self.by_source,
            by_target=self.by_target,
            defined=self.defined,
            strongest_targets=self.strongest_targets,
            strongest_sources=self.strongest_sources,
            sampled_sources=self.rows,
            sampled_targets=self.columns,
            block=self.block,
        )


def _mean(
    sums: Float[Tensor, "*batch component"], counts: Float[Tensor, "*batch #component"]
) -> Float[Tensor, "*batch component"]:
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.nan)
