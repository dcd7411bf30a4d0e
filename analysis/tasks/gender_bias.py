"""Gender bias (Vig et al. 2020): a profession's stereotype decides the pronoun."""

from collections.abc import Iterator
from itertools import product
from random import Random

from analysis.metrics import logit_diff
from analysis.tasks.task import Example, Task, read_words, shuffled, split_of

NAME = "gender-bias"
OTHER_PRONOUN = {"she": "he", "he": "she"}


def stereotypes() -> dict[str, str]:
    """Each profession's stereotyped pronoun."""
    by_pronoun = read_words(NAME)["professions"]
    return {word: pronoun for pronoun, words in by_pronoun.items() for word in words}


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every template with every profession; corrupted to the opposite of its stereotype."""
    words = read_words(NAME)
    contexts = product(words["templates"], stereotypes().items())
    for template, (profession, pronoun) in shuffled(contexts, random):
        clean, corrupted = (
            template["text"].format(profession=person)
            for person in (profession, words["opposites"][pronoun])
        )
        answers = (f" {pronoun}",), (f" {OTHER_PRONOUN[pronoun]}",)
        if split_of(NAME, clean) == split:
            yield [Example(clean, corrupted, *answers, trained=template["trained"])]


TASK = Task(NAME, logit_diff, examples)
