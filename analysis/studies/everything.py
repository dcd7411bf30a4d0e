"""Every study that the report shows, computed beforehand on several processes.

A study keeps its results as they are computed, so that the pages only read them. On a small model
a process a core is half as fast again as one process with as many threads.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context

import torch
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.studies import model_name, model_of_record
from analysis.studies.across_models import UNTRAINED, across_models, models_compared
from analysis.studies.aligned_baselines import aligned_baselines
from analysis.studies.baselines import baselines
from analysis.studies.circuits import circuits
from analysis.studies.consequences import consequences
from analysis.studies.head_to_head import head_to_head
from analysis.studies.latent_question import latent_question
from analysis.studies.name_readers import TASK, name_readers
from analysis.studies.original import original
from analysis.studies.steps import steps
from analysis.tasks import TASKS, load_task

Job = Callable[[bool], None]  # told whether to show its own progress
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


def everything(n: int, seed: int = 0, processes: int | None = None) -> None:
    """Computes every study on the model of record, on `n` prompts a task where it takes most.

    Args:
        processes: how many; None for one a core on a testbed, and a single one, which uses all
            cores by itself, on a larger model.

    Raises:
        ValueError: as `load_model` and `load_task` do.
    """
    for task in TASKS:
        load_task(task, _model(), n=n, seed=seed)  # bad input ends here, before any work
    jobs = dict(_jobs(n, seed))
    processes = _as_many_as_cores() if processes is None else processes
    if processes == 1:
        for job in jobs:
            job(True)
    else:
        _side_by_side(jobs, processes)
    original(_model(), n=n, seed=seed)  # from the scores of all tasks


def _side_by_side(jobs: dict[Job, int], processes: int) -> None:
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    running = {pool.submit(job, False): weight for job, weight in jobs.items()}
    try:
        with tqdm(total=sum(jobs.values()), desc="studies", bar_format=_BAR) as bar:
            for done in as_completed(running):
                done.result()
                bar.update(running[done])
    finally:
        pool.shutdown(cancel_futures=True)


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


def _on_all_prompts(task: str, n: int, seed: int, progress: bool) -> None:
    """These share their scores, so one process computes them in turn."""
    for study in (aligned_baselines, consequences, circuits):
        study(_model(), n=n, seed=seed, progress=progress, tasks=(task,))
    if task == TASK:
        name_readers(_model(), n=n, seed=seed, progress=progress)


def _on_another_model(task: str, name: str, seed: int, progress: bool) -> None:
    across_models([name], seed=seed, progress=progress, tasks=(task,))
    if name != UNTRAINED:
        latent_question([name], seed=seed, progress=progress, tasks=(task,))


def _on_few_prompts(study: Callable, task: str, seed: int, progress: bool) -> None:
    study(_model(), seed=seed, progress=progress, tasks=(task,))


@cache
def _model() -> TransformerBridge:
    """Loaded once a process."""
    return model_of_record()


def _as_many_as_cores() -> int:
    return min(os.cpu_count() or 1, 4) if model_name().startswith("testbed") else 1
