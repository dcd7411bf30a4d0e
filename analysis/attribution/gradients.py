"""The gradient in what a site writes, and its components' scores along it."""

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.forward import Forward
from analysis.sites import Site


def along(
    site: Site,
    gradient: Float[Tensor, "*batch some changed d_model"],
    prompts: list[int] | None = None,
) -> Float[Tensor, "*batch some component"]:
    """Σ over positions and dimensions of Δa · ∂m/∂a, given the gradient in the residual stream."""
    difference = site.difference if prompts is None else site.difference[prompts]
    along_writes = torch.einsum("...ptd,csd->...ptcs", gradient, site.writes)
    return (difference * along_writes).sum(dim=(-3, -1))


def gradient(
    site: Site,
    changes: Float[Tensor, "*batch some changed d_model"],
    prompts: list[int] | None = None,
) -> tuple[Float[Tensor, "*batch some changed d_model"], Float[Tensor, "*batch some"]]:
    """∂m/∂r after each of these changes of what the site writes, and m itself there.

    Changes are of all prompts, or of some by their rows.
    """
    with torch.enable_grad():
        points = changes.detach().requires_grad_()
        metric = site.resume(points, prompts)
        (gradients,) = Forward.differentiate(metric, [points])
    return gradients, metric.detach()
