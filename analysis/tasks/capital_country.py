"""Capital-country (Hanna et al. 2024): a capital's country, by the country's first token."""

from collections.abc import Iterator
from random import Random

from analysis.metrics import logit_diff
from analysis.tasks.task import Example, Task, read_words, shuffled, split_of

NAME = "capital-country"


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every capital of the split, corrupted to any other one whose token length fits."""
    capitals, template = (read_words(NAME)[key] for key in ("capitals", "template"))
    for capital in shuffled(capitals, random):
        others = shuffled((name for name in capitals if name != capital), random)
        clean, right = template.format(capital=capital), (f" {capitals[capital]}",)
        if split_of(NAME, clean) == split:
            yield [
                Example(clean, template.format(capital=other), right, (f" {capitals[other]}",))
                for other in others
            ]


TASK = Task(NAME, logit_diff, examples, first_token=True)
