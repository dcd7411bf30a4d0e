"""Where a model's components write: the output projections of its layers.

A layer's heads, or its neurons, reach the rest of the network through one linear map, the output
projection of its attention or of its MLP: the map's input is their activations, its weights are
what they write. What follows it, a norm or a multiplier or nothing, is no part of them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import LinearBridge, MoEBridge
from transformers.pytorch_utils import Conv1D

from analysis.forward.engine import KINDS, Place

# By place, (component, size, d_model); the kinds differ in their numbers, so axes have no names.
Weights = dict[Place, Float[Tensor, "_ _ d_model"]]

_PROJECTIONS = {"heads": "attn.o", "neurons": "mlp.out"}
_PARTS = {"heads": "attention", "neurons": "MLP"}
_TOLERANCE = 1e-3  # relative
_INSTEAD = "use a decoder such as GPT-2, Llama, Qwen or Pythia"


def activations_hook(place: Place) -> str:
    """The hook at the input of a layer's projection."""
    return f"{_path(place)}.hook_in"


def written_hook(place: Place) -> str:
    """The hook at its output."""
    return f"{_path(place)}.hook_out"


def projection_hooks(places: Iterable[Place]) -> set[str]:
    """Both hooks of each place."""
    return {hook(place) for place in places for hook in (activations_hook, written_hook)}


@contextmanager
def run_through_projections(model: TransformerBridge) -> Iterator[None]:
    """With `use_attn_result` the bridge sums heads up without their projection: it is off here."""
    before = bool(model.cfg.use_attn_result)
    model.set_use_attn_result(False)
    try:
        yield
    finally:
        model.set_use_attn_result(before)


def read_projections(model: TransformerBridge) -> tuple[Weights, dict[str, str]]:
    """Every layer's writing weights, and for a kind that has none a sentence that says why.

    A kind has weights where every layer has a projection of equally many components that is linear,
    as a run on a few tokens shows.

    Raises:
        ValueError: where neither heads nor neurons have any, and where a token changes what comes
            before it.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.forward.projections import read_projections
        >>> weights, missing = read_projections(load_model("testbed"))
        >>> weights["heads", 0].shape, weights["neurons", 3].shape, missing
        (torch.Size([8, 24, 192]), torch.Size([768, 1, 192]), {})
    """
    seen = _run_a_few_tokens(model)
    weights: Weights = {}
    reasons: dict[str, str] = {}
    for kind in KINDS:
        try:
            weights |= _weights(model, kind, seen)
        except _MissingError as missing:
            reasons[kind] = str(missing)
    if not weights:
        raise ValueError(
            f"{model.cfg.architecture} has neither heads nor neurons that can be scored: "
            f"{', and '.join(dict.fromkeys(reasons.values()))}; {_INSTEAD}."
        )
    return weights, {kind: _sentence(model, kind, reason) for kind, reason in reasons.items()}


class _MissingError(Exception):
    """A kind of component that can't be scored; the message is the reason."""


def _path(place: Place) -> str:
    kind, layer = place
    return f"blocks.{layer}.{_PROJECTIONS[kind]}"


@torch.no_grad()
def _run_a_few_tokens(model: TransformerBridge) -> dict[str, Tensor]:
    """What enters and leaves each projection that is there, for two prompts that begin alike.

    Raises:
        ValueError: where they differ there, in a model that reads from both sides.
    """
    names = projection_hooks((kind, layer) for kind in KINDS for layer in range(model.cfg.n_layers))
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=next(model.parameters()).device)
    with run_through_projections(model):
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
    seen = {name: values for name, values in cache.items() if values.shape[:2] == tokens.shape}
    for values in seen.values():
        early = values[:, :2]
        if (early[0] - early[1]).abs().max() > _TOLERANCE * values.abs().max():
            raise ValueError(
                f"In {model.cfg.architecture} a token changes what comes before it: only models "
                f"that read from left to right can be scored, so {_INSTEAD}."
            )
    return seen


def _weights(model: TransformerBridge, kind: str, seen: dict[str, Tensor]) -> Weights:
    found: Weights = {}
    for layer in range(model.cfg.n_layers):
        place = kind, layer
        found[place] = weight = _weight(model, place, seen)
        if not _is_linear(weight, seen[activations_hook(place)], seen[written_hook(place)]):
            raise _MissingError(
                f"the {_PARTS[kind]} output projection of layer {layer} isn't linear"
            )
        if len(weight) != len(found[kind, 0]):
            raise _MissingError(f"layers 0 and {layer} have unequal numbers of {kind}")
    return found


def _weight(
    model: TransformerBridge, place: Place, seen: dict[str, Tensor]
) -> Float[Tensor, "component size d_model"]:
    kind, layer = place
    if not {activations_hook(place), written_hook(place)} <= set(seen):
        raise _MissingError(_what_is_there(model, kind, layer))
    projection = model.get_submodule(_path(place))
    assert isinstance(projection, LinearBridge) and isinstance(projection.weight, Tensor)
    weight = projection.weight.detach()
    if not isinstance(projection.original_component, Conv1D):
        weight = weight.T
    return weight.unflatten(0, (model.cfg.n_heads, -1) if kind == "heads" else (-1, 1))


def _is_linear(
    weight: Float[Tensor, "component size d_model"],
    activations: Float[Tensor, "prompt position *_"],
    written: Float[Tensor, "prompt position d_model"],
) -> bool:
    """Whether activations times weights is what is written, up to a constant: the bias."""
    gap = written - activations.flatten(2) @ weight.flatten(0, 1)
    return not (gap - gap[:1, :1]).abs().max() > _TOLERANCE * written.abs().max()


def _what_is_there(model: TransformerBridge, kind: str, layer: int) -> str:
    if not hasattr(model, "blocks"):
        return "its layers are no single sequence"
    block = model.blocks[layer]
    if kind == "neurons" and isinstance(getattr(block, "mlp", None), MoEBridge):
        return "its MLPs are mixtures of experts"
    parts = ", ".join(name for name, _ in block.original_component.named_children())
    return f"layer {layer} ({parts}) has no {_PARTS[kind]} output projection"


def _sentence(model: TransformerBridge, kind: str, reason: str) -> str:
    (other,) = set(KINDS) - {kind}
    return (
        f"{model.cfg.architecture} has no {kind} that can be scored: {reason}; score its {other} "
        f"alone, with kinds={(other,)!r}, or {_INSTEAD}."
    )
