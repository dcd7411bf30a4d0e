"""The forward engine: a base run kept once, then resumed with a changed residual stream.

A component's activation reaches the rest of the network through one linear map only: a head's
vector (`hook_z`) or a neuron's scalar (`hook_post`) times its *writing weights* is what it adds to
the residual stream. So whatever is done to the components of a layer is, for everything after
them, one change of the residual stream, and `BaseRun.resume` gives what follows from it.
"""

import warnings

from transformer_lens.model_bridge import TransformerBridge

from analysis.forward.engine import KINDS, Activations, BaseRun, Chosen, Forward, Place
from analysis.forward.gpt2 import GPT2Forward, knows
from analysis.forward.hooked import HookedForward

__all__ = ["KINDS", "Activations", "BaseRun", "Chosen", "Forward", "Place", "forward_of"]


def forward_of(model: TransformerBridge) -> Forward:
    """The fast engine for GPT-2's architecture; hooks, with a warning, for any other.

    Raises:
        ValueError: where components don't write straight to the residual stream, see
            `HookedForward`.
    """
    if knows(model):
        return GPT2Forward(model)
    warnings.warn(
        f"The fast engine computes plain GPT-2 only, and this is {model.cfg.architecture} with a "
        "configuration of its own: it runs through hooks, slower, with the same numbers.",
        stacklevel=2,
    )
    return HookedForward(model)
