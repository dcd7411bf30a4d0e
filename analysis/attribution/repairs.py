"""AtP*: attribution patching with two repairs of where it misses effects (Kramár et al. 2024).

A first-order estimate misses what a component does where the slope at the base run is not the slope
further on. Two such misses are common, and each has its repair (arXiv:2403.00745, section 3):

- *QK fix*. A saturated softmax hardly moves with its queries and keys at first, whatever it does in
  the end. Kramár et al. score query and key nodes so; here it is the direct effect of what a
  component writes on later layers' queries and keys, through the residual stream. The linear term,
  Δr · ∂m/∂r by way of a later layer's pattern, gives way to
  Σ (pattern(r + Δr) - pattern(r)) · ∂m/∂pattern, and the sum over later layers is added up. The
  pattern is computed again for each component in each later layer, so this takes about as long as
  activation patching would without its MLPs.
- *GradDrop*. A direct effect and an indirect one can cancel at the base run and nowhere else. With
  I_l the estimate whose backward pass leaves out what layer l adds, the score is
  Σ_l |I_l| / (L - 1) for L layers (equation 11), as a component's estimate is 0 where its layer is
  the one left out. Scores are sizes, without a sign. It takes a pass forward and back a layer.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.gradients import along
from analysis.choices import Kind, Repair
from analysis.forward import SiteKey
from analysis.forward.engine import Sensitivity
from analysis.sites import Part, Site, fitting
from analysis.sweep import Scorer

Effects = Float[Tensor, "dropped prompt component"]  # one pass, or one for each layer left out


def repaired(part: Part, kinds: tuple[Kind, ...], repairs: tuple[Repair, ...]) -> Scorer:
    """Every component of every site by AtP with these repairs, of as many prompts as fit at once.

    Raises:
        ValueError: for GradDrop on a single layer, and for an engine that runs through hooks.
    """
    layers = part.base.forward.layers
    if "grad-drop" in repairs and layers == 1:
        raise ValueError(
            "repairs=('grad-drop',) was given for a model of one layer: GradDrop averages over the "
            "other layers, so use it with two at least."
        )
    passes = layers if "grad-drop" in repairs else 1
    prompts = len(part.prompts)
    size = fitting(part.memory // 2, part.base.forward, passes * _floats_of_a_pass(part))
    some = [[*range(start, min(start + size, prompts))] for start in range(0, prompts, size)]
    found = [_scores(part.select(rows), kinds, repairs) for rows in some]
    return lambda site: torch.cat([scores[site.key] for scores in found])


def _floats_of_a_pass(part: Part) -> int:
    """The numbers of one prompt in the gradients of every layer's stream and pattern, twice."""
    changed, width = part.base.embedded.shape[1:]
    heads, length = part.base.forward.components("heads"), part.base.tokens.shape[1]
    return part.base.forward.layers * changed * (4 * width + 2 * heads * length)


def _scores(
    part: Part, kinds: tuple[Kind, ...], repairs: tuple[Repair, ...]
) -> dict[SiteKey, Float[Tensor, "prompt component"]]:
    forward, run = part.base.forward, part.base
    dropping = "grad-drop" in repairs
    dropped = range(forward.layers) if dropping else [None]
    passes = [forward.sensitivity(run, part.readout, layer) for layer in dropped]
    slopes = _slopes_through_patterns(part, passes) if "qk-fix" in repairs else []
    scores = {}
    for site in part.sites(kinds):
        effects = torch.stack([along(site, each.stream[site.key]) for each in passes])
        if slopes:
            effects = effects + _corrections(part, site, passes, slopes)
        if dropping:
            effects[site.layer] = 0  # nothing that the layer writes arrives anywhere
        scores[site.key] = (
            effects.abs().sum(dim=0) / (forward.layers - 1) if dropping else effects[0]
        )
    return scores


def _slopes_through_patterns(
    part: Part, passes: list[Sensitivity]
) -> list[Float[Tensor, "dropped prompt changed d_model"]]:
    """For each layer ∂m/∂r by way of its pattern alone, r the stream before it."""
    slopes = []
    for layer in range(part.base.forward.layers):
        with torch.enable_grad():
            nothing = torch.zeros_like(part.base.embedded).requires_grad_()
            pattern = part.base.forward.patterns(part.base, layer, nothing)
            found = [
                torch.autograd.grad(pattern, nothing, each.patterns[layer], retain_graph=True)[0]
                for each in passes
            ]
        slopes.append(torch.stack(found))
    return slopes


@torch.no_grad()
def _corrections(
    part: Part,
    site: Site,
    passes: list[Sensitivity],
    slopes: list[Float[Tensor, "dropped prompt changed d_model"]],
) -> Effects:
    """What each component does by way of later patterns, less the linear term for it."""
    forward, later = part.base.forward, range(site.layer + 1, part.base.forward.layers)
    before = {
        layer: forward.patterns(part.base, layer, torch.zeros_like(part.base.embedded))
        for layer in later
    }
    corrections = []
    for changes in replace(site, batch=_changes_at_once(part)).changes():
        total = changes.new_zeros(len(passes), *changes.shape[1::-1])
        for layer in later:
            moved = forward.patterns(part.base, layer, changes) - before[layer]
            by_pattern = torch.stack([each.patterns[layer] for each in passes])
            total += torch.einsum("cphts,lphts->lpc", moved, by_pattern)
            total -= torch.einsum("cptd,lptd->lpc", changes, slopes[layer])
        corrections.append(total)
    return torch.cat(corrections, dim=2)


def _changes_at_once(part: Part) -> int:
    """How many components' patterns fit."""
    (prompts, length), changed = part.base.tokens.shape, part.base.embedded.shape[1]
    patterns = 4 * part.base.forward.components("heads") * changed * length
    traced = part.base.forward.floats_traced(length, part.base.first)
    return fitting(part.memory // 2, part.base.forward, prompts * (patterns + traced))
