"""Later components that a change reaches, and how far it moves them.

For a component d that a patched component c changes by δ_c a_d, and Δa_d its change to the source,

    norm ‖δ_c a_d‖, relative ‖δ_c a_d‖ / ‖Δa_d‖, projection ⟨δ_c a_d, Δa_d⟩ / ‖Δa_d‖²

over positions and dimensions. The projection is the fraction of the way to the source, negative
away from it. A head's activation is what it writes to the residual stream, in d_model; a neuron's
is its scalar. *Reach* counts relative changes over 5 %.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.attribution.parts import Part
from analysis.forward import Forward, Place

MEASURES = ("norm", "relative", "projection", "reach")
"""What is measured of a change: the first axis of `dense_effects`."""
REACHED = 0.05
"""The relative change above which a component counts as reached."""
# Below this share of its layer's median, ‖Δa‖ is too small to be a measure.
LEAST = 1e-4


@dataclass(frozen=True)
class Target:
    """One later layer's components in a part's base run, and their way to the source.

    Activations are in coordinates in which lengths are those of what a component writes.
    `per_length` is 1 / ‖Δa‖, and 0 where relative and projected values are not `defined`.
    """

    coordinates: Float[Tensor, "component size coordinate"] | None
    base: Float[Tensor, "prompt changed component coordinate"]
    along: Float[Tensor, "prompt changed component coordinate"]
    per_length: Float[Tensor, "prompt component"]

    @property
    def defined(self) -> Bool[Tensor, "prompt component"]:
        """Where ‖Δa‖ is at least `LEAST` of its layer's median, and not 0."""
        return self.per_length > 0

    def measure(
        self,
        activations: Float[Tensor, "source prompt changed component size"],
        changed: Bool[Tensor, "source prompt"],
    ) -> Float[Tensor, "measure source prompt component"]:
        """`MEASURES` of each component; 0 where undefined, and for sources that don't change."""
        change = _in_coordinates(activations, self.coordinates) - self.base
        # Squares and sums, because torch's norm over axes that are not the last is slow.
        norm = change.square().sum(dim=(2, 4)).sqrt() * changed[..., None]
        projection = (change * self.along).sum(dim=(2, 4)) * changed[..., None]
        relative = norm * self.per_length
        return torch.stack([norm, relative, projection, (relative > REACHED).to(norm)])


def coordinates_of(
    forward: Forward, place: Place
) -> Float[Tensor, "component size coordinate"] | None:
    """Coordinates of a head's z with the lengths and angles of z W_O; None for neurons.

    With W_Oᵀ = Q R, ‖z W_O‖ = ‖z Rᵀ‖: as many numbers as z has instead of d_model.
    """
    if place[0] == "neurons":
        return None
    return torch.linalg.qr(forward.writes(*place).transpose(1, 2), mode="r").R.transpose(1, 2)


def target_of(
    part: Part, place: Place, coordinates: Float[Tensor, "component size coordinate"] | None
) -> Target:
    """A part's target at one place; `coordinates` are those of `coordinates_of`."""
    base, source = (
        _in_coordinates(run.activations[place], coordinates) for run in (part.base, part.source)
    )
    way = source - base
    length = torch.linalg.vector_norm(way, dim=(1, 3))
    defined = (length >= LEAST * length.median(dim=1, keepdim=True).values) & (length > 0)
    per_length = torch.where(defined, 1 / length, 0.0)
    return Target(coordinates, base, way * (per_length**2)[:, None, :, None], per_length)


def _in_coordinates(
    activations: Float[Tensor, "*batch component size"],
    coordinates: Float[Tensor, "component size coordinate"] | None,
) -> Float[Tensor, "*batch component coordinate"]:
    if coordinates is None:
        return activations
    return torch.einsum("...cs,csx->...cx", activations, coordinates)
