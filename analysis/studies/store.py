"""Results kept on disk, keyed by everything that they depend on.

The key of scores holds the model's weights and configuration, the prompts, the metric's code, the
method and its settings, and the version of the library's numbers; that of a frame the scores,
models and prompts that it is made from, and the library's code. What they were computed with is
kept beside them and compared when they are read, see `analysis.provenance`.

A file is written whole or not at all; one that cannot be read is computed again, and one that
cannot be written costs a warning, never the result.

Examples:
    >>> import polars as pl
    >>> from analysis import activation_patching, load_model, load_task
    >>> from analysis.studies import store
    >>> model = load_model("testbed")
    >>> pairs = load_task("ioi", model, n=2)

    Computed the first time, read afterwards:

    >>> ap = store.scores(activation_patching, model, pairs, kinds=("heads",))
    >>> again = store.scores(activation_patching, model, pairs, kinds=("heads",))
    >>> again.heads.equal(ap.heads)
    True
    >>> total = lambda: pl.DataFrame({"total": ap.total.numpy()})
    >>> store.frame("total", total, ap).height
    2
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
from transformer_lens.model_bridge import TransformerBridge

import analysis
from analysis import paths
from analysis.attribution import Scores
from analysis.bench.machine import describe
from analysis.identity import hash_of, identify, statements
from analysis.models import fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.tasks import PromptPairs
from analysis.version import ALGORITHM

Result = TypeVar("Result")
MADE = "made"  # the name in a file's metadata of when and where it was computed
_PER_PROMPT = ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source", "prompts")
_NO_NUMBERS = ("charts", "bench", "testbed")
_NOT_IN_KEY = ("progress", "memory", "checkpoints")  # of no number but its last bits
Fact = Scores | TransformerBridge | PromptPairs | str | int | float


def scores(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> Scores:
    """`method(model, pairs, **settings)`, computed once and kept in `data/results/`.

    What an interrupted run had finished lies in a folder beside the file until the run is whole.
    """
    key = key_of(method, model, pairs, **settings)
    path = _path_of(method, pairs, key)
    checkpoints = path.with_suffix(".partial")
    compute = partial(method, model, pairs, checkpoints=checkpoints, **settings)
    found = _kept(path, key, model, _read_scores, compute, _table)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return replace(found, task=pairs.task)  # the same prompts may come from another file


def key_of(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> dict[str, Any]:
    """Everything that decides the scores, in words that JSON has."""
    key = {
        "model": fingerprint(model),
        "prompts": pairs.fingerprint(),
        "method": identify(method),
        "settings": {name: settings[name] for name in settings if name not in _NOT_IN_KEY},
        "algorithm": ALGORITHM,
    }
    return json.loads(json.dumps(key))  # a tuple is then the list that a file's metadata gives


def kept_metadata(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> dict[str, str]:
    """What stands beside the scores that are kept: their key, and how they were made.

    Empty where nothing is kept, as on a disk that is full.
    """
    path = _path_of(method, pairs, key_of(method, model, pairs, **settings))
    return pl.read_parquet_metadata(path) if path.exists() else {}


def frame(name: str, compute: Callable[[], pl.DataFrame], *depends: Fact) -> pl.DataFrame:
    """A frame computed once from `depends`, and kept in `data/results/`."""
    key = _frame_key(depends)
    model = next((fact for fact in depends if isinstance(fact, TransformerBridge)), None)
    return _kept(_path(name, key), key, model, pl.read_parquet, compute, lambda frame: (frame, {}))


def kept_frame(name: str, *depends: Fact) -> pl.DataFrame | None:
    """What `frame` has kept under this name for `depends`; None where there is nothing."""
    path = _path(name, _frame_key(depends))
    return pl.read_parquet(path) if path.exists() else None


def kept_of(weights: Collection[str]) -> list[Path]:
    """What the present code has kept of models with these fingerprints, scores and frames."""
    origins: set[str | int | float] = {*weights}
    scores, frames = [], {}
    for path in paths.RESULTS.glob("*.parquet"):
        with suppress(pl.exceptions.PolarsError, OSError):  # what cannot be read is no result
            key = json.loads(pl.read_parquet_metadata(path).get("key", "{}"))
            if key.get("algorithm") == ALGORITHM and key["model"] in weights:
                scores.append(path)
                origins.add(_fact(_read_scores(path)))
            elif key.get("library") == _library():
                frames[path] = key["depends"]
    return sorted([*scores, *(path for path, of in frames.items() if origins & {*of})])


def _frame_key(depends: tuple[Fact, ...]) -> dict[str, Any]:
    return {"depends": [_fact(fact) for fact in depends], "library": _library()}


def _fact(fact: Fact) -> str | int | float:
    match fact:
        case Scores():
            arrays = b"".join(getattr(fact, name).numpy().tobytes() for name in _PER_PROMPT)
            return sha256(arrays + json.dumps(_facts(fact)).encode()).hexdigest()[:16]
        case TransformerBridge():
            return fingerprint(fact)
        case PromptPairs():
            return fact.fingerprint()
    return fact


def _kept(
    path: Path,
    key: dict[str, Any],
    model: TransformerBridge | None,
    read: Callable[[Path], Result],
    compute: Callable[[], Result],
    described: Callable[[Result], tuple[pl.DataFrame, dict[str, str]]],
) -> Result:
    """What `read` finds at `path`, else what `compute` gives, written there as it is `described`.

    Where a model has a part in it, what the model computes is kept with it and compared.
    """
    provenance = Provenance.of(model) if model else None
    if path.exists():
        try:
            found, metadata = read(path), pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} cannot be read and is computed again: {error}", stacklevel=3)
        else:
            if provenance:
                provenance.check(metadata.get(PROVENANCE), path)
            return found
    start, resumed = time.perf_counter(), path.with_suffix(".partial").exists()
    result = compute()
    table, metadata = described(result)
    metadata["key"] = json.dumps(key)
    if provenance:
        metadata[PROVENANCE] = provenance.text()
        metadata[MADE] = _made(time.perf_counter() - start, resumed)
    try:
        write(path, table, metadata)
    except OSError as error:
        warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=3)
    return result


def _made(seconds: float, resumed: bool) -> str:
    """When and where something was computed, for a file's metadata.

    The commit (with `-dirty` where files differed from it), the processor, torch's threads, the
    memory, the date, and the seconds; where an interrupted run was resumed, those since then.
    """
    took = {"seconds": round(seconds, 1), "resumed": resumed}
    return json.dumps({"commit": _commit()} | describe() | took)


@cache
def _commit() -> str:
    """The clone's commit; `unknown` outside a clone and without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    if not paths.IN_CLONE:
        return "unknown"
    try:
        ran = subprocess.run(command, cwd=paths.DATA, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return ran.stdout.strip()


def write(path: Path, table: pl.DataFrame, metadata: dict[str, str]) -> None:
    """Writes beside the file's place, then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, file = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        table.write_parquet(file, metadata=metadata)
        os.replace(file, path)
    finally:
        Path(file).unlink(missing_ok=True)


def _path_of(method: Callable[..., Scores], pairs: PromptPairs, key: dict[str, Any]) -> Path:
    return _path(f"{method.__name__}-{Path(pairs.task).stem}", key)


def _path(name: str, key: dict[str, Any]) -> Path:
    safe = re.sub(r"[^\w.-]", "_", name)  # it may come from a user's file
    return paths.RESULTS / f"{safe}-{hash_of(key)}.parquet"


def _facts(scores: Scores) -> dict[str, str]:
    """What is said once of all prompts."""
    shape = {name: list(getattr(scores, name).shape[1:]) for name in _PER_PROMPT}
    names = ("method", "task", "direction", "baseline", "left_out")
    about = {name: getattr(scores, name) for name in names} | {"shape": shape}
    return {"scores": json.dumps(about)}


def _table(scores: Scores) -> tuple[pl.DataFrame, dict[str, str]]:
    """A row a prompt, with several numbers of a prompt in one array; and the facts."""
    arrays = {name: getattr(scores, name) for name in _PER_PROMPT}
    columns = {name: of.flatten(1) if of.ndim > 1 else of for name, of in arrays.items()}
    return pl.DataFrame({name: of.numpy() for name, of in columns.items()}), _facts(scores)


def _read_scores(path: Path) -> Scores:
    frame = pl.read_parquet(path)
    facts = json.loads(pl.read_parquet_metadata(path)["scores"])
    shapes = facts.pop("shape")
    tensors: dict[str, Any] = {
        name: torch.from_numpy(frame[name].to_numpy().copy()).reshape(len(frame), *shapes[name])
        for name in _PER_PROMPT
    }
    return Scores(**facts, **tensors)


@cache
def _library() -> str:
    """A hash of the code that computes frames, without its comments, docstrings and layout."""
    package, sources = Path(analysis.__file__).parent, []
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).parts[0] not in _NO_NUMBERS:
            sources.append(statements(file.read_text(encoding="utf-8")))
    return hash_of([ALGORITHM, *sources])
