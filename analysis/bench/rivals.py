"""Integrated gradients by Captum, which the engine is measured beside."""

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward import reference
from analysis.metrics import Readout

# What the hook loop and Captum take first.
Hooked = tuple[TransformerBridge, reference.Runs, Readout, reference.Site]


def captum(hooked: Hooked, steps: int, rule: str) -> Float[Tensor, "prompt component"]:
    """Layer-joint IG by Captum, which integrates from the source to the base: minus ours."""
    from captum.attr import LayerIntegratedGradients

    model, runs, readout, (kind, layer) = hooked

    def measured(tokens: Tensor) -> Tensor:
        """Captum repeats the prompts once for each step."""
        logits = model(tokens)[:, -1].unflatten(0, (-1, len(runs[0])))
        return readout.of_vocabulary(logits).flatten()

    model.set_use_attn_result(kind == "heads")
    block = model.blocks[layer]
    module = block.attn.hook_result if kind == "heads" else block.mlp.hook_post
    integrated = LayerIntegratedGradients(measured, module)
    attribution = integrated.attribute(*runs, n_steps=steps, method=rule)
    assert isinstance(attribution, Tensor)
    return -attribution.sum(dim=(1, 3) if kind == "heads" else 1).detach()
