"""What the report was made with and from: machine, versions, seeds, and hashes of what is kept.

Hashes of files are SHA-256's first 16 hexadecimal digits. A result's hash is one of its numbers,
not of its file, whose bytes and name change with the library; the last bits of a number, and so
the hash, can differ between processors.
"""

import json
import os
import platform
import re
from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import polars as pl
import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis import paths
from analysis.bench.machine import hardware
from analysis.models import available_testbeds, fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.studies import loaded
from analysis.studies.across_models import models_compared
from analysis.studies.aligned_baselines import PROMPTS
from analysis.studies.cache import kept_of
from analysis.tasks import TASKS, load_task

PACKAGES = (
    *("torch", "transformers", "transformer-lens", "tokenizers", "safetensors"),
    *("numpy", "scipy", "polars", "altair", "vl-convert-python"),
    *("jaxtyping", "beartype", "hypothesis", "pytest", "captum"),
)
MISSING = "–"
_PIN = re.compile(r"^([\w.-]+)==(\S+)$", re.MULTILINE)
_DIGITS = 16


def machine() -> dict[str, str | int]:
    """The machine that this process runs on, and how torch uses it."""
    return {
        **hardware(),
        "cores": os.cpu_count() or 1,
        "operating system": platform.platform(),
        "Python": platform.python_version(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def versions() -> pl.DataFrame:
    """Columns package, here (what is installed), pinned (in constraints.txt)."""
    pins = dict(_PIN.findall(paths.CONSTRAINTS.read_text(encoding="utf-8")))
    rows = [(name, _installed(name), pins.get(name, MISSING)) for name in PACKAGES]
    return pl.DataFrame(rows, schema=["package", "here", "pinned"], orient="row")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def testbeds() -> pl.DataFrame:
    """The weights that ship with the project: model, training seed, bytes, sha256."""
    return pl.DataFrame([_testbed(paths.MODELS / name) for name in available_testbeds()])


def _testbed(directory: Path) -> dict[str, str | int]:
    training = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    about = {"model": directory.name, "training seed": training["seed"]}
    return about | _file(directory / "model.safetensors")


def task_files() -> pl.DataFrame:
    """The word lists and templates: file, bytes, sha256."""
    return pl.DataFrame(
        [{"file": path.name} | _file(path) for path in sorted(paths.TASKS.glob("*.json"))]
    )


def _file(path: Path) -> dict[str, str | int]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": sha256(content).hexdigest()[:_DIGITS]}


def prompts(model: TransformerBridge, n: int = PROMPTS, seed: int = 0) -> pl.DataFrame:
    """Each task's prompts as drawn: task, prompts, left out, hash (`PromptPairs.fingerprint`)."""
    drawn = (load_task(task, model, n=n, seed=seed) for task in TASKS)
    return pl.DataFrame(
        [
            {
                "task": pairs.task,
                "prompts": len(pairs),
                "left out": sum(pairs.left_out.values()),
                "hash": pairs.fingerprint(),
            }
            for pairs in drawn
        ]
    )


def results(without: Iterable[str] = ("studies",)) -> pl.DataFrame:
    """What is kept of the report's models by the present code: result, files, bytes, rows, hash.

    A row a kind of result; its hash is one of its files' hashes in their own order. Left out are
    the results named `without`, by default the seconds that studies took.
    """
    kept = kept_of({fingerprint(loaded(name)) for name in models_compared()})
    files = pl.DataFrame([_result(path) for path in kept], schema=_RESULT)
    return (
        files.filter(~pl.col("result").is_in(list(without)))
        .group_by("result")
        .agg(
            files=pl.len(),
            bytes=pl.col("bytes").sum(),
            rows=pl.col("rows").sum(),
            hash=pl.col("hash").sort().str.join(),
        )
        .with_columns(pl.col("hash").map_elements(_hash_of, return_dtype=pl.String))
        .sort("result")
    )


def made_with() -> pl.DataFrame:
    """What kept results of the report's models were computed with: a column a library, files.

    A row for all that were made alike; results that are made from scores alone do not say it again.
    """
    kept = kept_of({fingerprint(loaded(name)) for name in models_compared()})
    texts = [pl.read_parquet_metadata(path).get(PROVENANCE) for path in kept]
    found = pl.DataFrame([Provenance.read(text).made_with for text in texts if text])
    return found.group_by(found.columns).agg(files=pl.len()).sort("files", descending=True)


_RESULT = {"result": pl.String, "bytes": pl.Int64, "rows": pl.Int64, "hash": pl.String}
_ABOUT = re.compile(f"-({'|'.join(TASKS)}|example)(?=-).*|-[0-9a-f]{{{_DIGITS}}}$")


def _result(path: Path) -> dict[str, str | int]:
    frame = pl.read_parquet(path)
    return {
        "result": _ABOUT.sub("", path.stem),
        "bytes": path.stat().st_size,
        "rows": frame.height,
        "hash": content_hash(frame),
    }


def content_hash(frame: pl.DataFrame) -> str:
    """A hash of a frame's columns, types and values, whatever file they are read from."""
    digest = sha256()
    for column in frame.iter_columns():
        digest.update(f"{column.name} {column.dtype}".encode())
        values = column.explode() if isinstance(column.dtype, pl.Array) else column
        plain = values.dtype.is_numeric() and not values.null_count()
        digest.update(
            values.to_numpy().tobytes() if plain else json.dumps(values.to_list()).encode()
        )
    return digest.hexdigest()[:_DIGITS]


def _hash_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGITS]
