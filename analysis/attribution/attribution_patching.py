"""Attribution patching (Nanda 2023): activation patching to first order.

A component acts on what follows only by what it writes to the residual stream, r = a W. So the
gradient is taken there, and Δa · ∂m/∂a = (Δa W) · ∂m/∂r.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import one_of
from analysis.choices import ENDS, KINDS, Baseline, Direction, Ends, Kind
from analysis.forward import Forward
from analysis.scores import Scores
from analysis.sites import MEMORY, Part, Site
from analysis.sweep import Method, Scorer, sweep
from analysis.tasks import PromptPairs


def attribution_patching(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    kinds: tuple[Kind, ...] = KINDS,
    ends: Ends = "base",
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> Scores:
    """Each head's and neuron's effect to first order, from one gradient for all of them.

    attribution(c) = Σ over positions and dimensions of Δa · ∂m/∂a, in the metric's units. On each
    prompt it takes both runs, a third with a graph, and one pass back.

    Args:
        ends: where the gradient is taken. `base` is the base run: `integrated_gradients` with one
            step at the left end of its path. `both` is the mean of the path's two ends, the base
            run and that run with the layer at the baseline: the trapezoid rule in two steps. The
            second end is another run for each layer and kind, so it takes a pass for each.

    The other arguments, and what is raised, are those of `activation_patching`. Gaps are NaN, as
    measuring them takes a run for each layer and kind, which `integrated_gradients` does.

    Examples:
        >>> from analysis import attribution_patching, load_model, load_task
        >>> model = load_model("testbed")
        >>> atp = attribution_patching(model, load_task("ioi", model, n=2))
        >>> atp.heads.shape, atp.neurons.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 4, 768]))
    """
    one_of("ends", ends, ENDS)
    method = Method(
        "AtP" if ends == "base" else "AtP at both ends",
        differentiate if ends == "base" else differentiate_at_both_ends,
        runs=lambda components: 1,
        gaps=False,
    )
    return sweep(method, model, pairs, direction, baseline, kinds, memory, progress, checkpoints)


def differentiate(part: Part) -> Scorer:
    """Every component of every site by the gradient at the base."""
    gradients = part.gradients()
    return lambda site: along(site, gradients[site.key])


def differentiate_at_both_ends(part: Part) -> Scorer:
    """By the mean gradient at the base, and with all of the site's components at the baseline."""
    gradients = part.gradients()

    def score(site: Site) -> Float[Tensor, "prompt component"]:
        other_end = gradient(site, site.joint_change())
        return along(site, (gradients[site.key] + other_end) / 2)

    return score


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
