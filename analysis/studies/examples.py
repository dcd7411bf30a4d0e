"""What is asked of a model: a prompt pair of each task, with its answers."""

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.tasks import TASKS, load_task

_SHOWN = 3  # answers, of the hundred that a year has


def examples(model: TransformerBridge, seed: int = 0) -> pl.DataFrame:
    """Each task's first prompt pair: task, clean, corrupted, right, wrong.

    Answers are decoded from the ids that are scored, so that ids of another tokenizer would show.
    """
    rows = []
    for task in TASKS:
        pairs = load_task(task, model, n=1, seed=seed)
        texts = {"task": task, "clean": pairs.clean[0], "corrupted": pairs.corrupted[0]}
        rows.append(texts | {"right": _some(pairs.right[0]), "wrong": _some(pairs.wrong[0])})
    return pl.DataFrame(rows)


def _some(answers: tuple[str, ...]) -> str:
    """Quoted, so that a space in front is seen."""
    more = f" and {len(answers) - _SHOWN} more" if len(answers) > _SHOWN else ""
    return ", ".join(repr(answer) for answer in answers[:_SHOWN]) + more
