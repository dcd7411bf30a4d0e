"""Attribution patching (Nanda 2023): activation patching to first order.

A component acts on what follows only by what it writes to the residual stream, r = a W. So the
gradient is taken there, and Δa · ∂m/∂a = (Δa W) · ∂m/∂r.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.choices import KINDS, Baseline, Direction, Kind
from analysis.forward import Forward
from analysis.scores import Scores
from analysis.sites import MEMORY, Site
from analysis.sweep import Method, sweep
from analysis.tasks import PromptPairs


def attribution_patching(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    kinds: tuple[Kind, ...] = KINDS,
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> Scores:
    """Each head's and neuron's effect to first order: one gradient per layer and kind.

    attribution(c) = Σ over positions and dimensions of Δa · ∂m/∂a (base), in the metric's units:
    `integrated_gradients` with one step at the left end of its path. The arguments, and what is
    raised, are those of `activation_patching`.

    Examples:
        >>> from analysis import attribution_patching, load_model, load_task
        >>> model = load_model("testbed")
        >>> atp = attribution_patching(model, load_task("ioi", model, n=2))
        >>> atp.heads.shape, atp.neurons.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 4, 768]))
    """
    method = Method("AtP", differentiate, runs=lambda components: 1)
    return sweep(method, model, pairs, direction, baseline, kinds, memory, progress, checkpoints)


def differentiate(site: Site) -> Float[Tensor, "prompt component"]:
    """Every component of a site by the gradient at the base."""
    return along(site, gradient(site, torch.zeros_like(site.joint_change())))


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
