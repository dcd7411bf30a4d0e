"""The forward engine: a base run kept once, then resumed with a changed residual stream.

A head's vector (`hook_z`) or a neuron's scalar (`hook_post`) times its *writing weights* is what it
adds to the residual stream, and the only way in which it reaches the rest of the network. So any
change of a layer's components is, for all that follows, one change of the residual stream.
"""

import warnings

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward.decoder import Decoder, knows
from analysis.forward.engine import Activations, BaseRun, Chosen, Forward, SiteKey
from analysis.forward.hooks import HookedForward
from analysis.forward.state import undisturbed
from analysis.models import TOLERANCE, largest_difference, log_probabilities, random_prompts

__all__ = ["Activations", "BaseRun", "Chosen", "Forward", "SiteKey", "forward_of", "undisturbed"]


def forward_of(model: TransformerBridge) -> Forward:
    """The exact engine for architectures that it knows; hooks, with a warning, for any other."""
    if knows(model):
        forward = Decoder(model)
        _compare(forward, model)
        return forward
    warnings.warn(
        f"No exact engine for {model.cfg.architecture} with this configuration: it runs through "
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
