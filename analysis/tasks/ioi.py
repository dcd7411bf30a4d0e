"""Indirect object identification (Wang et al. 2023): the name said once is the recipient."""

from collections.abc import Iterator
from itertools import combinations
from random import Random

from analysis.metrics import logit_diff
from analysis.tasks.task import Example, Task, read_words, shuffled, split_of

NAME = "ioi"


def names() -> list[str]:
    """Every name, women's first."""
    by_gender = read_words(NAME)["names"]
    return by_gender["female"] + by_gender["male"]


def pair_key(one: str, other: str) -> str:
    """The split's key of two names, whichever is said first."""
    return " & ".join(sorted((one, other)))


def fill(form: str, recipient: str, giver: str, actor: str, random: Random) -> str:
    """A form's text, in which `actor` gives: who is named first and the other words are drawn."""
    words = read_words(NAME)
    first, second = shuffled([recipient, giver], random)
    place, thing = random.choice(words["places"]), random.choice(words["objects"])
    return form.format(first=first, second=second, giver=actor, place=place, object=thing)


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """One example for each ordered pair of names in the split.

    The corrupted prompt's second subject is the recipient (`hard`) or a third name (`abc`).
    """
    pairs = [pair for pair in combinations(names(), 2) if split_of(NAME, pair_key(*pair)) == split]
    for giver, recipient in shuffled(pairs + [pair[::-1] for pair in pairs], random):
        template = random.choice(read_words(NAME)["templates"])
        third = random.choice([name for name in names() if name not in (giver, recipient)])
        words_seed = random.random()
        clean, corrupted = (
            fill(template["text"], recipient, giver, actor, Random(words_seed))
            for actor in (giver, recipient if corruption == "hard" else third)
        )
        answers = (f" {recipient}",), (f" {giver}",)
        yield [Example(clean, corrupted, *answers, trained=template["trained"])]


TASK = Task(NAME, logit_diff, examples, corruptions=("hard", "abc"))
