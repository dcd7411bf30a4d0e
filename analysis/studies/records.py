"""Records: scores of the language model that ship with the project, in `data/records/`.

A record is one call of one method on one task in one direction. It is read by its names, without
the model: pages that show it take seconds, and need no weights. `make records` computes all of them
again; what an interrupted run had finished is not computed twice.

In a record's table each row is one quantity: `what` it is (base, source, heads, neurons, heads_gap
or neurons_gap), its layer and component, and `scores`, its values on the first prompts, as many as
are kept. For neurons, `mean` and `variance` are over the first `averaged` prompts, and may stand
alone: a gradient method's scores of single prompts are kept of those neurons that were patched too.
The file's metadata say under "key" what decides the numbers, as the cache does (`store.key_of`),
and under "provenance" and "made" what they were computed with, when and where.

Examples:
    >>> from analysis.studies import Studied, records
    >>> record = records.measured(Studied("testbed", 2), "ioi", "noising", "AtP")
    >>> record.scores.heads.shape, record.mean.shape, record.averaged
    (torch.Size([2, 4, 8]), torch.Size([4, 768]), 2)
    >>> bool(record.scores.neurons.mean(dim=0).allclose(record.mean))
    True
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import paths
from analysis.attribution import (
    Scores,
    activation_patching,
    attribution_patching,
    integrated_gradients,
)
from analysis.checks import one_of
from analysis.choices import DIRECTIONS, Direction, Kind
from analysis.provenance import PROVENANCE
from analysis.studies import PROMPTS, Studied, language_model, store
from analysis.tasks import TASKS, load_task
from analysis.version import ALGORITHM

SEED = 0  # of the prompts and of the sample of neurons
SAMPLE, SAMPLE_PROMPTS = 24, 24  # neurons of each layer, patched on so many prompts
INTEGRATED_PROMPTS = 64  # which two cores integrate in half an hour
EVERY_PROMPTS = 4  # on which every neuron is patched
_PER_PROMPT = ("base", "source", "heads", "neurons", "heads_gap", "neurons_gap")
_ABOUT = ("method", "task", "direction", "baseline", "left_out")
_COLUMNS = {
    "what": pl.String,
    "layer": pl.Int16,
    "component": pl.Int16,
    "mean": pl.Float32,
    "variance": pl.Float32,
    "scores": pl.List(pl.Float32),
}


@dataclass(frozen=True)
class Recorded:
    """Scores with what is known of them beyond single prompts.

    `scores.neurons` is NaN where a prompt's score is not kept. `mean` and `variance` (that of a
    sample, to two digits) are over the first `averaged` prompts, and NaN where a neuron was not
    measured. `metadata` is that of the file: key, provenance, made.
    """

    scores: Scores
    mean: Float[Tensor, "layer neuron"]
    variance: Float[Tensor, "layer neuron"]
    averaged: int
    metadata: dict[str, str]


@dataclass(frozen=True)
class Measurement:
    """A call of a method: on how many prompts at most, and of which components."""

    method: Callable[..., Scores]
    prompts: int
    kind: Kind | None = None  # both, unless neurons are chosen
    neurons: Callable[[int, int], list[tuple[int, int]]] | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    directions: tuple[Direction, ...] = DIRECTIONS

    def settings(self, model: TransformerBridge) -> dict[str, Any]:
        """The method's arguments that say what is measured."""
        if self.neurons:
            layers, _, neurons = _shape(model)
            return {"components": {"neurons": self.neurons(layers, neurons)}}
        return {"kinds": (self.kind,)} if self.kind else {}

    def work(self, model: TransformerBridge) -> int:
        """Roughly how many runs from a layer on, a gradient counted as three."""
        layers, heads, neurons = _shape(model)
        if self.method is activation_patching:
            every = layers * (neurons if self.kind == "neurons" else heads)
            return self.prompts * (len(self.neurons(layers, neurons)) if self.neurons else every)
        return self.prompts * (6 if self.method is attribution_patching else 2 * 9 * 3 * layers)


def _shape(model: TransformerBridge) -> tuple[int, int, int]:
    return model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp or 0


def sample(layers: int, neurons: int) -> list[tuple[int, int]]:
    """`SAMPLE` neurons of each layer, or all, drawn uniformly and without replacement."""
    draw, size = random.Random(SEED), min(SAMPLE, neurons)
    drawn = [sorted(draw.sample(range(neurons), size)) for _ in range(layers)]
    return [(layer, neuron) for layer, chosen in enumerate(drawn) for neuron in chosen]


# In this order, so that an interrupted run has the cheap ones of every task.
MEASUREMENTS = {
    "AtP": Measurement(attribution_patching, PROMPTS),
    "AP-heads": Measurement(activation_patching, PROMPTS, kind="heads"),
    "IG": Measurement(integrated_gradients, INTEGRATED_PROMPTS),
    "AP-sample": Measurement(activation_patching, SAMPLE_PROMPTS, neurons=sample),
    "AP-neurons": Measurement(
        activation_patching,
        EVERY_PROMPTS,
        kind="neurons",
        tasks=("ioi",),
        directions=("noising",),
    ),
}
Name = tuple[str, Direction, str]  # task, direction, measurement


def measurements(task: str, direction: Direction) -> list[str]:
    """What is measured on a task in a direction."""
    found = MEASUREMENTS.items()
    return [name for name, of in found if task in of.tasks and direction in of.directions]


def names() -> list[Name]:
    """Every record's task, direction and measurement, the cheap measurements first."""
    return [
        (task, direction, name)
        for name, task, direction in product(MEASUREMENTS, TASKS, DIRECTIONS)
        if name in measurements(task, direction)
    ]


def path_of(model: str, task: str, direction: Direction, measurement: str) -> Path:
    """Where a record of this model is, if there is one."""
    one_of("measurement", measurement, MEASUREMENTS)
    safe = re.sub(r"[^\w.-]", "_", model)  # it may be a path
    return paths.RECORDS / safe / f"{task}-{direction}-{measurement}.parquet"


def exists(model: str, task: str, direction: Direction, measurement: str) -> bool:
    """Whether this record ships; a directory here that has a model's name is another model."""
    return path_of(model, task, direction, measurement).exists() and not Path(model).is_dir()


def ship(model: str) -> bool:
    """Whether all records of a model do."""
    return all(exists(model, *name) for name in names())


def read(model: str, task: str, direction: Direction, measurement: str) -> Recorded:
    """A record by its names, without the model.

    Raises:
        ValueError: where there is none, and where it was made by another version of the methods.
    """
    path = path_of(model, task, direction, measurement)
    again = f"run `make records`, with ANALYSIS_MODEL={model}"
    if not exists(model, task, direction, measurement):
        raise ValueError(f"There is no record {path.name} of the model {model!r}: {again}.")
    metadata = pl.read_parquet_metadata(path)
    version = json.loads(metadata["key"])["algorithm"]
    if version != ALGORITHM:
        raise ValueError(
            f"{path} holds numbers of version {version} of the methods, and the present ones are "
            f"version {ALGORITHM}: {again}."
        )
    return _read(pl.read_parquet(path), metadata)


def measured(
    about: Studied,
    task: str,
    direction: Direction,
    measurement: str,
    seed: int = SEED,
    progress: bool | None = None,
) -> Recorded:
    """The record where one ships, on as many prompts as it has; else computed by the loaded model.

    What is computed is on the record's number of prompts or `about.prompts`, whichever is less,
    and is kept in the cache.
    """
    if seed == SEED and exists(about.name, task, direction, measurement):
        return read(about.name, task, direction, measurement)
    return compute(about, task, direction, measurement, seed, progress)


def compute(
    about: Studied,
    task: str,
    direction: Direction,
    measurement: str,
    seed: int = SEED,
    progress: bool | None = None,
) -> Recorded:
    """What a record holds, from the cache or by the loaded model."""
    one_of("measurement", measurement, MEASUREMENTS)
    of, model = MEASUREMENTS[measurement], about.model
    pairs = load_task(task, model, n=min(about.prompts, of.prompts), seed=seed)
    settings = {"direction": direction} | of.settings(model)
    scores = store.scores(of.method, model, pairs, progress=progress, **settings)
    found = store.kept_metadata(of.method, model, pairs, **settings)
    metadata = {name: found.get(name, "{}") for name in ("key", PROVENANCE, store.MADE)}
    averaged = MEASUREMENTS["IG"].prompts  # AtP's means are of the same prompts as IG's
    neurons = scores.neurons[:averaged]
    centred = neurons - neurons.mean(dim=0)
    variance = centred.square().sum(dim=0) / (len(neurons) - 1)  # NaN of a single prompt
    # Two digits of a variance are enough, and take half the space.
    summary = neurons.mean(dim=0), variance.bfloat16().float(), len(neurons)
    if of.method is not activation_patching and neurons.numel():
        shorter = _forget(scores.neurons, _prompts_kept(task, direction, *neurons.shape[1:]))
        scores = replace(scores, neurons=shorter)
    return Recorded(scores, *summary, metadata)


def _prompts_kept(
    task: str, direction: Direction, layers: int, neurons: int
) -> Int[Tensor, "layer neuron"]:
    """On how many prompts a gradient method's scores stand beside the neuron's effects."""
    kept = torch.zeros(layers, neurons, dtype=torch.long)
    here = [MEASUREMENTS[name] for name in measurements(task, direction)]
    for of in sorted(here, key=lambda of: of.prompts):
        if of.neurons:
            chosen = torch.tensor(of.neurons(layers, neurons))
            kept[chosen[:, 0], chosen[:, 1]] = of.prompts
        elif of.method is activation_patching and of.kind == "neurons":
            kept[:] = of.prompts
    return kept


def _forget(
    scores: Float[Tensor, "prompt layer neuron"], kept: Int[Tensor, "layer neuron"]
) -> Float[Tensor, "prompt layer neuron"]:
    """NaN after each neuron's first so many prompts."""
    return torch.where(torch.arange(len(scores))[:, None, None] < kept, scores, torch.nan)


def write(model: str, name: Name, record: Recorded) -> Path:
    """Writes a record whole or not at all, and returns its file."""
    path, scores = path_of(model, *name), record.scores
    facts: dict[str, Any] = {of: getattr(scores, of) for of in _ABOUT}
    facts["prompts"] = scores.prompts.tolist()
    facts["shapes"] = {of: list(getattr(scores, of).shape) for of in _PER_PROMPT}
    facts["averaged"] = record.averaged
    table = pl.concat(_rows(of, getattr(scores, of), record) for of in _PER_PROMPT)
    store.write(path, table, record.metadata | {"record": json.dumps(facts)})
    return path


def _rows(what: str, values: Float[Tensor, "prompt ..."], record: Recorded) -> pl.DataFrame:
    """A row for each quantity of which something is known."""
    flat = values.reshape(len(values), values[0].numel()).T.numpy()
    columns: dict[str, Any] = dict.fromkeys(_COLUMNS)
    columns["what"] = [what] * len(flat)
    columns["scores"] = [scores[~np.isnan(scores)].tolist() or None for scores in flat]
    places = np.indices(values.shape[1:]).reshape(values.ndim - 1, len(flat))
    columns |= dict(zip(("layer", "component"), places, strict=False))
    if what == "neurons":
        columns |= {of: getattr(record, of).flatten().numpy() for of in ("mean", "variance")}
    frame = pl.DataFrame(columns, schema=_COLUMNS)
    frame = frame.with_columns(pl.col("mean", "variance").fill_nan(None))
    return frame.filter(pl.col("mean").is_not_null() | pl.col("scores").is_not_null())


def _read(table: pl.DataFrame, metadata: dict[str, str]) -> Recorded:
    facts = json.loads(metadata["record"])
    shapes, averaged = facts.pop("shapes"), facts.pop("averaged")
    tensors: dict[str, Any] = {of: torch.full(shapes[of], torch.nan) for of in _PER_PROMPT}
    mean, variance = (torch.full(shapes["neurons"][1:], torch.nan) for _ in range(2))
    for what, layer, component, average, spread, scores in table.iter_rows():
        place = tuple(it for it in (layer, component) if it is not None)
        if scores is not None:
            tensors[what][(slice(len(scores)), *place)] = torch.tensor(scores)
        if average is not None:
            mean[place], variance[place] = average, spread
    prompts = torch.tensor(facts.pop("prompts"))
    about = {name: metadata[name] for name in ("key", PROVENANCE, store.MADE)}
    return Recorded(Scores(**facts, **tensors, prompts=prompts), mean, variance, averaged, about)


def make(about: Studied) -> None:
    """Computes and writes every record of a model; says what each took, and how long is left."""
    plan, seconds = names(), {}
    for index, name in enumerate(plan):
        record = compute(about, *name)
        path = write(about.name, name, record)
        took = json.loads(record.metadata[store.MADE]).get("seconds", 0.0)
        seconds.setdefault(name[2], []).append(took)
        left = _seconds_left(about.model, seconds, plan[index + 1 :]) / 60
        size = path.stat().st_size / 1000
        print(
            f"{index + 1}/{len(plan)} {path.stem}: {took:.0f} s, {size:.0f} kB; "
            f"about {left:.0f} min left",
            flush=True,
        )


def _seconds_left(
    model: TransformerBridge, seconds: dict[str, list[float]], plan: list[Name]
) -> float:
    """By the mean of the same measurement, or by the work where none of it is done."""
    works = {name: of.work(model) for name, of in MEASUREMENTS.items()}
    done = sum(works[name] * len(of) for name, of in seconds.items())
    rate = sum(map(sum, seconds.values())) / done
    means = {name: sum(of) / len(of) for name, of in seconds.items()}
    return sum((means.get(name, works[name] * rate) for _, _, name in plan), start=0.0)


def main() -> None:
    """Makes the records of the language model."""
    make(language_model())


if __name__ == "__main__":
    main()
