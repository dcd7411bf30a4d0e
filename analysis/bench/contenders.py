"""What the engine is compared with: a plain TransformerLens hook loop, and Captum.

They share nothing with the engine but the metric. `base` and `source` are tokens of one length.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import Readout

HOOKS = {"heads": "blocks.{}.attn.hook_result", "neurons": "blocks.{}.mlp.hook_post"}
Tokens = Int[Tensor, "prompt position"]


@torch.no_grad()
def hooked_activation(
    model: TransformerBridge, tokens: Tokens, kind: str, layer: int
) -> Float[Tensor, "prompt position component *size"]:
    """A layer's `hook_result` or `hook_post`; leaves per-head results on only for heads."""
    model.set_use_attn_result(kind == "heads")
    name = HOOKS[kind].format(layer)
    _, cache = model.run_with_cache(tokens, names_filter=name)
    return cache[name].clone()


@torch.no_grad()
def hooked_logits(
    model: TransformerBridge,
    tokens: Tokens,
    kind: str,
    layer: int,
    edit: Callable[[Tensor], Tensor],
) -> Float[Tensor, "prompt vocabulary"]:
    """The last token's logits with one layer's heads or neurons edited by a hook."""
    model.set_use_attn_result(kind == "heads")
    logits = model.run_with_hooks(
        tokens, fwd_hooks=[(HOOKS[kind].format(layer), lambda act, hook: edit(act.clone()))]
    )
    return logits[:, -1]


def hook_loop(
    model: TransformerBridge,
    base: Tokens,
    source: Tokens,
    readout: Readout,
    kind: str,
    layer: int,
    components: list[int],
) -> Iterator[Float[Tensor, " prompt"]]:
    """AP of some components of a layer, one hooked run of all prompts for each, as it is asked for.

    What all of them need, the source activations and the base metric, comes before the first.
    """
    value = hooked_activation(model, source, kind, layer)
    with torch.no_grad():
        before = readout.of_vocabulary(model(base)[:, -1])

    for component in components:

        def edit(activation: Tensor, component: int = component) -> Tensor:
            activation[:, :, component] = value[:, :, component]
            return activation

        yield readout.of_vocabulary(hooked_logits(model, base, kind, layer, edit)) - before


def captum(
    model: TransformerBridge,
    base: Tokens,
    source: Tokens,
    readout: Readout,
    kind: str,
    layer: int,
    steps: int,
    rule: str = "gausslegendre",
) -> Float[Tensor, "prompt component"]:
    """Layer-joint IG by Captum, which integrates from the source to the base: minus ours."""
    from captum.attr import LayerIntegratedGradients

    model.set_use_attn_result(kind == "heads")
    block = model.blocks[layer]
    site = block.attn.hook_result if kind == "heads" else block.mlp.hook_post
    attribution = LayerIntegratedGradients(_Measured(model, readout), site).attribute(
        base, source, n_steps=steps, method=rule
    )
    assert isinstance(attribution, Tensor)
    dimensions = (1, 3) if kind == "heads" else (1,)
    return -attribution.sum(dim=dimensions).detach()


class _Measured(nn.Module):
    """A model that returns its metric, as Captum wants it."""

    def __init__(self, model: TransformerBridge, readout: Readout):
        super().__init__()
        self.model, self.readout = model, readout

    def forward(self, tokens: Tensor) -> Tensor:
        """Captum repeats the prompts once for each step."""
        logits = self.model(tokens)[:, -1]
        prompts = len(self.readout.labels.tokens)
        return self.readout.of_vocabulary(logits.unflatten(0, (-1, prompts))).flatten()
