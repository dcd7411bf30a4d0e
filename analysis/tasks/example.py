"""One prompt pair as text, before any tokenizer has seen it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from analysis.metrics import Metric

Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """A clean and a corrupted prompt, and the answers that count as right and as wrong.

    A label is a text that follows the prompt verbatim, leading space included, or a token id.
    `trained` says whether the testbed's training texts use this template (with other words).
    `completes` says that labels complete the prompt's last word, as 76 completes 17. A tokenizer
    may have the whole word as one token: GPT-2's has 1776. A label is then the token that reads
    as the label when it follows the prompt's own tokens.

    Examples:
        >>> from analysis.tasks import Example
        >>> Example("John ran, John saw", "John ran, Mary saw", (" Mary",), (" John",)).right
        (' Mary',)
    """

    clean: str
    corrupted: str
    right: tuple[str | int, ...]
    wrong: tuple[str | int, ...]
    template: str = ""
    trained: bool = True
    completes: bool = False


@dataclass(frozen=True)
class Task:
    """A behaviour to explain: where its prompts come from and how an answer is scored.

    `examples(random, split, corruption)` yields, for every clean prompt of a split in random
    order, its possible examples: the first that a tokenizer allows is used. With `first_token`, a
    label stands for its first token after the prompt, else it must be a single one.

    Examples:
        >>> from random import Random
        >>> from analysis.tasks import TASKS
        >>> task = TASKS["capital-country"]
        >>> task.metric.__name__, task.corruptions, task.first_token
        ('logit_diff', ('hard',), True)
        >>> first, *others = next(task.examples(Random(0), "held-out", "hard"))
        >>> first.clean, first.corrupted, first.right
        ('Managua, the capital of', 'Valletta, the capital of', (' Nicaragua',))
    """

    name: str
    metric: Metric
    examples: Callable[[Random, str, str], Iterator[Iterable[Example]]]
    corruptions: tuple[str, ...] = ("hard",)
    first_token: bool = False


def shuffled(items: Iterable[Item], random: Random) -> list[Item]:
    """The items in random order."""
    listed = list(items)
    return random.sample(listed, len(listed))
