"""Results kept on disk, keyed by everything that they depend on.

A file is written whole or not at all; one that cannot be read is computed again, and one that
cannot be written costs a warning, never the result.
"""

import ast
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
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
from analysis.models import fingerprint
from analysis.tasks import PromptPairs

Result = TypeVar("Result")
_PER_PROMPT = ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source", "prompts")
_SCORING = ("metrics.py", "forward", "attribution")
_STUDYING = (*_SCORING, "agreement.py", "ablation.py", "latent.py", "mediation", "studies")


def cached_scores(
    method: Callable[..., Scores], model: TransformerBridge, pairs: PromptPairs, **settings: Any
) -> Scores:
    """`method(model, pairs, **settings)`, computed once and kept in `data/results/`.

    The key holds the weights, the prompts, the method and its settings, and the library's version
    and code. What an interrupted run had finished lies in a folder beside the file until the run
    is whole.

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
        "weights": fingerprint(model),
        "prompts": pairs.fingerprint(),
        "method": method.__name__,
        "settings": {name: value for name, value in settings.items() if name != "progress"},
        "library": _library(_SCORING),
    }
    path = _path(f"{method.__name__}-{Path(pairs.task).stem}", key)
    checkpoints = path.with_suffix(".partial")
    scores = _kept(
        path,
        lambda: _read_scores(path),
        lambda: method(model, pairs, checkpoints=checkpoints, **settings),
        lambda scores, file: _to_frame(scores).write_parquet(
            file, metadata=_facts(scores) | {"key": json.dumps(key)}
        ),
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return scores


def cached_frame(
    name: str, compute: Callable[[], pl.DataFrame], *depends: Scores | str | int | float
) -> pl.DataFrame:
    """A frame computed once from `depends`, and kept in `data/results/`.

    The key holds `depends`, scores by their numbers, and the library's version and code.

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
    return _kept(
        path,
        lambda: pl.read_parquet(path),
        compute,
        lambda frame, file: frame.write_parquet(file, metadata={"key": json.dumps(key)}),
    )


def kept_frame(name: str, *depends: Scores | str | int | float) -> pl.DataFrame | None:
    """What `cached_frame` has kept under this name for `depends`; None where there is nothing."""
    path = _path(name, _frame_key(depends))
    return pl.read_parquet(path) if path.exists() else None


def kept_of(weights: Collection[str]) -> list[Path]:
    """What the present code has kept of models with these fingerprints, scores and frames."""
    keys = dict(_keys())
    scores = [path for path, key in keys.items() if key.get("weights") in weights]
    origins = {*weights, *(_digest(_read_scores(path)) for path in scores)}
    return sorted(
        path for path, key in keys.items() if path in scores or origins & {*key.get("depends", ())}
    )


def _keys() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every result kept by the present code, with its key."""
    present = _library(_SCORING), _library(_STUDYING)
    for path in sorted(paths.RESULTS.glob("*.parquet")):
        with suppress(pl.exceptions.PolarsError, OSError):  # what cannot be read is no result
            key = json.loads(pl.read_parquet_metadata(path).get("key", "{}"))
            if key.get("library") in present:
                yield path, key


def _frame_key(depends: tuple[Scores | str | int | float, ...]) -> dict[str, Any]:
    facts = [_digest(fact) if isinstance(fact, Scores) else fact for fact in depends]
    return {"depends": facts, "library": _library(_STUDYING)}


def _kept(
    path: Path,
    read: Callable[[], Result],
    compute: Callable[[], Result],
    write: Callable[[Result, str], None],
) -> Result:
    """What `read` finds at `path`, else what `compute` gives, written there."""
    if path.exists():
        try:
            return read()
        except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} cannot be read and is computed again: {error}", stacklevel=3)
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
    return paths.RESULTS / f"{name}-{_hash(json.dumps(key, sort_keys=True))}.parquet"


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


def _library(parts: tuple[str, ...]) -> list[str]:
    return [analysis.__version__, _code(parts)]


@cache
def _code(parts: tuple[str, ...]) -> str:
    """A hash of the code that computes a result: a change of it makes old results stale.

    Comments, docstrings and layout play no part.
    """
    package = Path(analysis.__file__).parent
    files = [file for part in parts for file in _python_files(package / part)]
    return _hash("".join(_statements(file.read_text(encoding="utf-8")) for file in sorted(files)))


def _statements(source: str) -> str:
    """What the source does, without what it says of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [statement for statement in node.body if not _is_docstring(statement)]
    return ast.dump(tree)


def _is_docstring(statement: ast.stmt) -> bool:
    """A constant that stands alone, also below what it describes."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob("*.py"))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
