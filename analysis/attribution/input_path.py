"""The path from one input to the other (EAP-IG: Hanna et al. 2024): all layers move at once.

Point α is the run whose embedding is (1 - α) base + α source; every later activation is what that
run makes of it. One pass gives the gradient at every site, so all components are scored by as many
passes as there are nodes, whatever the number of layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.gradients import along
from analysis.attribution.nested import integrate
from analysis.choices import Kind
from analysis.forward import SiteKey
from analysis.sites import Part
from analysis.sweep import Scored, Scorer


def integrate_from_input(part: Part, nodes: list[float], weights: list[float]) -> Scorer:
    """Scores of each site by these nodes."""
    mean: dict[SiteKey, Tensor] = {}
    for node, weight in zip(nodes, weights, strict=True):
        for key, gradient in part.gradients(node).items():
            mean[key] = mean.get(key, 0) + weight * gradient
    return lambda site: along(site, mean[site.key])


def integrate_from_input_to(part: Part, kinds: tuple[Kind, ...], tolerance: float) -> Scorer:
    """Scores of each site by as many nodes as it takes until no score of a prompt changes.

    By more than the tolerance, from one level to the next: nothing is known that the scores must
    sum to.
    """
    sites = list(part.sites(kinds))

    def slopes(node: float, prompts: list[int]) -> Float[Tensor, "prompt component"]:
        some = None if len(prompts) == len(part.prompts) else prompts
        gradients = part.gradients(node, some)
        scores = [along(site, gradients[site.key], some) for site in sites]
        return torch.cat(scores, dim=1).cpu()

    def integrand(nodes: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.stack([slopes(node, pending.tolist()) for node in nodes.tolist()])
        return found, found.new_zeros(found.shape[:2])

    everyone = list(range(len(part.prompts)))
    start, enough = slopes(0.0, everyone), tolerance * part.scale()
    found = integrate(integrand, start, enough, batch=len(everyone), complete=False)
    sizes = [len(site.writes) for site in sites]
    values = zip((site.key for site in sites), found.values.split(sizes, dim=1), strict=True)
    by_site = dict(values)
    return lambda site: Scored(by_site[site.key], nodes=found.nodes, reached=found.reached)
