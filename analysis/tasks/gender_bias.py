"""Gender bias (Vig et al. 2020): a profession's stereotype decides the pronoun."""

from collections.abc import Iterator
from random import Random

from analysis.metrics import logit_diff
from analysis.tasks.example import Example, Task, shuffled
from analysis.tasks.split import in_split
from analysis.tasks.words import read_words

NAME = "gender-bias"
OTHER_PRONOUN = {"she": "he", "he": "she"}


def stereotypes() -> dict[str, str]:
    """Each profession's stereotyped pronoun."""
    by_pronoun = read_words(NAME)["professions"]
    return {word: pronoun for pronoun, words in by_pronoun.items() for word in words}


def context_key(template: str, profession: str) -> str:
    """The split's key: the filled-in template."""
    return template.format(profession=profession)


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every template with every profession; corrupted to the opposite of its stereotype."""
    words = read_words(NAME)
    contexts = [
        (template, profession, pronoun)
        for template in words["templates"]
        for profession, pronoun in stereotypes().items()
    ]
    for template, profession, pronoun in shuffled(contexts, random):
        clean = context_key(template["text"], profession)
        if in_split(NAME, clean, split):
            yield [
                Example(
                    clean=clean,
                    corrupted=template["text"].format(profession=words["opposites"][pronoun]),
                    right=(f" {pronoun}",),
                    wrong=(f" {OTHER_PRONOUN[pronoun]}",),
                    template=template["text"],
                    trained=template["trained"],
                )
            ]


TASK = Task(NAME, logit_diff, examples)
