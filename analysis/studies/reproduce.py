"""What the report was made from, and what it finds where others published figures of GPT-2 small.

Hashes are SHA-256's first 16 hexadecimal digits. A result's hash is one of its numbers, not of its
file, whose bytes and name change with the library; the last bits of a number, and so the hash, can
differ between processors.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import average_correlation, mean_over_prompts
from analysis.attribution import Scores, activation_patching
from analysis.choices import KINDS
from analysis.models import fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.studies import PROMPTS, both_methods, loaded, models_compared, store, tidy
from analysis.tasks import TASKS, load_task

THIRD_NAME = "corrupted, a third name"
_RESULT = {"result": str, "bytes": int, "rows": int, "hash": str, "made_with": str}
# What of a file's name is not its kind of result.
_ABOUT = re.compile(f"-({'|'.join(TASKS)}|example)(?=-).*|-[0-9a-f]{{16}}$")


def reproduction(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """What `data/literature/` has of GPT-2 small, of this model; noising, `baseline="source"`.

    Columns: task, run, kind, layer, head, statistic, of which `metric` is the mean by run (clean,
    corrupted, and on IOI `THIRD_NAME`, the published kind of corrupted prompts); `r over prompts`
    is Pearson's, of IG with AP, by kind; and `rank` is that of each head by |mean AP|, from 1.
    """
    rows = []
    for _, ap, ig in both_methods(model, n, seed, progress, tasks, ("noising",)):
        metrics = {"clean": ap.base, "corrupted": ap.source}
        if ap.task == "ioi":
            pairs = load_task(ap.task, model, n=n, seed=seed, corruption="abc")
            runs = store.scores(activation_patching, model, pairs, kinds=(), progress=progress)
            metrics[THIRD_NAME] = runs.source
        rows += [{"task": ap.task} | row for row in _of_task(ap, ig, metrics)]
    return tidy(rows)


def _of_task(ap: Scores, ig: Scores, metrics: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    for run, metric in metrics.items():
        found = mean_over_prompts(metric)
        yield {"run": run, "statistic": "metric", "estimate": found, "n": len(metric)}
    for kind in KINDS:
        found = average_correlation(ap.of(kind), ig.of(kind))
        yield {"kind": kind, "statistic": "r over prompts", "estimate": found, "n": len(ap.prompts)}
    sizes = ap.heads.mean(dim=0).abs().numpy()
    order = np.argsort(-sizes, axis=None, kind="stable").tolist()
    for rank, (layer, head) in enumerate((divmod(at, sizes.shape[1]) for at in order), start=1):
        about = {"kind": "heads", "layer": layer, "head": head, "statistic": "rank"}
        yield about | {"estimate": rank, "n": len(ap.prompts)}


def results() -> pl.DataFrame:
    """What is kept of the report's models by the present code, a row per file.

    Columns: result (its kind), bytes, rows, hash, and made_with, the versions and the machine in
    JSON; it is null where a result is made from scores alone, which say it. The seconds that
    studies took are left out: they are no results.
    """
    rows = []
    for path in store.kept_of({fingerprint(loaded(name)) for name in models_compared()}):
        if not path.name.startswith("studies-"):
            frame, text = pl.read_parquet(path), pl.read_parquet_metadata(path).get(PROVENANCE)
            made_with = json.dumps(Provenance.read(text).made_with) if text else None
            about = _ABOUT.sub("", path.stem), path.stat().st_size, len(frame)
            rows.append((*about, content_hash(frame), made_with))
    return pl.DataFrame(rows, schema=_RESULT, orient="row")


def content_hash(frame: pl.DataFrame) -> str:
    """A hash of a frame's columns, types and values, whatever file they are read from."""
    content = []
    for column in frame.iter_columns():
        values = column.explode() if isinstance(column.dtype, pl.Array) else column
        plain = values.dtype.is_numeric() and not values.null_count()
        content += [
            f"{column.name} {column.dtype}".encode(),
            values.to_numpy().tobytes() if plain else json.dumps(values.to_list()).encode(),
        ]
    return digest(b"".join(content))


def digest(content: bytes) -> str:
    """SHA-256's first 16 hexadecimal digits."""
    return sha256(content).hexdigest()[:16]
