"""Where a model's name leads, and what transformers reads there; whatever fails is one sentence.

A directory is that directory, whatever it is called. Nothing is drawn at random in place of weights
that a checkpoint lacks.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from analysis import gguf_files, paths
from analysis.faults import explained

_HUB_NAMES = {"gpt2-small": "gpt2"}
_POINTER = b"version https://git-lfs"


class Source(NamedTuple):
    """A model's name as it was given, and where its files are: a directory or a hub id.

    `gguf` is the file in that directory that holds everything, where there is one.
    """

    name: str
    place: Path | str
    gguf: str | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """How transformers reads it: a directory never asks the hub, and no code of it is run."""
        local = isinstance(self.place, Path)
        file = {"gguf_file": self.gguf} if self.gguf else {}
        return {"local_files_only": local, "trust_remote_code": False, **file}


def find(name: str | Path) -> Source:
    """A directory or GGUF file of that name if there is one, else a model that can be had offline.

    Else it is an id on the model hub.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ValueError(
            f"A model's name was expected and {name!r} was given: name a testbed "
            f"({either(available_testbeds())}), {either(list(gguf_files.PACKAGES))}, a directory "
            "with a checkpoint, a .gguf file, or a hub id."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(str(name), path.resolve())
    if path.is_file() and path.suffix == ".gguf":
        return _in_file(str(name), path.resolve())
    if path.is_file():
        raise ValueError(
            f"{str(name)!r} is a file: name the directory of the checkpoint, or a .gguf file."
        )
    if str(name) in gguf_files.PACKAGES:
        return _in_file(str(name), gguf_files.packaged(str(name)))
    if str(name) in available_testbeds():
        return Source(str(name), paths.MODELS / name)
    return Source(str(name), _HUB_NAMES.get(str(name), str(name)))


def available_testbeds() -> list[str]:
    """The names of the models that ship with the project and load without a network."""
    return sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))


def _in_file(name: str, path: Path) -> Source:
    return Source(name, path.parent, path.name)


def read_config(source: Source) -> PretrainedConfig:
    """The configuration, of an architecture that the bridge reads from left to right."""
    if isinstance(source.place, Path) and source.gguf:
        gguf_files.check(source.name, source.place / source.gguf)
        fault = gguf_files.damaged(source.name)
    elif isinstance(source.place, Path):
        _check_files(source.name, source.place)
        fault = f"{source.name!r} holds no model, its config.json is broken or of an unknown kind"
    else:
        fault = (
            f"Model {source.name!r} not found: there is no such directory or file here, and the "
            f"model hub has no such model or cannot be reached; {either(available_testbeds())} are "
            "available offline."
        )
    with explained(fault, why=isinstance(source.place, Path)):
        config = AutoConfig.from_pretrained(str(source.place), **source.reading)
    if source.gguf:  # which does not say what transformers calls it
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")]
    architecture = architecture_of(config)
    left_to_right = architecture.endswith(("LMHeadModel", "ForCausalLM"))
    if not left_to_right or architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"{source.name!r} has the architecture {architecture}, which is no language model that "
            "TransformerLens's bridge reads from left to right: use one of GPT-2's kind, or a "
            "decoder such as Llama, Qwen or Pythia."
        )
    return config


def architecture_of(config: PretrainedConfig) -> str:
    """The name of the architecture that a configuration is for."""
    return (config.architectures or [type(config).__name__])[0]


def read_network(source: Source, config: PretrainedConfig) -> PreTrainedModel:
    """transformers' own model in float32, every weight from the checkpoint and finite.

    Attention is computed as it is written ("eager"), as the bridge does, so that both compare.
    """
    # Else transformers takes what it read for quantised, and would neither train it nor save it.
    ordinary = {"quantization_config": GgufConfig(dequantize=True)} if source.gguf else {}
    with explained(f"The weights of {source.name!r} cannot be read"), gguf_files.silent():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(source.place),
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **ordinary,
            **source.reading,
        )
    network, report = loaded
    # What a configuration decides is no weight, though older versions saved it as one.
    unexpected = set(report["unexpected_keys"]) - {name for name, _ in network.named_buffers()}
    faults = {
        "lacks": report["missing_keys"],
        "has unknown": unexpected,
        "has another shape of": {str(key[0]) for key in report["mismatched_keys"]},
    }
    told = [f"{fault} {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise ValueError(
            f"The checkpoint {source.name!r} is not what its config.json describes: it "
            f"{' and '.join(told)}. Save the whole model again."
        )
    broken = [name for name, weight in network.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(
            f"The weights of {source.name!r} are NaN or infinite in {_some(broken)}: get the "
            "checkpoint again."
        )
    return network.eval()


def read_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer, which puts the first token in front of a text where it knows one."""
    missing = f"{source.name!r} has no tokenizer that can be read; save it beside the weights"
    with explained(missing):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(source.place), add_bos_token=True, **source.reading
            )
        except ValueError:  # raised where there is no token to put in front
            tokenizer = AutoTokenizer.from_pretrained(str(source.place), **source.reading)
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ValueError(f"{missing}.")  # transformers made an empty one out of nothing
    if isinstance(source.place, Path) and source.gguf:
        gguf_files.split_digits(source.place / source.gguf, tokenizer)
    return tokenizer


def either(names: Sequence[str]) -> str:
    """Names to choose from, in a sentence."""
    return " or ".join(repr(name) for name in names)


def _check_files(name: str, directory: Path) -> None:
    """What a directory lacks, before transformers says so in its own words."""
    files = {path.name: path for path in sorted(directory.iterdir()) if path.is_file()}
    for file, path in files.items():
        with path.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"{file} in {name!r} is a Git LFS pointer and not the file itself: run "
                    "git lfs pull there."
                )
    if "config.json" not in files and "adapter_config.json" in files:
        raise ValueError(
            f"{name!r} holds an adapter and no model: merge it into its base model and save the "
            "whole."
        )
    if "config.json" not in files:
        raise ValueError(
            f"{name!r} holds no model: a directory with a config.json, weights and a tokenizer, as "
            "transformers saves them, was expected."
        )


def _some(names: Collection[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more
