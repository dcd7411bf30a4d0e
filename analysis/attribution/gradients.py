"""The gradient in what a site writes, and its components' scores along it."""

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.forward import Forward
from analysis.sites import Site


def along(
    site: Site, gradient: Float[Tensor, "prompt changed d_model"]
) -> Float[Tensor, "prompt component"]:
    """Σ over positions and dimensions of Δa · ∂m/∂a, given the gradient in the residual stream."""
    along_writes = torch.einsum("ptd,csd->ptcs", gradient, site.writes)
    return (site.difference * along_writes).sum(dim=(1, 3))


def gradient(
    site: Site, changes: Float[Tensor, "*batch prompt changed d_model"]
) -> Float[Tensor, "*batch prompt changed d_model"]:
    """∂m/∂r after each of these changes of what the site writes."""
    with torch.enable_grad():
        points = changes.detach().requires_grad_()
        (gradients,) = Forward.differentiate(site.resume(points), [points])
    return gradients
