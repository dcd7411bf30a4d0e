"""One pair of a data set through the independent implementations of `analysis.bench`."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import PromptPairs
from analysis.bench import contenders
from analysis.bench.contenders import HOOKS, hooked_activation, hooked_logits
from analysis.forward import KINDS
from analysis.metrics import Readout


def sides(pairs: PromptPairs, place: int, direction: str = "noising") -> tuple[Tensor, Tensor]:
    """One pair's base and source tokens."""
    clean, corrupted = pairs.clean_tokens[place][None], pairs.corrupted_tokens[place][None]
    return (clean, corrupted) if direction == "noising" else (corrupted, clean)


def readout(pairs: PromptPairs, place: int) -> Readout:
    return Readout(pairs.metric, pairs.labels[torch.tensor([place])])


def hook_loop(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: int,
    kind: str,
    layer: int,
    component: int,
    direction: str = "noising",
) -> float:
    """AP of one component by one hooked run."""
    base, source = sides(pairs, place, direction)
    (effect,) = contenders.hook_loop(
        model, base, source, readout(pairs, place), kind, layer, [component]
    )
    return effect.item()


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
    """IG of a layer's components."""
    base, source = sides(pairs, place, direction)
    return contenders.captum(model, base, source, readout(pairs, place), kind, layer, steps, rule)[
        0
    ]


def integrated_by_hooks(
    model: TransformerBridge,
    base: Tensor,
    source: Tensor,
    measure: Readout,
    kind: str,
    layer: int,
    path: list[tuple[float, float]],
) -> Tensor:
    """Layer-joint IG in the model's own precision (Captum's weights are float32)."""
    start, end = (hooked_activation(model, tokens, kind, layer) for tokens in (base, source))
    total = torch.zeros_like(start)
    for node, weight in path:
        point = (start + node * (end - start)).requires_grad_()
        logits = model.run_with_hooks(
            base,
            fwd_hooks=[(contenders.HOOKS[kind].format(layer), lambda act, hook, at=point: at)],
        )
        (gradient,) = torch.autograd.grad(measure.of_vocabulary(logits[:, -1]).sum(), point)
        total += weight * gradient
    scores = total * (end - start)
    return scores.sum(dim=(1, 3) if kind == "heads" else 1)


def ablated(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: int,
    kind: str,
    layer: int,
    direction: str = "noising",
    edit: Callable[[Tensor], Tensor] = torch.zeros_like,
) -> float:
    """The metric's change when one layer's heads or neurons are edited in the base run."""
    base, _ = sides(pairs, place, direction)
    measure = readout(pairs, place).of_vocabulary
    with torch.no_grad():
        after = measure(hooked_logits(model, base, kind, layer, edit))
        return (after - measure(model(base)[:, -1])).item()


@torch.no_grad()
def activations_when_patched(
    model: TransformerBridge,
    base: Tensor,
    source: Tensor,
    patched: list[tuple[str, int, int]],
) -> dict[tuple[str, int], Tensor]:
    """Every layer's `hook_result` and `hook_post` with these components at the source's."""
    model.set_use_attn_result(True)
    names = {
        (kind, layer): HOOKS[kind].format(layer)
        for kind in KINDS
        for layer in range(model.cfg.n_layers)
    }
    _, values = model.run_with_cache(source, names_filter=list(names.values()))
    values = {name: values[name].clone() for name in names.values()}
    found: dict[tuple[str, int], Tensor] = {}

    def hook_for(place: tuple[str, int]) -> Callable:
        def edit(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            for kind, layer, component in patched:
                if (kind, layer) == place:
                    activation[:, :, component] = values[names[place]][:, :, component]
            found[place] = activation.clone()
            return activation

        return edit

    hooks = [(name, hook_for(place)) for place, name in names.items()]
    model.run_with_hooks(base, fwd_hooks=hooks)
    return found


__all__ = [
    "ablated",
    "activations_when_patched",
    "captum",
    "hook_loop",
    "hooked_activation",
    "integrated_by_hooks",
    "sides",
]
