"""Loading models: the testbeds that ship with the project, the hub's, or a local checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import huggingface_hub.constants
import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from analysis import paths

_HUB_NAMES = {"gpt2-small": "gpt2"}


def load_model(name: str | Path, device: str = "cpu") -> TransformerBridge:
    """A model as TransformerLens's own bridge: compatibility mode, eval, float32.

    Args:
        name: a testbed (`available_testbeds()`), `gpt2-small`, a directory with a checkpoint
            saved by transformers (weights, configuration, tokenizer), or an id on the model hub.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ValueError: for an unknown name, an unreachable hub, an unsupported architecture or an
            unknown device.

    Examples:
        >>> from analysis import load_model
        >>> model = load_model("testbed")
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp, model.cfg.d_model
        (4, 8, 768, 192)
        >>> model.to_str_tokens("Mary gave a drink to John")
        ['<|endoftext|>', 'Mary', ' gave', ' a', ' drink', ' to', ' John']
    """
    _check_device(device)
    torch.set_float32_matmul_precision("highest")  # no TF32 on a GPU
    source = _source(name)
    with _quiet(offline=isinstance(source, Path)):
        _check_architecture(name, source)
        model = TransformerBridge.boot_transformers(str(source), device=device, dtype=torch.float32)
        model.enable_compatibility_mode(disable_warnings=True)
    return model.eval()


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
    source = _source(name)
    with _quiet(offline=isinstance(source, Path)):
        _check_architecture(name, source)
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(source)))
        model = TransformerBridge.boot_transformers(
            str(source), device="cpu", dtype=torch.float32, hf_model=network.float()
        )
        model.enable_compatibility_mode(disable_warnings=True)
    return model.eval()


def available_testbeds() -> list[str]:
    """The names of the models that ship with the project and load without a network.

    Examples:
        >>> from analysis.models import available_testbeds
        >>> available_testbeds()
        ['testbed', 'testbed-2', 'testbed-3']
    """
    return sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))


def fingerprint(model: TransformerBridge) -> str:
    """A hash of the weights as they are computed with: what results are cached by.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.models import fingerprint
        >>> fingerprint(load_model("testbed")) == fingerprint(load_model("testbed"))
        True
        >>> fingerprint(load_model("testbed")) == fingerprint(load_model("testbed-2"))
        False
    """
    config = model.cfg
    shape = (config.architecture, config.n_heads, config.act_fn, config.eps)
    digest = sha256(repr(shape).encode())
    for name, weight in sorted(model.tl_named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _source(name: str | Path) -> str | Path:
    """Where the weights are: a local directory if there is one of that name, else a hub id."""
    if str(name) in available_testbeds():
        return paths.MODELS / name
    if Path(name).is_dir():
        return Path(name)
    return _HUB_NAMES.get(str(name), str(name))


def _check_device(device: str) -> None:
    available = ["cpu"]
    available += ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    if device.split(":")[0] not in available:
        raise ValueError(f"Device {device!r} is not available here: use {_either(available)}.")


def _check_architecture(name: str | Path, source: str | Path) -> None:
    try:
        config = AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"There is no model {str(name)!r} in reach: it is no checkpoint directory here, and "
            "the model hub has none of that name or cannot be reached. "
            f"{_either(available_testbeds())} ship with the project and work offline."
        ) from error
    architecture = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    left_to_right = architecture.endswith(("LMHeadModel", "ForCausalLM"))
    if not left_to_right or architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"{str(name)!r} has the architecture {architecture}, which is no language model that "
            "TransformerLens's bridge reads from left to right: use one of GPT-2's kind, or a "
            "decoder such as Llama, Qwen or Pythia."
        )


def _either(names: list[str]) -> str:
    return " or ".join(repr(name) for name in names)


@contextmanager
def _quiet(offline: bool) -> Iterator[None]:
    """No progress bars for what takes a second; a local directory never asks the hub."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with patch.object(
            huggingface_hub.constants,
            "HF_HUB_OFFLINE",
            offline or huggingface_hub.constants.HF_HUB_OFFLINE,
        ):
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
