"""Integrated gradients (Sundararajan et al. 2017) on the components of a layer."""

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.gradients import along, gradient
from analysis.attribution.quadrature import quadrature
from analysis.checks import one_of
from analysis.choices import KINDS, PATHS, Baseline, Direction, Kind, Rule
from analysis.choices import Path as PathOfIntegration
from analysis.scores import Scores
from analysis.sites import MEMORY, Site
from analysis.sweep import Method, sweep
from analysis.tasks import PromptPairs

STEPS = 24


def integrated_gradients(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    steps: int = STEPS,
    rule: Rule = "gauss-legendre",
    path: PathOfIntegration = "layer-joint",
    kinds: tuple[Kind, ...] = KINDS,
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> Scores:
    """The attribution of each head and each neuron; `heads_gap` and `neurons_gap` tell how exact.

    attribution(c) = Σ over positions and dimensions of Δa · ∫₀¹ ∂m/∂a (base + α Δa) dα, in the
    metric's units. `path` says what moves along α: on `layer-joint` all heads (or all neurons) of a
    layer, and their attributions sum to the effect of patching all of them; on `single` one
    component alone, and its attribution is its `activation_patching` effect, at as many gradients
    for each component.

    Args:
        steps: how many gradients along the path. The default leaves a gap under 1e-4 of the
            largest total effect in every layer of the testbed, on every task; 8 miss by 3 % in
            its first layer.
        rule: `gauss-legendre`, `left`, `right`, `midpoint` or `trapezoid`.

    The other arguments, and what is raised, are those of `activation_patching`.

    Examples:
        >>> from analysis import integrated_gradients, load_model, load_task
        >>> model = load_model("testbed")
        >>> ig = integrated_gradients(model, load_task("ioi", model, n=2))

        Each layer's attributions sum to what patching the whole layer does:

        >>> bool(ig.neurons_gap.abs().max() < 1e-3)
        True
    """
    nodes, weights = quadrature(rule, steps)
    one_of("path", path, PATHS)
    score = integrate_jointly if path == "layer-joint" else integrate_each
    method = Method(
        "IG",
        lambda part: partial(score, nodes=nodes, weights=weights),
        runs=lambda components: steps * (components if path == "single" else 1),
        settings={"steps": steps, "rule": rule, "path": path},
    )
    return sweep(method, model, pairs, direction, baseline, kinds, memory, progress, checkpoints)


def integrate_jointly(
    site: Site, nodes: list[float], weights: list[float]
) -> Float[Tensor, "prompt component"]:
    """Every component of the layer moves along the path at once."""
    return along(site, _mean_gradient(site, site.joint_change().unsqueeze(0), nodes, weights)[0])


def integrate_each(
    site: Site, nodes: list[float], weights: list[float]
) -> Float[Tensor, "prompt component"]:
    """Each component moves along its path while the others stay."""
    scores = []
    for changes in site.changes(gradient=True):
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
        gradients = gradient(site, torch.einsum("k,cptd->kcptd", some_nodes, changes))
        total += torch.einsum("k,kcptd->cptd", some_weights, gradients)
    return total
