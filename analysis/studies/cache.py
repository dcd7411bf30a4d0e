"""Results kept on disk, keyed by everything that they depend on.

The key of scores holds the model's weights and configuration, the prompts, the metric's code, the
method and its settings, and the version of the library's numbers; that of a frame the scores,
models and prompts that it is made from, and the library's code. What they were computed with is
kept beside them and compared when they are read, see `analysis.provenance`.

A file is written whole or not at all; one that cannot be read is computed again, and one that
cannot be written costs a warning, never the result.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
from transformer_lens.model_bridge import TransformerBridge

import analysis
from analysis import paths
from analysis.attribution import Scores
from analysis.identity import hash_of, identify, statements
from analysis.models import fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.tasks import PromptPairs
from analysis.version import ALGORITHM

Result = TypeVar("Result")
_PER_PROMPT = ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source", "prompts")
_STUDYING = (
    *("metrics.py", "forward", "attribution", "agreement.py"),
    *("ablation.py", "latent.py", "mediation", "studies"),
)
_NO_SETTINGS = ("progress", "memory", "checkpoints")  # of no number but its last bits
_UNSAFE = re.compile(r"[^\w.-]")  # in a file's name, which may come from a user's file
Fact = Scores | TransformerBridge | PromptPairs | str | int | float


def cached_scores(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> Scores:
    """`method(model, pairs, **settings)`, computed once and kept in `data/results/`.

    What an interrupted run had finished lies in a folder beside the file until the run is whole.

    Raises:
        ValueError: where what is kept was made by a model that computed something else.

    Examples:
        >>> from analysis import activation_patching, load_model, load_task
        >>> from analysis.studies.cache import cached_scores
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)

        Computed the first time, read afterwards:

        >>> ap = cached_scores(activation_patching, model, pairs, kinds=("heads",))
        >>> cached_scores(activation_patching, model, pairs, kinds=("heads",)).heads.equal(
        ...     ap.heads
        ... )
        True
    """
    key = {
        "model": fingerprint(model),
        "prompts": pairs.fingerprint(),
        "method": identify(method),
        "settings": {name: settings[name] for name in settings if name not in _NO_SETTINGS},
        "algorithm": ALGORITHM,
    }
    path = _path(f"{method.__name__}-{Path(pairs.task).stem}", key)
    checkpoints, provenance = path.with_suffix(".partial"), Provenance.of(model)
    scores = _kept(
        path,
        lambda: _read_scores(path),
        lambda: method(model, pairs, checkpoints=checkpoints, **settings),
        lambda scores, file: _to_frame(scores).write_parquet(
            file, metadata=_facts(scores) | _metadata(key, provenance)
        ),
        provenance,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return replace(scores, task=pairs.task)  # the same prompts may come from another file


def cached_frame(name: str, compute: Callable[[], pl.DataFrame], *depends: Fact) -> pl.DataFrame:
    """A frame computed once from `depends`, and kept in `data/results/`.

    Raises:
        ValueError: where what is kept was made by a model that computed something else.

    Examples:
        >>> import polars as pl
        >>> from analysis.studies.cache import cached_frame

        Computed the first time, read afterwards:

        >>> squares = cached_frame("squares", lambda: pl.DataFrame({"square": [1, 4, 9]}), 3)
        >>> squares["square"].to_list()
        [1, 4, 9]
    """
    key = _frame_key(depends)
    path = _path(name, key)
    models = [fact for fact in depends if isinstance(fact, TransformerBridge)]
    provenance = Provenance.of(models[0]) if models else None
    return _kept(
        path,
        lambda: pl.read_parquet(path),
        compute,
        lambda frame, file: frame.write_parquet(file, metadata=_metadata(key, provenance)),
        provenance,
    )


def kept_frame(name: str, *depends: Fact) -> pl.DataFrame | None:
    """What `cached_frame` has kept under this name for `depends`; None where there is nothing."""
    path = _path(name, _frame_key(depends))
    return pl.read_parquet(path) if path.exists() else None


def kept_of(weights: Collection[str]) -> list[Path]:
    """What the present code has kept of models with these fingerprints, scores and frames."""
    keys = dict(_keys())
    scores = [path for path, key in keys.items() if key.get("model") in weights]
    origins = {*weights, *(_digest(_read_scores(path)) for path in scores)}
    return sorted(
        path for path, key in keys.items() if path in scores or origins & {*key.get("depends", ())}
    )


def _keys() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every result kept by the present code, with its key."""
    present = {"algorithm": ALGORITHM, "library": _library()}
    for path in sorted(paths.RESULTS.glob("*.parquet")):
        with suppress(pl.exceptions.PolarsError, OSError):  # what cannot be read is no result
            key = json.loads(pl.read_parquet_metadata(path).get("key", "{}"))
            if any(key.get(name) == value for name, value in present.items()):
                yield path, key


def _frame_key(depends: tuple[Fact, ...]) -> dict[str, Any]:
    return {"depends": [_fact(fact) for fact in depends], "library": _library()}


def _fact(fact: Fact) -> str | int | float:
    match fact:
        case Scores():
            return _digest(fact)
        case TransformerBridge():
            return fingerprint(fact)
        case PromptPairs():
            return fact.fingerprint()
    return fact


def _metadata(key: dict[str, Any], provenance: Provenance | None) -> dict[str, str]:
    made_with = {PROVENANCE: provenance.text()} if provenance else {}
    return {"key": json.dumps(key)} | made_with


def _kept(
    path: Path,
    read: Callable[[], Result],
    compute: Callable[[], Result],
    write: Callable[[Result, str], None],
    provenance: Provenance | None,
) -> Result:
    """What `read` finds at `path`, else what `compute` gives, written there."""
    if path.exists():
        try:
            found, metadata = read(), pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} cannot be read and is computed again: {error}", stacklevel=3)
        else:
            if provenance:
                provenance.check(metadata.get(PROVENANCE), path)
            return found
    result = compute()
    try:
        _write(path, lambda file: write(result, file))
    except OSError as error:
        warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=3)
    return result


def _write(path: Path, write: Callable[[str], None]) -> None:
    """Writes beside the file's place, then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _path(name: str, key: dict[str, Any]) -> Path:
    return paths.RESULTS / f"{_UNSAFE.sub('_', name)}-{hash_of(key)}.parquet"


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


def _read_scores(path: Path) -> Scores:
    frame = pl.read_parquet(path)
    facts = json.loads(pl.read_parquet_metadata(path)["scores"])
    shapes = facts.pop("shape")
    tensors: dict[str, Any] = {
        name: torch.from_numpy(frame[name].to_numpy().copy()).reshape(len(frame), *shapes[name])
        for name in _PER_PROMPT
    }
    return Scores(**facts, **tensors)


def _digest(scores: Scores) -> str:
    arrays = b"".join(getattr(scores, name).numpy().tobytes() for name in _PER_PROMPT)
    return sha256(arrays + json.dumps(_facts(scores)).encode()).hexdigest()[:16]


def _library() -> list[str | int]:
    return [ALGORITHM, _code(_STUDYING)]


@cache
def _code(parts: tuple[str, ...]) -> str:
    """A hash of the code that computes a result: a change of it makes old results stale.

    Comments, docstrings and layout play no part.
    """
    package = Path(analysis.__file__).parent
    files = [file for part in parts for file in _python_files(package / part)]
    return hash_of([statements(file.read_text(encoding="utf-8")) for file in sorted(files)])


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob("*.py"))
