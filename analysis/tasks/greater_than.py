"""Greater-than (Hanna et al. 2023): an end year comes after its start year."""

from collections.abc import Iterator
from itertools import product
from random import Random

from analysis.metrics import prob_diff
from analysis.tasks.task import Example, Task, read_words, shuffled, split_of

NAME = "greater-than"
YEARS = tuple(f"{year:02}" for year in range(100))


def start_years(split: str) -> list[tuple[int, int]]:
    """Every start year of a split, as (century, two-digit year)."""
    words = read_words(NAME)
    years = range(words["first_year"], words["last_year"] + 1)
    return [
        (century, year)
        for century, year in product(words["centuries"], years)
        if split_of(NAME, f"{century}{year:02}") == split
    ]


def labels_after(year: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The right end years, those strictly greater than `year`, and the wrong ones."""
    return YEARS[year + 1 :], YEARS[: year + 1]


def fill(noun: str, century: int, year: int) -> str:
    """The prompt, up to the end year's century."""
    return read_words(NAME)["template"].format(noun=noun, century=century, year=f"{year:02}")


def examples(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Every noun with every start year of the split; the corrupted start year ends in 01."""
    words = read_words(NAME)
    for noun, (century, year) in shuffled(product(words["nouns"], start_years(split)), random):
        clean, corrupted = (fill(noun, century, start) for start in (year, words["corrupted_year"]))
        yield [Example(clean, corrupted, *labels_after(year), completes=True)]


TASK = Task(NAME, prob_diff, examples)
