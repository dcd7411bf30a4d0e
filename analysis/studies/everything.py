"""Every study that the report shows, computed beforehand on several processes.

A study keeps its results as they are computed, so that the pages only read them. On a small model
a process a core is half as fast again as one process with as many threads.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context

import polars as pl
import torch
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.studies import UNTRAINED, is_testbed, model_name, model_of_record
from analysis.studies.across_models import across_models, models_compared
from analysis.studies.aligned_baselines import PROMPTS, aligned_baselines
from analysis.studies.baselines import baselines
from analysis.studies.cache import cached_frame, kept_frame
from analysis.studies.circuits import circuits
from analysis.studies.consequences import consequences
from analysis.studies.head_to_head import head_to_head
from analysis.studies.latent_question import latent_question
from analysis.studies.name_readers import TASK, name_readers
from analysis.studies.original import original
from analysis.studies.reproduction import reproduction
from analysis.studies.steps import steps
from analysis.tasks import TASKS, load_task

Record = dict[str, str | float]
Job = Callable[[bool], list[Record]]  # told whether to show its own progress
# The last row: all studies, about how many processes.
TOTAL = "everything"
_NAME = "studies"
_COLUMNS = {"study": pl.String, "about": pl.String, "seconds": pl.Float64}
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


def everything(n: int, seed: int = 0, processes: int | None = None) -> pl.DataFrame:
    """Computes every study on the model of record, unless that was done before.

    The frame that it returns has the columns study, about (its task and model), and seconds: what
    each part took in its process.

    Args:
        n: prompts a task for the studies that take most.
        processes: how many; None for one a core on a testbed, and a single one, which uses all
            cores by itself, on a larger model.

    Raises:
        ValueError: as `load_model` and `load_task` do.
    """
    for task in TASKS:
        load_task(task, model_of_record(), n=n, seed=seed)  # bad input ends here, before any work
    processes = _as_many_as_cores() if processes is None else processes
    run = _in_turn if processes == 1 else partial(_side_by_side, processes)

    def compute() -> pl.DataFrame:
        start = time.perf_counter()
        records = run(dict(_jobs(n, seed)))
        for study in (original, reproduction):  # from the scores of all tasks
            on_all = partial(study, model_of_record(), n=n, seed=seed)
            records.append(_timed(study, "all tasks", on_all))
        seconds = time.perf_counter() - start
        return pl.DataFrame(
            [*records, {"study": TOTAL, "about": f"{processes}", "seconds": seconds}]
        )

    return cached_frame(_NAME, compute, *_key(n, seed))


def seconds_taken(n: int = PROMPTS, seed: int = 0) -> pl.DataFrame:
    """The frame that `everything` kept; without rows where it has not run."""
    kept = kept_frame(_NAME, *_key(n, seed))
    return pl.DataFrame(schema=_COLUMNS) if kept is None else kept


def _key(n: int, seed: int) -> tuple[TransformerBridge, int, int]:
    return model_of_record(), n, seed


def _in_turn(jobs: dict[Job, int]) -> list[Record]:
    return [record for job in jobs for record in job(True)]


def _side_by_side(processes: int, jobs: dict[Job, int]) -> list[Record]:
    records: list[Record] = []
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    running = {pool.submit(job, False): weight for job, weight in jobs.items()}
    try:
        with tqdm(total=sum(jobs.values()), desc="studies", bar_format=_BAR) as bar:
            for done in as_completed(running):
                records += done.result()
                bar.update(running[done])
    finally:
        pool.shutdown(cancel_futures=True)
    return records


def _jobs(n: int, seed: int) -> Iterator[tuple[Job, int]]:
    """Each with about its share of the time, the longest first."""
    for task in TASKS:
        yield partial(_on_all_prompts, task, n, seed), 60
    for name in models_compared():
        for task in TASKS:
            yield partial(_on_another_model, task, name, seed), 15
    for study in (baselines, steps, head_to_head):
        for task in TASKS:
            yield partial(_on_few_prompts, study, task, seed), 8


def _on_all_prompts(task: str, n: int, seed: int, progress: bool) -> list[Record]:
    """These share their scores, so one process computes them in turn."""
    settings = {"n": n, "seed": seed, "progress": progress}
    records = [
        _timed(study, task, partial(study, model_of_record(), tasks=(task,), **settings))
        for study in (aligned_baselines, consequences, circuits)
    ]
    if task == TASK:
        records.append(
            _timed(name_readers, task, partial(name_readers, model_of_record(), **settings))
        )
    return records


def _on_another_model(task: str, name: str, seed: int, progress: bool) -> list[Record]:
    settings = {"seed": seed, "progress": progress, "tasks": (task,)}
    studies = [across_models] if name == UNTRAINED else [across_models, latent_question]
    return [
        _timed(study, f"{task}, {name}", partial(study, [name], **settings)) for study in studies
    ]


def _on_few_prompts(study: Callable, task: str, seed: int, progress: bool) -> list[Record]:
    compute = partial(study, model_of_record(), seed=seed, progress=progress, tasks=(task,))
    return [_timed(study, task, compute)]


def _timed(study: Callable, about: str, compute: Callable) -> Record:
    start = time.perf_counter()
    compute()
    return {
        "study": study.__name__,
        "about": about,
        "seconds": time.perf_counter() - start,
    }


def _as_many_as_cores() -> int:
    return min(os.cpu_count() or 1, 4) if is_testbed(model_name()) else 1
