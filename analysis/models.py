"""Loading models: the testbeds that ship with the project, the hub's, or a local checkpoint.

What is returned computes what transformers computes from the checkpoint, or there is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from analysis.ordinary import ordinary
from analysis.sources import (
    Source,
    architecture_of,
    available_testbeds,
    either,
    find,
    first_line,
    read_config,
    read_network,
    read_tokenizer,
)

__all__ = ["available_testbeds", "fingerprint", "load_model", "load_untrained"]

# What a configuration holds that decides no number.
_NO_NUMBERS = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype"),
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict"),
}
# Lengths of the random prompts on which computations are compared, and how far they may be apart,
# relative to the largest |log-probability|: the float32 error of folded weights is under a tenth.
_LENGTHS = (2, 9, 24)
TOLERANCE = 1e-4


class _Weights(NamedTuple):
    """Hashes of a checkpoint's weights and of those that the bridge made of them."""

    checkpoint: str
    now: str


_LOADED: WeakKeyDictionary[TransformerBridge, _Weights] = WeakKeyDictionary()


def load_model(name: str | Path, device: str | torch.device = "cpu") -> TransformerBridge:
    """A model as TransformerLens's own bridge: compatibility mode, eval, float32.

    Its log-probabilities on a few random prompts are compared with those of transformers' own model
    before it is returned.

    Args:
        name: a directory with a checkpoint saved by transformers (weights, configuration,
            tokenizer), a testbed (`available_testbeds()`), `gpt2-small`, or an id on the model
            hub.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ValueError: for an unknown name, an unreachable hub, an unsupported architecture, an
            unknown device; for weights that cannot be read, are missing or unexpected; and where
            the bridge computes something else than transformers.

    Examples:
        >>> from analysis import load_model
        >>> model = load_model("testbed")
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp, model.cfg.d_model
        (4, 8, 768, 192)
        >>> model.to_str_tokens("Mary gave a drink to John")
        ['<|endoftext|>', 'Mary', ' gave', ' a', ' drink', ' to', ' John']
    """
    place = _check_device(device)
    source = find(name)
    with _loading():
        network = read_network(source, read_config(source))
        torch.nn.Module.to(network, place)
        return _bridge(source, network, read_tokenizer(source))


def load_untrained(name: str | Path, seed: int = 0) -> TransformerBridge:
    """A model of the same shape and tokenizer as `name`, with the weights that training began at.

    What holds of it comes with the architecture and says nothing about what was learnt.

    Raises:
        ValueError: as `load_model` does.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.models import load_untrained
        >>> trained, untrained = load_model("testbed"), load_untrained("testbed")
        >>> prompt = "When Richard and Rose went to the bakery, Richard gave a computer to"
        >>> answers = [trained.to_single_token(name) for name in (" Rose", " Richard")]
        >>> for model in (trained, untrained):
        ...     rose, richard = model(prompt)[0, -1, answers].tolist()
        ...     print(f"{rose - richard:.1f}")
        3.6
        -0.4
    """
    source = find(name)
    with _loading():
        config = read_config(source)
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        return _bridge(source, network.eval(), read_tokenizer(source))


def fingerprint(model: TransformerBridge) -> str:
    """A hash of all that decides what a model computes: its weights and its configuration.

    As long as the weights are as they were loaded, the checkpoint's stand for them: those that the
    bridge makes of them have other last bits on other machines.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.models import fingerprint
        >>> fingerprint(load_model("testbed")) == fingerprint(load_model("testbed"))
        True
        >>> fingerprint(load_model("testbed")) == fingerprint(load_model("testbed-2"))
        False
    """
    weights = _hash_weights(_weights_now(model))
    if model in _LOADED and _LOADED[model].now == weights:
        weights = _LOADED[model].checkpoint
    facts = [weights, model.compatibility_mode, sorted(_configuration(model).items())]
    return sha256(repr(facts).encode()).hexdigest()[:16]


def random_prompts(vocabulary: int, positions: int) -> list[Int[Tensor, "1 _"]]:
    """Fixed random tokens of a few lengths, on which computations are compared."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(vocabulary, (1, min(length, positions)), generator=generator)
        for length in _LENGTHS
    ]


@torch.no_grad()
def log_probabilities(
    network: TransformerBridge | PreTrainedModel, prompts: list[Int[Tensor, "1 _"]]
) -> Float[Tensor, "prompt vocabulary"]:
    """What a network says of the token after each prompt, on the CPU."""
    rows = []
    for tokens in prompts:
        found = network(tokens.to(next(network.parameters()).device))
        logits = found if isinstance(found, Tensor) else found.logits
        rows.append(logits[0, -1].float().log_softmax(dim=-1).cpu())
    return torch.stack(rows)


def largest_difference(
    found: Float[Tensor, "prompt vocabulary"], expected: Float[Tensor, "prompt vocabulary"]
) -> float:
    """The largest difference of log-probabilities, relative to the largest of them."""
    return float((found - expected).abs().max() / expected.abs().max())


def _bridge(
    source: Source, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TransformerBridge:
    """The bridge to a network, once it is sure to compute the same."""
    architecture, text = architecture_of(network.config), network.config.get_text_config()
    checkpoint = _hash_weights(network.state_dict())
    prompts = random_prompts(text.vocab_size, getattr(text, "max_position_embeddings", 64))
    expected = log_probabilities(network, prompts)
    try:
        model = TransformerBridge.boot_transformers(
            str(source.place),
            device=network.device,
            dtype=torch.float32,
            hf_model=network,
            tokenizer=tokenizer,
        )
        model.enable_compatibility_mode(disable_warnings=True)
        found = log_probabilities(model.eval(), prompts)
    except Exception as error:
        raise ValueError(
            f"TransformerLens's bridge does not run {source.name!r}, {architecture} with this "
            f"configuration, so this project can't: {first_line(error)}"
        ) from error
    difference = largest_difference(found, expected)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"TransformerLens's bridge computes something else than transformers from "
            f"{source.name!r}, {architecture} with this configuration: log-probabilities differ by "
            f"{difference:.1e} of the largest; no score of it would be right."
        )
    first = model.tokenizer.bos_token_id
    if first is None or first >= model.cfg.d_vocab:
        raise ValueError(
            f"The tokenizer of {source.name!r} has no token to put in front of a text that the "
            "model knows: save one with a bos_token of the model's vocabulary."
        )
    model.cfg.model_name = source.name
    _LOADED[model] = _Weights(checkpoint, now=_hash_weights(_weights_now(model)))
    return model


def _weights_now(model: TransformerBridge) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _hash_weights(weights: dict[str, Tensor]) -> str:
    digest = sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        plain = weight.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _configuration(model: TransformerBridge) -> dict[str, object]:
    """What the computation is configured by, transformers' words and the bridge's."""
    names = ("architecture", "n_heads", "act_fn", "eps", "normalization_type")
    said = cast(PreTrainedModel, model.original_model).config.to_diff_dict()
    return {name: value for name, value in said.items() if name not in _NO_NUMBERS} | {
        f"bridge.{name}": getattr(model.cfg, name) for name in names
    }


def _check_device(device: str | torch.device) -> torch.device:
    available = ["cpu"]
    available += ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    try:
        place = torch.device(device)
        if place.type in available and (place.index or 0) < _counted(place.type):
            return place
    except (RuntimeError, TypeError):  # no such word
        pass
    raise ValueError(f"Device {str(device)!r} is not available here: use {either(available)}.")


def _counted(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1


@contextmanager
def _loading() -> Iterator[None]:
    """Whatever the caller's modes, and no progress bar for a second's work."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    torch.set_float32_matmul_precision("highest")  # no TF32 on a GPU
    try:
        with ordinary():
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
