"""Scores kept on disk, keyed by everything that they depend on."""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import analysis
from analysis import paths
from analysis.attribution import Scores
from analysis.models import fingerprint
from analysis.tasks import PromptPairs

_PER_PROMPT = ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source", "prompts")


def cached_scores(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> Scores:
    """`method(model, pairs, **settings)`, computed once and kept in `data/results/`.

    The key holds the weights, the prompts, the method and its settings, and the library's version
    and code. A file is written whole or not at all; one that cannot be read is computed again,
    and one that cannot be written costs a warning, never the result. What an interrupted run had
    finished lies in a folder beside the file until the run is whole.
    """
    key = {
        "weights": fingerprint(model),
        "prompts": _hash(json.dumps([pairs.clean, pairs.corrupted, pairs.labels.tokens.tolist()])),
        "labels": _hash(json.dumps(pairs.labels.signs.tolist()) + pairs.metric.__name__),
        "method": method.__name__,
        "settings": {name: value for name, value in settings.items() if name != "progress"},
        "library": [analysis.__version__, _code()],
    }
    text = json.dumps(key, sort_keys=True)
    name = f"{method.__name__}-{Path(pairs.task).stem}-{_hash(text)}.parquet"
    path = paths.RESULTS / name
    if path.exists():
        try:
            return _from_frame(pl.read_parquet(path), pl.read_parquet_metadata(path))
        except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} cannot be read and is computed again: {error}", stacklevel=2)
    checkpoints = path.with_suffix(".partial")
    scores = method(model, pairs, checkpoints=checkpoints, **settings)
    try:
        _write(path, scores, text)
    except OSError as error:
        warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=2)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return scores


def _write(path: Path, scores: Scores, key: str) -> None:
    """Writes beside the file's place, then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        _to_frame(scores).write_parquet(partial, metadata=_facts(scores) | {"key": key})
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _facts(scores: Scores) -> dict[str, str]:
    """What is said once of all prompts."""
    shape = {name: list(getattr(scores, name).shape[1:]) for name in _PER_PROMPT}
    names = ("method", "task", "direction", "baseline", "left_out")
    return {
        "scores": json.dumps({name: getattr(scores, name) for name in names} | {"shape": shape})
    }


def _to_frame(scores: Scores) -> pl.DataFrame:
    """A row a prompt; several numbers of a prompt in one array."""
    arrays = {name: getattr(scores, name) for name in _PER_PROMPT}
    return pl.DataFrame(
        {
            name: array.flatten(1).numpy() if array.ndim > 1 else array.numpy()
            for name, array in arrays.items()
        }
    )


def _from_frame(frame: pl.DataFrame, metadata: dict[str, str]) -> Scores:
    facts = json.loads(metadata["scores"])
    shapes = facts.pop("shape")
    tensors: dict[str, Tensor] = {
        name: torch.from_numpy(frame[name].to_numpy().copy()).reshape(len(frame), *shapes[name])
        for name in _PER_PROMPT
    }
    return Scores(**facts, **tensors)


@cache
def _code() -> str:
    """A hash of the code that scores are computed with: a change of it makes old results stale."""
    package = Path(analysis.__file__).parent
    files = [
        package / "metrics.py",
        *(package / "forward").glob("*.py"),
        *(package / "attribution").glob("*.py"),
    ]
    return _hash("".join(file.read_text(encoding="utf-8") for file in sorted(files)))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
