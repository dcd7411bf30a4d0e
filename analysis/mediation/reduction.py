"""One source layer's effects on one kind's components, reduced batch by batch as they come."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.attribution.checkpoints import Unit
from analysis.mediation.targets import MEASURES


class Strongest(NamedTuple):
    """The largest values so far, largest first, and their places; 0 and -1 where there are none.

    Examples:
        >>> import torch
        >>> from analysis.mediation import Strongest
        >>> strongest = Strongest.none(2).merge(torch.tensor([0.3, 0.0, 0.9]), start=10)
        >>> strongest.values, strongest.places
        (tensor([0.9000, 0.3000]), tensor([12, 10]))
    """

    values: Float[Tensor, "*batch strongest"]
    places: Int[Tensor, "*batch strongest"]

    @classmethod
    def none(cls, *shape: int, device: torch.device | None = None) -> "Strongest":
        """Lists that nothing is in yet; the last axis is how many are kept."""
        return cls(
            torch.zeros(shape, device=device),
            torch.full(shape, -1, dtype=torch.long, device=device),
        )

    def merge(self, values: Float[Tensor, "*batch new"], start: int) -> "Strongest":
        """With more values, whose places count up from `start`."""
        count = self.values.shape[-1]
        best, index = torch.cat([self.values, values], dim=-1).topk(count, dim=-1)
        old = self.places.gather(-1, index.clamp(max=count - 1))
        places = torch.where(index < count, old, start + index - count)
        return Strongest(best, places.masked_fill(best == 0, -1))

    def join(self, other: "Strongest") -> "Strongest":
        """The largest of both."""
        values, places = (torch.cat(both, dim=-1) for both in zip(self, other, strict=True))
        best, index = values.topk(self.values.shape[-1], dim=-1)
        return Strongest(best, places.gather(-1, index))


class Reduction:
    """What is kept of the pairs of one layer's `sources` and the components of later layers.

    `rows` and `columns` are the sampled sources of this layer and the sampled targets of all.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        source_layer: int,
        strongest: int,
        rows: Int[Tensor, " row"],
        columns: Int[Tensor, " column"],
        device: torch.device,
    ):
        prompts, sources, layers, targets = shape
        self.first_place = source_layer * sources
        self.sources, self.targets = sources, targets
        self.rows, self.columns = rows, columns
        measures = len(MEASURES)
        self.by_source = torch.zeros(measures, prompts, sources, layers, device=device)
        self.by_target = torch.zeros(measures, prompts, layers, targets, device=device)
        self.block = torch.zeros(measures, prompts, len(rows), len(columns), device=device)
        self.strongest_targets = Strongest.none(prompts, sources, strongest, device=device)
        self.strongest_sources = [
            Strongest.none(prompts, targets, strongest, device=device) for _ in range(layers)
        ]

    def add(
        self, first: int, layer: int, measured: Float[Tensor, "measure source prompt target"]
    ) -> None:
        """Some sources, from the first on, and all components of a later layer."""
        batch = slice(first, first + measured.shape[1])
        self.by_source[:, :, batch, layer] = measured.sum(dim=3).transpose(1, 2)
        self.by_target[:, :, layer] += measured.sum(dim=1)
        relative = measured[MEASURES.index("relative")].transpose(0, 1)
        merged = Strongest(*(kept[:, batch] for kept in self.strongest_targets)).merge(
            relative, layer * self.targets
        )
        for kept, new in zip(self.strongest_targets, merged, strict=True):
            kept[:, batch] = new
        self.strongest_sources[layer] = self.strongest_sources[layer].merge(
            relative.transpose(1, 2), self.first_place + first
        )
        self._sample(batch, layer, measured)

    def unit(self, name: str) -> Unit:
        """Everything, on the CPU, with names that begin with `name`."""
        sources = [torch.stack(parts, dim=1) for parts in zip(*self.strongest_sources, strict=True)]
        unit = {
            "by_source": self.by_source,
            "by_target": self.by_target,
            "block": self.block,
            "strongest_targets": self.strongest_targets.values,
            "strongest_targets_places": self.strongest_targets.places,
            "strongest_sources": sources[0],
            "strongest_sources_places": sources[1],
        }
        return {f"{name}.{part}": values.cpu().contiguous() for part, values in unit.items()}

    def _sample(
        self, batch: slice, layer: int, measured: Float[Tensor, "measure source prompt target"]
    ) -> None:
        sources, targets = self.rows - self.first_place, self.columns - layer * self.targets
        rows = ((sources >= batch.start) & (sources < batch.stop)).nonzero()
        columns = ((targets >= 0) & (targets < self.targets)).nonzero()
        if len(rows) and len(columns):
            found = measured[:, sources[rows] - batch.start, :, targets[columns].T]
            self.block[:, :, rows, columns.T] = found.permute(2, 3, 0, 1)
