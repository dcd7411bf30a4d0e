"""The behaviours to explain: four circuit tasks, and any CSV file of prompt pairs."""

import os
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from random import Random

from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import one_of, whole
from analysis.ordinary import ordinary
from analysis.tasks.csv_import import read_csv
from analysis.tasks.example import Example, Task
from analysis.tasks.pairs import PromptPairs, build_pairs
from analysis.tasks.split import SPLITS

__all__ = ["TASKS", "Example", "PromptPairs", "Task", "available_tasks", "load_task"]


def available_tasks() -> dict[str, Task]:
    """Every task by its name: what a file of this folder calls `TASK`.

    Examples:
        >>> from analysis.tasks import available_tasks
        >>> sorted(available_tasks())
        ['capital-country', 'gender-bias', 'greater-than', 'ioi']
    """
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    tasks = [module.TASK for module in modules if hasattr(module, "TASK")]
    return {task.name: task for task in tasks}


_STUDIED = ("ioi", "greater-than", "gender-bias", "capital-country")
TASKS = {name: available_tasks()[name] for name in _STUDIED}
"""The tasks that the studies are about, by name, in the report's order."""


def load_task(
    name_or_path: str | Path,
    model: TransformerBridge,
    n: int | None = None,
    seed: int = 0,
    split: str = "held-out",
    corruption: str = "hard",
) -> PromptPairs:
    """A task's prompt pairs under `model`'s tokenizer, or those of a CSV file.

    The same seed gives the same prompts, and a smaller n a prefix of a larger one. Whatever is
    not of equal length under this tokenizer, or whose label is not a single token after its
    prompt, is left out and counted.

    Args:
        name_or_path: `ioi`, `greater-than`, `gender-bias`, `capital-country`, another of
            `available_tasks()`, or a path to a CSV file (`analysis.tasks.csv_import` names its
            columns; seed, split and corruption play no part there).
        n: how many pairs; None for all.
        split: `held-out`, the prompts that the testbed was not trained on, or `train`.
        corruption: `hard`, or for ioi also `abc` (the second subject becomes a third name).

    Raises:
        ValueError: for an unknown task, split or corruption, for a number that is not whole, for
            a file that cannot be read, and where there are too few prompts.

    Examples:
        >>> from analysis import load_model, load_task
        >>> model = load_model("testbed")
        >>> pairs = load_task("capital-country", model, n=2)
        >>> pairs.clean
        ['Riyadh, the capital of', 'Monrovia, the capital of']
        >>> pairs.corrupted
        ['Bujumbura, the capital of', 'Bishkek, the capital of']
        >>> load_task("greater-than", model, n=1).clean
        ['The mission lasted from the year 1506 to the year 15']
    """
    found = _find(name_or_path)
    with ordinary():
        if isinstance(found, Path):
            return read_csv(found, model, n)
        one_of("split", split, SPLITS)
        one_of(f"corruption for {found.name}", corruption, found.corruptions)
        random = Random(f"{found.name}/{whole('seed', seed)}")
        candidates = found.examples(random, split, corruption)
        return build_pairs(found.name, found.metric, candidates, model, n, found.first_token)


def _find(name_or_path: str | Path) -> Task | Path:
    """The task of that name, or the CSV file."""
    advice = "give a task's name or a CSV file's path"
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"{name_or_path!r} is not a task: {advice}.")
    path, tasks = Path(name_or_path), available_tasks()
    if path.suffix.lower() == ".csv":
        return path
    if str(name_or_path) not in tasks and os.path.exists(path):
        raise ValueError(f"{path} does not end in .csv: {advice}.")
    one_of("task", str(name_or_path), tasks, hint=" or the path of a .csv file")
    return tasks[str(name_or_path)]
