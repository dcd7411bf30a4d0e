"""One pair of a data set through `analysis.forward.reference`, and through Captum."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import PromptPairs
from analysis.bench import measure
from analysis.choices import KINDS
from analysis.forward.reference import activation, integrate, patch, run
from analysis.metrics import Readout


def sides(pairs: PromptPairs, prompt: int, direction: str = "noising") -> tuple[Tensor, Tensor]:
    """One pair's base and source tokens."""
    clean, corrupted = pairs.clean_tokens[prompt][None], pairs.corrupted_tokens[prompt][None]
    return (clean, corrupted) if direction == "noising" else (corrupted, clean)


def readout(pairs: PromptPairs, prompt: int) -> Readout:
    return Readout(pairs.metric, pairs.labels[torch.tensor([prompt])])


def patched(
    model: TransformerBridge,
    pairs: PromptPairs,
    prompt: int,
    site: tuple[str, int],
    component: int,
    direction: str = "noising",
) -> float:
    """AP of one component by one hooked run."""
    runs = sides(pairs, prompt, direction)
    (effect,) = patch(model, runs, readout(pairs, prompt), site, [component])
    return effect.item()


def captum(
    model: TransformerBridge,
    pairs: PromptPairs,
    prompt: int,
    site: tuple[str, int],
    direction: str = "noising",
    steps: int = 16,
    rule: str = "gausslegendre",
) -> Tensor:
    """IG of a layer's components."""
    runs = sides(pairs, prompt, direction)
    return measure.captum((model, runs, readout(pairs, prompt), site), steps, rule)[0]


def ablated(
    model: TransformerBridge,
    pairs: PromptPairs,
    prompt: int,
    site: tuple[str, int],
    direction: str = "noising",
    edit: Callable[[Tensor], Tensor] = torch.zeros_like,
) -> float:
    """The metric's change when one layer's heads or neurons are edited in the base run."""
    base, _ = sides(pairs, prompt, direction)
    return metric_of(model, pairs, prompt, base, {site: edit}) - metric_of(
        model, pairs, prompt, base, {}
    )


@torch.no_grad()
def metric_of(
    model: TransformerBridge,
    pairs: PromptPairs,
    prompt: int,
    tokens: Tensor,
    edits: dict[tuple[str, int], Callable[[Tensor], Tensor]],
) -> float:
    """The metric of a run with some sites' activations edited."""
    logits, _ = run(model, tokens, edits)
    return readout(pairs, prompt).of_vocabulary(logits).item()


def put_in(
    values: dict[tuple[str, int], Tensor], components: list[tuple[str, int, int]]
) -> dict[tuple[str, int], Callable[[Tensor], Tensor]]:
    """Edits that put in these components' values, of any layers and kinds."""

    def edit(activation: Tensor, site: tuple[str, int]) -> Tensor:
        for *its_site, component in components:
            if tuple(its_site) == site:
                activation[:, :, component] = values[site][:, :, component]
        return activation

    sites = {(kind, layer) for kind, layer, _ in components}
    return {site: lambda activation, site=site: edit(activation, site) for site in sites}


@torch.no_grad()
def activations_when_patched(
    model: TransformerBridge, base: Tensor, source: Tensor, patched: list[tuple[str, int, int]]
) -> dict[tuple[str, int], Tensor]:
    """Every layer's `hook_result` and `hook_post` with these components at the source's."""
    sites = [(kind, layer) for kind in KINDS for layer in range(model.cfg.n_layers)]
    _, values = run(model, source, {}, sites)
    return run(model, base, put_in(values, patched), sites)[1]


__all__ = [
    "ablated",
    "activation",
    "activations_when_patched",
    "captum",
    "integrate",
    "metric_of",
    "patched",
    "put_in",
    "readout",
    "sides",
]
