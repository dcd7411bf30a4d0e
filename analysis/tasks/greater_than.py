"""Greater-than (Hanna et al. 2023): an end year comes after its start year."""

from collections.abc import Iterator
from itertools import product
from random import Random

from analysis.metrics import prob_diff
from analysis.tasks.example import Example, Task, shuffled
from analysis.tasks.split import in_split
from analysis.tasks.words import read_words

NAME = "greater-than"
YEARS = tuple(f"{year:02}" for year in range(100))


def year_key(century: int, year: int) -> str:
    """The split's key of a start year, 1741 for example."""
    return f"{century}{year:02}"


def start_years(split: str) -> list[tuple[int, int]]:
    """Every start year of a split, as (century, two-digit year)."""
    words = read_words(NAME)
    years = range(words["first_year"], words["last_year"] + 1)
    return [
        (century, year)
        for century, year in product(words["centuries"], years)
        if in_split(NAME, year_key(century, year), split)
    ]


def labels_after(year: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The right end years, those strictly greater than `year`, and the wrong ones."""
    return YEARS[year + 1 :], YEARS[: year + 1]


def fill(noun: str, century: int, year: int) -> str:
    """The prompt, up to the end year's century."""
    template = read_words(NAME)["template"]
    return template.format(noun=noun, century=century, year=f"{year:02}")


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every noun with every start year of the split; the corrupted start year ends in 01."""
    words = read_words(NAME)
    starts = [(noun, *year) for noun in words["nouns"] for year in start_years(split)]
    for noun, century, year in shuffled(starts, random):
        right, wrong = labels_after(year)
        yield [
            Example(
                clean=fill(noun, century, year),
                corrupted=fill(noun, century, words["corrupted_year"]),
                right=right,
                wrong=wrong,
                template=words["template"],
                completes=True,
            )
        ]


TASK = Task(NAME, prob_diff, examples)
