"""Every study that the report shows, computed beforehand on several processes.

The plan is a list of chains. The units of a chain share scores, so one process works them in turn,
and no two processes compute the same. Studies keep their results, so that pages only read them, and
a run that was stopped goes on where it was.

Examples:
    >>> from analysis.studies import Studied
    >>> from analysis.studies.run import units
    >>> [unit.study for unit in units(Studied("testbed", 100))[0]]
    ['aligned_baselines', 'every_neuron', 'consequences', 'circuits', 'name_readers']
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import polars as pl
import torch
from tqdm import tqdm

from analysis.studies import (
    UNTRAINED,
    Studied,
    exact_model,
    is_testbed,
    language_model,
    loaded,
    models_compared,
    records,
    store,
)
from analysis.studies.aligned_baselines import aligned_baselines
from analysis.studies.alignment import baselines, steps
from analysis.studies.consequences import across_models, circuits, consequences
from analysis.studies.mediators import head_to_head, latent_question, name_readers
from analysis.studies.original import original
from analysis.studies.reproduce import reproduction
from analysis.studies.stand_ins import every_neuron, sampled_neurons
from analysis.tasks import TASKS, load_task

# These take as many prompts as a run is asked for, the others as many as they do by default.
_ON_ALL_PROMPTS = (
    *(aligned_baselines, consequences, circuits, name_readers, original, reproduction),
    *(every_neuron, sampled_neurons),
)
_OVER_MODELS = (across_models, latent_question, sampled_neurons)  # by their names
_STUDIES = (*_ON_ALL_PROMPTS, *_OVER_MODELS, baselines, steps, head_to_head)
STUDIES: dict[str, Callable] = {study.__name__: study for study in _STUDIES}
ALL_TASKS = "all tasks"  # the task of a unit that needs every task's scores
WHOLE_RUN = "whole run"  # the last row of the frame of seconds
_KEPT_AS = "studies"
_COLUMNS = {"study": pl.String, "model": pl.String, "task": pl.String, "seconds": pl.Float64}


class Unit(NamedTuple):
    """One study on one model and task."""

    study: str
    model: str
    task: str


Chain = tuple[Unit, ...]


def units(about: Studied, seed: int = records.SEED) -> list[Chain]:
    """The plan, the chains that take longest first; the last one reads what others computed.

    The language model is left out for another seed than that of its records: it takes long.
    """
    shared = ("aligned_baselines", "every_neuron", "consequences", "circuits")
    grid = [([*shared], about.name, task) for task in TASKS]
    grid[list(TASKS).index("ioi")][0].append("name_readers")
    for name in models_compared():
        studies = ["across_models"] if name == UNTRAINED else ["across_models", "latent_question"]
        grid += [(studies, name, task) for task in TASKS]
    if seed == records.SEED:
        grid += [(["sampled_neurons"], language_model().name, task) for task in TASKS]
    alone = ("baselines", "steps", "head_to_head")
    grid += [([study], about.name, task) for study in alone for task in TASKS]
    grid.append((["original", "reproduction"], about.name, ALL_TASKS))
    return [tuple(Unit(study, name, task) for study in studies) for studies, name, task in grid]


def run(n: int | None = None, seed: int = 0, processes: int | None = None) -> pl.DataFrame:
    """Computes every study on the testbed and the language model, unless that was done before.

    Columns: study, model, task, and the seconds of each unit in its process; the last row has the
    seconds of all by the clock, and the number of processes for its task. By default n is the
    record's, and there is a process for each core, but a single one, which uses all cores by
    itself, on a model larger than a testbed.
    """
    about = exact_model() if n is None else exact_model()._replace(prompts=n)
    for task in TASKS:
        load_task(task, about.model, n=about.prompts, seed=seed)  # bad input ends before any work
    if seed == records.SEED and not records.ship(language_model().name):
        _ = language_model().model
    if processes is None:
        processes = min(os.cpu_count() or 1, 4) if is_testbed(about.name) else 1
    compute = partial(_seconds_of, about, seed, processes)
    return store.frame(_KEPT_AS, compute, *_run_of(about), seed)


def seconds_taken(n: int | None = None, seed: int = 0) -> pl.DataFrame:
    """The frame that `run` kept; without rows where it has not run."""
    about = exact_model() if n is None else exact_model()._replace(prompts=n)
    kept = store.kept_frame(_KEPT_AS, *_run_of(about), seed)
    return pl.DataFrame(schema=_COLUMNS) if kept is None else kept


def _run_of(about: Studied) -> tuple[store.Fact, ...]:
    return about.model, about.prompts, language_model().name


def _seconds_of(about: Studied, seed: int, processes: int) -> pl.DataFrame:
    start, rows = time.perf_counter(), []
    *before, last = units(about, seed)
    with tqdm(total=len(before) + 1, desc="studies", unit="chain") as bar:
        for chains in (before, [last]):
            for done in _work(chains, processes, n=about.prompts, seed=seed):
                rows += done
                bar.update()
    rows.append((WHOLE_RUN, about.name, str(processes), time.perf_counter() - start))
    return pl.DataFrame(rows, schema=_COLUMNS, orient="row")


def _work(chains: list[Chain], processes: int, **settings: int) -> Iterator[list[tuple]]:
    """Each chain's rows of seconds, as it is done."""
    if min(processes, len(chains)) == 1:
        yield from (_in_turn(chain, progress=None, **settings) for chain in chains)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        running = [pool.submit(_in_turn, chain, progress=False, **settings) for chain in chains]
        yield from (done.result() for done in as_completed(running))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_turn(chain: Chain, n: int, seed: int, progress: bool | None) -> list[tuple]:
    rows = []
    for unit in chain:
        study, settings = STUDIES[unit.study], {"seed": seed, "progress": progress}
        if study in _ON_ALL_PROMPTS:
            settings["n"] = n
        if unit.task != ALL_TASKS and study is not name_readers:  # which is about one task
            settings["tasks"] = (unit.task,)
        about = [unit.model] if study in _OVER_MODELS else loaded(unit.model)
        start = time.perf_counter()
        study(about, **settings)
        rows.append((*unit, time.perf_counter() - start))
    return rows
