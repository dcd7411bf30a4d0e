"""Capital-country (Hanna et al. 2024): a capital's country, by the country's first token."""

from collections.abc import Iterator
from random import Random

from analysis.metrics import logit_diff
from analysis.tasks.example import Example, Task, shuffled
from analysis.tasks.split import in_split
from analysis.tasks.words import read_words

NAME = "capital-country"


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every capital of the split, corrupted to any other one whose token length fits."""
    words = read_words(NAME)
    capitals, template = words["capitals"], words["template"]
    for capital in shuffled(capitals, random):
        others = shuffled((name for name in capitals if name != capital), random)
        clean = template.format(capital=capital)
        if in_split(NAME, clean, split):
            yield [
                Example(
                    clean=clean,
                    corrupted=template.format(capital=other),
                    right=(f" {capitals[capital]}",),
                    wrong=(f" {capitals[other]}",),
                    template=template,
                )
                for other in others
            ]


TASK = Task(NAME, logit_diff, examples, first_token=True)
