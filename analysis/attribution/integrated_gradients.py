"""Integrated gradients (Sundararajan et al. 2017) on the components of a layer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.gradients import along, gradient
from analysis.attribution.input_path import integrate_from_input, integrate_from_input_to
from analysis.attribution.nested import Integrals, integrate
from analysis.attribution.quadrature import quadrature
from analysis.checks import one_of, positive
from analysis.choices import KINDS, PATHS, Baseline, Direction, Kind, Rule
from analysis.choices import Path as PathOfIntegration
from analysis.scores import Scores
from analysis.sites import MEMORY, Part, Site
from analysis.sweep import Method, Scored, Scorer, sweep
from analysis.tasks import PromptPairs

TOLERANCE, STEPS = 1e-3, 24
_USUAL_NODES = 5  # that a layer takes at this tolerance; a guess at the work that is ahead


def integrated_gradients(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    tolerance: float | None = TOLERANCE,
    steps: int | None = None,
    rule: Rule | None = None,
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
    for each component; on `input` the embedding, from the base prompt's to the source's, and with
    it all layers (EAP-IG, Hanna et al. 2024): one gradient scores all of them, and as nothing says
    what a layer's attributions must sum to, gaps are NaN.

    To a tolerance, each prompt takes as many gradients in each layer as it needs there: the number
    doubles until the gap is at most `tolerance` of the data set's largest |total effect|, and no
    score has moved by more than ten times as much since it last doubled; on `input`, until no score
    moves by more. What is not there after 1,025
    gradients is told in one warning.

    Args:
        tolerance: how exact, unless steps or a rule are given.
        steps: how many gradients along the path, for every layer and prompt; 24 if just a rule is
            given.
        rule: `gauss-legendre`, the default if just steps are given, `clenshaw-curtis`, `left`,
            `right`, `midpoint` or `trapezoid`.

    The other arguments, and what is raised, are those of `activation_patching`.

    Examples:
        >>> from analysis import integrated_gradients, load_model, load_task
        >>> model = load_model("testbed")
        >>> ig = integrated_gradients(model, load_task("ioi", model, n=2))

        Each layer's attributions sum to what patching the whole layer does:

        >>> bool(ig.neurons_gap.abs().max() <= 1e-3 * ig.total.abs().max())
        True
    """
    one_of("path", path, PATHS)
    if path == "input" and baseline != "source":
        raise ValueError(
            f"path='input' was given with baseline={baseline!r}: it leads to the source run, so "
            "use baseline='source', or path='layer-joint'."
        )
    if steps is None and rule is None and tolerance is not None:
        method = _to_tolerance(positive("tolerance", tolerance), path, kinds)
    elif tolerance not in (None, TOLERANCE):
        raise ValueError(
            f"tolerance={tolerance!r} was given with steps={steps!r} and rule={rule!r}: give a "
            "tolerance, or steps and a rule, which are taken whatever the gap."
        )
    else:
        steps, rule = STEPS if steps is None else steps, rule or "gauss-legendre"
        method = _in_steps(steps, rule, path)
    return sweep(method, model, pairs, direction, baseline, kinds, memory, progress, checkpoints)


def _to_tolerance(tolerance: float, path: PathOfIntegration, kinds: tuple[Kind, ...]) -> Method:
    def scorer(part: Part) -> Scorer:
        if path == "input":
            return integrate_from_input_to(part, kinds, tolerance)
        score = integrate_jointly_to if path == "layer-joint" else integrate_each_to
        starts = part.gradients()
        return lambda site: score(site, tolerance * part.scale(), starts[site.key])

    return _method(scorer, path, _USUAL_NODES, {"tolerance": tolerance})


def _in_steps(steps: int, rule: Rule, path: PathOfIntegration) -> Method:
    nodes, weights = quadrature(rule, steps)

    def scorer(part: Part) -> Scorer:
        if path == "input":
            return integrate_from_input(part, nodes, weights)
        score = integrate_jointly if path == "layer-joint" else integrate_each
        return partial(score, nodes=nodes, weights=weights)

    return _method(scorer, path, steps, {"steps": steps, "rule": rule})


def _method(
    scorer: Callable[[Part], Scorer], path: PathOfIntegration, steps: int, settings: dict[str, Any]
) -> Method:
    """About so many steps for each layer; from the input on they are the part's, not a layer's."""

    def runs(components: int) -> int:
        return {"layer-joint": steps, "single": steps * components, "input": 1}[path]

    return Method("IG", scorer, runs, settings | {"path": path}, gaps=path != "input")


def integrate_jointly_to(
    site: Site, enough: float, start: Float[Tensor, "prompt changed d_model"]
) -> Scored:
    """Every component of the layer moves along the path at once, by as many nodes as that takes.

    `start` is the gradient at the base, which all sites have from one pass.
    """
    change, slopes = site.joint_change(), along(site, start).cpu()
    prompts, everyone = len(slopes), torch.ones(len(slopes), dtype=torch.bool)
    nothing = torch.zeros_like(slopes[:, 0])
    every = Integrals(torch.zeros_like(slopes), nothing, nothing.long(), everyone)
    # Where nothing changes there is nothing to integrate, and no gap.
    (moving,) = (site.difference != 0).flatten(1).any(dim=1).cpu().nonzero(as_tuple=True)

    def integrand(nodes: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
        rows = moving[pending].tolist()
        some = None if len(rows) == prompts else rows
        points = torch.einsum("k,ptd->kptd", nodes.to(change), change[rows])
        gradients, metric = gradient(site, points, some)
        return along(site, gradients, some).cpu(), (metric - site.base[rows]).cpu()

    if len(moving):
        batch = site.gradient_batch * prompts
        found = integrate(integrand, slopes[moving], enough, batch)
        for column, of in zip(every, found, strict=True):
            column[moving] = of
    return Scored(*every)


def integrate_each_to(
    site: Site, enough: float, start: Float[Tensor, "prompt changed d_model"]
) -> Scored:
    """Each component moves along its path while the others stay."""
    alone = [
        integrate_jointly_to(site.select([component]), enough, start)
        for component in range(len(site.writes))
    ]
    values, _, nodes, reached = zip(*alone, strict=True)
    return Scored(
        torch.cat(values, dim=1),
        nodes=torch.stack(nodes).sum(dim=0),
        reached=torch.stack(reached).all(dim=0),
    )


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
        gradients, _ = gradient(site, torch.einsum("k,cptd->kcptd", some_nodes, changes))
        total += torch.einsum("k,kcptd->cptd", some_weights, gradients)
    return total
