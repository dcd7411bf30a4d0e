"""Greater-than (Hanna et al. 2023): an end year comes after its start year.

Two tasks, of which the tokenizer allows one. Where a year's last two digits are a token, the answer
is the end year. Where every digit is one, the next token is the tens digit alone: an answer is
right above the start year's tens digit t, wrong below it, and t itself, on which the digit after it
would decide, is neither. t is from 2 to 8, so that either side has answers and the
corrupted year, 01, is far below.
"""

from collections.abc import Iterator
from itertools import product
from random import Random

from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import prob_diff
from analysis.tasks.reading import Vocabulary
from analysis.tasks.task import Example, Task, read_words, shuffled, split_of

NAME = "greater-than"
YEARS = tuple(f"{year:02}" for year in range(100))
_TENS = range(2, 9)


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
    for clean, corrupted, year in _prompts(random, split):
        yield [Example(clean, corrupted, *labels_after(year), completes=True)]


def digits_around(tens: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The right tens digits of an end year, those above `tens`, and the wrong ones below it."""
    return tuple("0123456789"[tens + 1 :]), tuple("0123456789"[:tens])


def examples_by_digits(random: Random, split: str, corruption: str) -> Iterator[list[Example]]:
    """Those of the same prompts whose start year has a tens digit from 2 to 8."""
    for clean, corrupted, year in _prompts(random, split):
        if year // 10 in _TENS:
            yield [Example(clean, corrupted, *digits_around(year // 10))]


def splits_years(model: TransformerBridge) -> bool:
    """Whether each of a year's last two digits is a token after the century."""
    vocabulary, prompt = Vocabulary(model), fill("war", 17, 41)
    start, whole = vocabulary.encode([prompt, f"{prompt}76"])
    added = [vocabulary.decode([token]) for token in whole[len(start) :]]
    return whole[: len(start)] == start and added == ["7", "6"]


def _prompts(random: Random, split: str) -> Iterator[tuple[str, str, int]]:
    """Clean and corrupted prompts in random order, with the clean one's two-digit start year."""
    words = read_words(NAME)
    for noun, (century, year) in shuffled(product(words["nouns"], start_years(split)), random):
        clean, corrupted = (fill(noun, century, start) for start in (year, words["corrupted_year"]))
        yield clean, corrupted, year


BY_DIGITS = Task(f"{NAME} by digits", prob_diff, examples_by_digits, is_for=splits_years)
TASK = Task(NAME, prob_diff, examples, variant=BY_DIGITS)
