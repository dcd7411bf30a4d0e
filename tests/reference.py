"""Independent implementations: a bare TransformerLens hook loop, and Captum.

They share nothing with `analysis` but the metric and the prompts' tokens.
"""

from collections.abc import Callable

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from analysis import PromptPairs

HOOKS = {"heads": "blocks.{}.attn.hook_result", "neurons": "blocks.{}.mlp.hook_post"}


def sides(pairs: PromptPairs, place: int, direction: str = "noising") -> tuple[Tensor, Tensor]:
    """One pair's base and source tokens."""
    clean, corrupted = pairs.clean_tokens[place][None], pairs.corrupted_tokens[place][None]
    return (clean, corrupted) if direction == "noising" else (corrupted, clean)


def metric(pairs: PromptPairs, place: int) -> Callable[[Tensor], Tensor]:
    labels = pairs.labels[torch.tensor([place])]
    return lambda logits: pairs.metric(logits[:, -1], labels)


def cached(model: TransformerBridge, tokens: Tensor, kind: str, layer: int) -> Tensor:
    model.set_use_attn_result(kind == "heads")
    name = HOOKS[kind].format(layer)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=name)
    return cache[name].clone()


def patched(
    model: TransformerBridge,
    tokens: Tensor,
    kind: str,
    layer: int,
    edit: Callable[[Tensor], Tensor],
) -> Tensor:
    """The logits with one layer's heads or neurons edited by a hook."""
    model.set_use_attn_result(kind == "heads")
    with torch.no_grad():
        return model.run_with_hooks(
            tokens, fwd_hooks=[(HOOKS[kind].format(layer), lambda act, hook: edit(act.clone()))]
        )


def hook_loop(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: int,
    kind: str,
    layer: int,
    component: int,
    direction: str = "noising",
    baseline: str = "source",
) -> float:
    """AP of one component by one hooked run."""
    base, source = sides(pairs, place, direction)
    value = cached(model, source, kind, layer)
    if baseline == "zero":
        value = torch.zeros_like(value)

    def edit(activation: Tensor) -> Tensor:
        activation[:, :, component] = value[:, :, component]
        return activation

    measure = metric(pairs, place)
    with torch.no_grad():
        return (measure(patched(model, base, kind, layer, edit)) - measure(model(base))).item()


class _Measured(nn.Module):
    """A model that returns its metric, as Captum wants it."""

    def __init__(self, model: TransformerBridge, measure: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.measure = model, measure

    def forward(self, tokens: Tensor) -> Tensor:
        # Captum repeats the prompt once for each step.
        return self.measure(self.model(tokens))


def captum(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: int,
    kind: str,
    layer: int,
    direction: str = "noising",
    steps: int = 16,
    rule: str = "gausslegendre",
) -> Tensor:
    """IG of a layer's components; Captum integrates from the source to the base: minus ours."""
    base, source = sides(pairs, place, direction)
    model.set_use_attn_result(kind == "heads")
    block = model.blocks[layer]
    site = block.attn.hook_result if kind == "heads" else block.mlp.hook_post
    measured = _Measured(model, metric(pairs, place))
    attribution = LayerIntegratedGradients(measured, site).attribute(
        base, source, n_steps=steps, method=rule
    )
    dimensions = (0, 1, 3) if kind == "heads" else (0, 1)
    return -attribution.sum(dim=dimensions).detach()
