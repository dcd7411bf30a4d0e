"""Attribution patching (Nanda 2023): activation patching to first order.

A component acts on what follows only by what it writes to the residual stream, r = a W. So the
gradient is taken there, and Δa · ∂m/∂a = (Δa W) · ∂m/∂r.
"""

from functools import partial
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.gradients import along, gradient
from analysis.attribution.repairs import repaired
from analysis.checks import one_of, some_of
from analysis.choices import ENDS, KINDS, REPAIRS, Baseline, Direction, Ends, Kind, Repair
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
    repairs: tuple[Repair, ...] = (),
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
        repairs: AtP*'s two, `analysis.attribution.repairs`: `qk-fix` lets later layers' attention
            saturate, at the cost of a run for each component; `grad-drop` keeps direct and indirect
            effects from cancelling, by a pass for each layer, and its scores are sizes, never
            negative. Both need the exact engine, and `ends="base"`.

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
    some_of("repair", repairs, REPAIRS)
    if repairs and ends == "both":
        raise ValueError(f"repairs={repairs!r} was given with ends='both': use ends='base'.")
    scorer = differentiate if ends == "base" else differentiate_at_both_ends
    options = ["both ends"] * (ends == "both") + [it for it in REPAIRS if it in repairs]
    method = Method(
        f"AtP, {', '.join(options)}" if options else "AtP",
        partial(repaired, kinds=kinds, repairs=repairs) if repairs else scorer,
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
        other_end, _ = gradient(site, site.joint_change())
        return along(site, (gradients[site.key] + other_end) / 2)

    return score
