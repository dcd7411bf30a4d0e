"""A model by itself while the library computes with it, whatever state its user keeps it in.

Engines read weights or run the model through hooks of their own. So that both see the same model,
hooks of somebody else are refused; so that its numbers are the model's alone, dropout is off, and
PyTorch's modes and defaults are ordinary ones. All is as it was afterwards.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from analysis.ordinary import ordinary

# Hooks, modes and defaults are the process's, so threads take turns.
_TURN = threading.RLock()
_LIBRARIES = ("transformer_lens.", "transformers.")
_HOOKS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


@contextmanager
def undisturbed(model: TransformerBridge) -> Iterator[None]:
    """The model in eval mode, one thread at a time; refuses hooks and weights without gradients."""
    with _TURN:
        _check_hooks(model)
        if any(weight.is_inference() for weight in model.parameters()):
            raise ValueError(
                "The model's weights were made in torch.inference_mode, where no gradient can be "
                "taken: load the model outside of it."
            )
        networks = model, model.original_model
        training = [it for network in networks for it in network.modules() if it.training]
        with ordinary():
            try:
                for module in training:
                    module.training = False  # no dropout
                yield
            finally:
                for module in training:
                    module.training = True


def _check_hooks(model: TransformerBridge) -> None:
    """Refuses hooks, of TransformerLens or of PyTorch."""
    hooked = [
        name.replace("_original_component.", "") or "the model"
        for network in (model, model.original_model)
        for name, module in network.named_modules()
        if _has_hooks(module)
    ]
    hooked += ["every module"] * any(
        getattr(nn.modules.module, f"_global_{kind}") for kind in _HOOKS
    )
    if hooked:
        raise ValueError(
            f"The model has hooks of your own, at {', '.join(hooked[:2])}: remove them first, by "
            "model.reset_hooks() or the handle's remove()."
        )


def _has_hooks(module: nn.Module) -> bool:
    """Whether a user put a hook there; the libraries have some of their own."""
    hooks = [hook for kind in _HOOKS for hook in getattr(module, f"_{kind}").values()]
    if isinstance(module, HookPoint):
        hooks += [handle.user_hook for handle in (*module.fwd_hooks, *module.bwd_hooks)]
    return not all(str(getattr(hook, "__module__", "")).startswith(_LIBRARIES) for hook in hooks)
