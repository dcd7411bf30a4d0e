"""Integrated gradients (Sundararajan et al. 2017) on the components of a layer.

    attribution(c) = Σ over positions and dimensions of Δa · ∫₀¹ ∂m/∂a (base + α Δa) dα

On the layer-joint path all heads (or all neurons) of one layer move together, so that the layer's
attributions sum to the effect of patching the whole layer: completeness. On the single path only
that component moves, and its attribution is its activation-patching effect.

A component acts on what follows only by what it writes to the residual stream, r = a W. So the
gradient is taken there, and Δa · ∂m/∂a = (Δa W) · ∂m/∂r.
"""

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.parts import MEMORY, Site
from analysis.attribution.quadrature import quadrature
from analysis.attribution.scores import Scores
from analysis.attribution.sweep import Method, Settings, sweep
from analysis.checks import one_of
from analysis.forward import KINDS
from analysis.tasks import PromptPairs

STEPS = 24


def integrated_gradients(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: str = "noising",
    baseline: str = "source",
    steps: int = STEPS,
    rule: str = "gauss-legendre",
    path: str = "layer-joint",
    kinds: tuple[str, ...] = KINDS,
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> Scores:
    """The attribution of each head and each neuron; `heads_gap` and `neurons_gap` tell how exact.

    attribution(c) = Σ over positions and dimensions of Δa · ∫₀¹ ∂m/∂a (base + α Δa) dα, in the
    metric's units (Sundararajan et al. 2017). On the layer-joint path all heads (or all neurons) of
    a layer move together, and their attributions sum to the effect of patching all of them; on the
    single path a component moves alone, and its attribution is its `activation_patching` effect.

    Args:
        steps: how many gradients along the path. The default leaves a gap under 1e-4 of the
            largest total effect in every layer of the testbed, on every task; 8 miss by 3 % in
            its first layer.
        rule: `gauss-legendre`, `left`, `right`, `midpoint` or `trapezoid`.
        path: `layer-joint`, or `single`, which costs as many gradients for each component.

    The other arguments are those of `activation_patching`.

    Raises:
        ValueError: for an unknown direction, baseline, rule or path, fewer than one step, or
            logits that are not finite.

    Examples:
        >>> from analysis import integrated_gradients, load_model, load_task
        >>> model = load_model("testbed")
        >>> ig = integrated_gradients(model, load_task("ioi", model, n=2))
        >>> ig.heads.shape, ig.neurons.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 4, 768]))

        Each layer's attributions sum to what patching the whole layer does:

        >>> bool(ig.neurons_gap.abs().max() < 1e-3)
        True
    """
    nodes, weights = quadrature(rule, steps)
    methods = {
        "layer-joint": (integrate_jointly, lambda components: steps),
        "single": (integrate_each, lambda components: steps * components),
    }
    one_of("path", path, methods)
    integrate, runs = methods[path]
    settings = Settings(direction, baseline, kinds, memory, progress, checkpoints)
    score = partial(integrate, nodes=nodes, weights=weights)
    method = Method("IG", score, runs, {"steps": steps, "rule": rule, "path": path})
    return sweep(method, model, pairs, settings)


def integrate_jointly(
    site: Site, nodes: list[float], weights: list[float]
) -> Float[Tensor, "prompt component"]:
    """Every component of the layer moves along the path at once."""
    gradient = _mean_gradient(site, site.joint_change().unsqueeze(0), nodes, weights)[0]
    along_writes = torch.einsum("ptd,csd->ptcs", gradient, site.writes)
    return (site.difference * along_writes).sum(dim=(1, 3))


def integrate_each(
    site: Site, nodes: list[float], weights: list[float]
) -> Float[Tensor, "prompt component"]:
    """Each component moves along a path of its own while the others stay."""
    scores = []
    for changes in site.gradient_changes():
        gradients = _mean_gradient(site, changes, nodes, weights)
        scores.append((changes * gradients).sum(dim=(2, 3)))
    return torch.cat(scores).T


def _mean_gradient(
    site: Site,
    changes: Float[Tensor, "path prompt position d_model"],
    nodes: list[float],
    weights: list[float],
) -> Float[Tensor, "path prompt position d_model"]:
    """The gradient of the metric in the residual stream, averaged along each path."""
    size = max(1, site.gradient_batch // len(changes))
    total = torch.zeros_like(changes)
    for some_nodes, some_weights in zip(
        changes.new_tensor(nodes).split(size), changes.new_tensor(weights).split(size), strict=True
    ):
        with torch.enable_grad():
            points = torch.einsum("k,cptd->kcptd", some_nodes, changes).detach().requires_grad_()
            metric = site.resume(points)
            if not metric.requires_grad:
                raise ValueError(
                    "The metric has no gradient, which integrated gradients need: use one without "
                    "rounding, comparing or choosing, or activation_patching."
                )
            (gradients,) = torch.autograd.grad(metric.sum(), points)
        total += torch.einsum("k,kcptd->cptd", some_weights, gradients)
    return total
