"""A task: its words, which prompts are held out, and its prompt pairs as text."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from analysis import paths
from analysis.metrics import Metric

SPLITS = ("held-out", "train")


@dataclass(frozen=True)
class Example:
    """A clean and a corrupted prompt, and the answers that count as right and as wrong.

    A label is a text that follows the prompt verbatim, leading space included, or a token id.
    `trained` says whether the testbed's training texts use this template (with other words).
    `completes` says that labels complete the prompt's last word, as 76 completes 17. A tokenizer
    may have the whole word as one token: GPT-2's has 1776. A label is then the token that reads
    as the label when it follows the prompt's own tokens.
    """

    clean: str
    corrupted: str
    right: tuple[str | int, ...]
    wrong: tuple[str | int, ...]
    trained: bool = True
    completes: bool = False


@dataclass(frozen=True)
class Task:
    """A behaviour to explain: where its prompts come from and how an answer is scored.

    `examples(random, split, corruption)` yields, for every clean prompt of a split in random
    order, its possible examples: the first that a tokenizer allows is used. With `first_token`, a
    label stands for its first token after the prompt, else it must be a single one. A `variant` is
    another task, loaded in this one's place with the models whose tokenizers it `is_for`.

    Examples:
        >>> from random import Random
        >>> from analysis.tasks import TASKS
        >>> first, *others = next(TASKS["capital-country"].examples(Random(0), "held-out", "hard"))
        >>> first.clean, first.corrupted, first.right
        ('Managua, the capital of', 'Valletta, the capital of', (' Nicaragua',))
    """

    name: str
    metric: Metric
    examples: Callable[[Random, str, str], Iterator[Iterable[Example]]]
    corruptions: tuple[str, ...] = ("hard",)
    first_token: bool = False
    variant: "Task | None" = None
    is_for: Callable[[TransformerBridge], bool] = lambda model: True

    def under(self, model: TransformerBridge) -> "Task":
        """This task, or its variant where that is for this model's tokenizer."""
        return self.variant if self.variant and self.variant.is_for(model) else self


@cache
def read_words(name: str) -> dict[str, Any]:
    """The word lists and templates of `data/tasks/<name>.json`."""
    return json.loads((paths.TASKS / f"{name}.json").read_text(encoding="utf-8"))


@cache
def split_of(task: str, key: str) -> str:
    """The split of a key: a fixed pseudo-random share of each task's is held out of training.

    The key is what has to generalise: a pair of names (ioi), a start year (greater-than), or the
    prompt (gender-bias, capital-country). The share is `held_out` in the task's word list; a hash
    decides, so that no seed, no order and no other key plays a part.
    """
    position = int.from_bytes(sha256(f"{task}/{key}".encode()).digest()[:8], "big") / 2**64
    return "held-out" if position < read_words(task)["held_out"] else "train"


def shuffled(items: Iterable[Any], random: Random) -> list[Any]:
    """The items in random order."""
    listed = list(items)
    return random.sample(listed, len(listed))
