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
from analysis.tasks.pairs import PromptPairs, build_pairs
from analysis.tasks.task import SPLITS, Example, Task

__all__ = ["AVAILABLE", "TASKS", "Example", "PromptPairs", "Task", "load_task"]

_modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
AVAILABLE = {module.TASK.name: module.TASK for module in _modules if hasattr(module, "TASK")}
AVAILABLE |= {task.variant.name: task for task in AVAILABLE.values() if task.variant}
"""Every task by its name, or its variant's: what a file of this folder calls `TASK`."""

_STUDIED = ("ioi", "greater-than", "gender-bias", "capital-country")
TASKS = {name: AVAILABLE[name] for name in _STUDIED}
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
    prompt, is left out and counted. Where a tokenizer splits years into digits, greater-than is
    about the next digit alone, and the pairs say so: their task is `greater-than by digits`.

    Args:
        name_or_path: a name of `AVAILABLE`, such as `ioi`, or a path to a CSV file
            (`read_csv` names its columns; seed, split and corruption play no part there).
        n: how many pairs; None for all.
        split: `held-out`, the prompts that the testbed was not trained on, or `train`.
        corruption: `hard`, or for ioi also `abc` (the second subject becomes a third name).

    Raises:
        ValueError: for an unknown task, split or corruption, a task that is not for this tokenizer,
            a number that is not whole, a file that cannot be read, and too few prompts.

    Examples:
        >>> from analysis import load_model, load_task
        >>> model = load_model("testbed")
        >>> pairs = load_task("capital-country", model, n=2)
        >>> pairs.clean[0], pairs.corrupted[0], pairs.right[0]
        ('Riyadh, the capital of', 'Bujumbura, the capital of', (' Saudi',))
    """
    advice = "give a task's name or a CSV file's path"
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"{name_or_path!r} is not a task: {advice}.")
    path, name = Path(name_or_path), str(name_or_path)
    with ordinary():
        if path.suffix.lower() == ".csv":
            return read_csv(path, model, n)
        if name not in AVAILABLE and os.path.exists(path):
            raise ValueError(f"{path} does not end in .csv: {advice}.")
        one_of("task", name, AVAILABLE, hint=" or the path of a .csv file")
        one_of("split", split, SPLITS)
        task = AVAILABLE[name]
        one_of(f"corruption for {name}", corruption, task.corruptions)
        random = Random(f"{task.name}/{whole('seed', seed)}")
        task = _allowed(task, name, model)
        candidates = task.examples(random, split, corruption)
        return build_pairs(task.name, task.metric, candidates, model, n, task.first_token)


def _allowed(task: Task, name: str, model: TransformerBridge) -> Task:
    """The task or its variant, as the tokenizer decides; a name of the other one is refused."""
    found = task.under(model)
    if name not in (task.name, found.name):
        raise ValueError(f"Task {name!r} is not for this model's tokenizer: use {task.name!r}.")
    return found
