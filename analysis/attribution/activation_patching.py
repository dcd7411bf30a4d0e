"""Activation patching: swap one component's activation and see what happens to the metric."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.choices import KINDS, Baseline, Direction, Kind
from analysis.components import Components
from analysis.scores import Scores
from analysis.sites import MEMORY, Site
from analysis.sweep import Method, sweep
from analysis.tasks import PromptPairs


def activation_patching(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    baseline: Baseline = "source",
    kinds: tuple[Kind, ...] = KINDS,
    components: Components | None = None,
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> Scores:
    """The effect of patching each head and each neuron alone, exactly, one run per component.

    effect(c) = m(base with c's activation from the baseline, at every position) - m(base), in the
    metric's units.

    Args:
        model: what `load_model` returns.
        pairs: what `load_task` returns.
        direction: `noising` changes the clean run, `denoising` the corrupted one.
        baseline: what is put in: the other run's activation (`source`), `zero`, or the `mean` of
            the data set's other runs of the same length, per position.
        kinds: `heads`, `neurons` or both; what is left out has no components in the scores.
        components: which ones to patch, as {"heads": [(layer, index), ...], "neurons": [...]}, with
            its keys for `kinds`; None patches all. It takes a run for each that is asked for; the
            others' scores are NaN, and so is the gap of a layer that is not asked for as a whole.
        memory: a bound in bytes on what is held beyond the model, the engine's copy of its layers'
            weights, and the scores; one prompt with one component patched is held at least.
        progress: whether to show a progress bar; None shows one on a terminal.
        checkpoints: a folder in which each finished layer of each batch of prompts is kept, so
            that a run with the same arguments goes on there; None keeps nothing.

    Raises:
        ValueError: for an unknown direction or baseline, components that the model does not have, a
            model with hooks of your own, pairs of another model's tokenizer, or numbers that are
            not finite.

    Examples:
        >>> from analysis import activation_patching, load_model, load_task
        >>> model = load_model("testbed")
        >>> ap = activation_patching(model, load_task("ioi", model, n=2))
        >>> ap.heads.shape, ap.neurons.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 4, 768]))
        >>> mean = ap.heads.mean(dim=0)
        >>> layer, head = divmod(mean.argmin().item(), model.cfg.n_heads)
        >>> print(f"Patching head {layer}.{head} costs {-mean.min():.1f} logits.")
        Patching head 2.6 costs 3.2 logits.
    """
    method = Method("AP", lambda part: patch_each, runs=lambda components: components)
    return sweep(
        *(method, model, pairs, direction, baseline, kinds, memory, progress, checkpoints),
        components=components,
    )


@torch.no_grad()
def patch_each(site: Site) -> Float[Tensor, "prompt component"]:
    """Each component's effect at one site: a run for each, many in a batch."""
    effects = torch.cat([site.resume(changes) - site.base for changes in site.changes()])
    # A component that does not change has no effect, not even the batch's float error.
    changed = (site.difference != 0).any(dim=3).any(dim=1)
    return effects.T * changed
