"""Activation patching and integrated gradients by plain hooks, one layer at a time.

Every run is a whole forward pass, and nothing is shared with the engines but the metric: short,
slow, and a check on them. A site is a layer's heads or neurons, as `("heads", 3)`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.choices import Kind
from analysis.metrics import Readout

HOOKS = {"heads": "blocks.{}.attn.hook_result", "neurons": "blocks.{}.mlp.hook_post"}
Tokens = Int[Tensor, "prompt position"]
Runs = tuple[Tokens, Tokens]  # base and source, of one length
Site = tuple[Kind, int]
Node = tuple[float, float]  # where on the path, and its weight
Edits = Mapping[Site, Callable[[Tensor], Tensor]]


def run(
    model: TransformerBridge, tokens: Tokens, edits: Edits, keep: Iterable[Site] = ()
) -> tuple[Float[Tensor, "prompt vocabulary"], dict[Site, Tensor]]:
    """The last token's logits and the activations to keep, with some sites' activations edited."""
    kept: dict[Site, Tensor] = {}

    def hook_for(site: Site) -> tuple[str, Callable]:
        def hook(activation: Tensor, hook: object) -> Tensor:
            kept[site] = edits[site](activation.clone()) if site in edits else activation.clone()
            return kept[site]

        return HOOKS[site[0]].format(site[1]), hook

    sites = dict.fromkeys([*edits, *keep])
    model.set_use_attn_result(any(kind == "heads" for kind, _ in sites))
    logits = model.run_with_hooks(tokens, fwd_hooks=[hook_for(site) for site in sites])
    return logits[:, -1], {site: kept[site].clone() for site in keep}


@torch.no_grad()
def activation(
    model: TransformerBridge, tokens: Tokens, site: Site
) -> Float[Tensor, "prompt position component *size"]:
    """What a layer's heads write to the residual stream, or its neurons' scalars."""
    return run(model, tokens, {}, [site])[1][site]


@torch.no_grad()
def patch(
    model: TransformerBridge, runs: Runs, readout: Readout, site: Site, components: Iterable[int]
) -> Iterator[Float[Tensor, " prompt"]]:
    """Effects of some components: m(base with c's activation from source) - m(base).

    One run each, when it is asked for; what all of them need comes before the first.
    """
    base, source = runs
    value = activation(model, source, site)
    before = readout.of_vocabulary(model(base)[:, -1])
    for component in components:

        def edit(activation: Tensor, component: int = component) -> Tensor:
            activation[:, :, component] = value[:, :, component]
            return activation

        logits, _ = run(model, base, {site: edit})
        yield readout.of_vocabulary(logits) - before


def integrate(
    model: TransformerBridge, runs: Runs, readout: Readout, site: Site, path: Iterable[Node]
) -> Float[Tensor, "prompt component"]:
    """Layer-joint attributions: Δa · Σ weight ∂m/∂a(base + node Δa), over the path's nodes."""
    base, source = (activation(model, tokens, site) for tokens in runs)
    total = torch.zeros_like(base)
    for node, weight in path:
        point = (base + node * (source - base)).requires_grad_()
        logits, _ = run(model, runs[0], {site: lambda _, point=point: point})
        (gradient,) = torch.autograd.grad(readout.of_vocabulary(logits).sum(), point)
        total += weight * gradient
    scores = total * (source - base)
    return scores.sum(dim=(1, 3)) if site[0] == "heads" else scores.sum(dim=1)
