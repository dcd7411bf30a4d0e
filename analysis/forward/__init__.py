"""The forward engine: a base run kept once, then resumed with a changed residual stream.

A component's activation reaches the rest of the network through one linear map only: a head's
vector (`hook_z`) or a neuron's scalar (`hook_post`) times its *writing weights* is what it adds to
the residual stream. So whatever is done to the components of a layer is, for everything after
them, one change of the residual stream, and `BaseRun.resume` gives what follows from it.
"""

import warnings

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward.engine import KINDS, Activations, BaseRun, Chosen, Forward, Place
from analysis.forward.gpt2 import GPT2Forward, knows
from analysis.forward.hooked import HookedForward
from analysis.forward.state import undisturbed
from analysis.models import TOLERANCE, largest_difference, log_probabilities, random_prompts

__all__ = [
    "KINDS",
    "Activations",
    "BaseRun",
    "Chosen",
    "Forward",
    "Place",
    "forward_of",
    "undisturbed",
]


def forward_of(model: TransformerBridge) -> Forward:
    """The fast engine for GPT-2's architecture; hooks, with a warning, for any other.

    Raises:
        ValueError: where components don't write straight to the residual stream, see
            `HookedForward`; and where the model computes something else than its weights say.
    """
    if knows(model):
        forward = GPT2Forward(model)
        _compare(forward, model)
        return forward
    warnings.warn(
        f"No fast engine for {model.cfg.architecture} with this configuration: it runs through "
        "hooks (same numbers, slower).",
        stacklevel=2,
    )
    return HookedForward(model)


def _compare(forward: Forward, model: TransformerBridge) -> None:
    """The engine reads weights, so a model whose code was changed would pass unseen."""
    prompts = random_prompts(model.cfg.d_vocab, model.cfg.n_ctx)[:2]  # the short ones
    logits = [forward.run(tokens.to(forward.device)).logits[0].float().cpu() for tokens in prompts]
    difference = largest_difference(
        torch.stack(logits).log_softmax(dim=-1), log_probabilities(model, prompts)
    )
    if difference > TOLERANCE:  # what is NaN has a sentence of its own, with the prompt
        raise ValueError(
            f"The model computes something else than its weights say: log-probabilities differ by "
            f"{difference:.1e} of the largest. Was a module or a method of it replaced? Load the "
            "model again."
        )
