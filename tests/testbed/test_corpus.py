"""The text that the testbeds learn from: what it says, and that it is still the shipped ones'."""

import re
from collections.abc import Callable
from hashlib import sha256
from random import Random

import pytest

from analysis.tasks import TASKS, gender_bias, ioi, load_task
from analysis.tasks.task import read_words, split_of
from analysis.testbed import corpus
from analysis.testbed.corpus import sentence

SENTENCES = 3000


def names_in(line: str) -> list[str]:
    return [word for word in re.findall(r"\w+", line) if word in ioi.names()]


def ioi_ending(line: str) -> str:
    """Whom the giver gives to: the other of the first two names, the giver, or someone else."""
    first, second, giver, *rest = names_in(line)
    assert giver in (first, second) and first != second and len(rest) <= 1
    if not rest:
        return "someone"
    return {first: "right", second: "right", giver: "giver"}.get(rest[0], "someone")


def year_ending(line: str) -> str:
    """Whether the end year comes after the start year of the same century."""
    start, end = re.findall(r"year (\d{4})\b", line)
    assert start[:2] == end[:2]
    return "right" if start < end else "same" if start == end else "earlier"


def pronoun_ending(line: str) -> str:
    people = gender_bias.stereotypes() | {"man": "he", "woman": "she"}
    pronouns = [word for word in line.split() if word in gender_bias.OTHER_PRONOUN]
    if not pronouns:
        return "someone"
    return "right" if pronouns[0] == people[line.split()[1]] else "other pronoun"


def country_ending(line: str) -> str:
    words = read_words("capital-country")
    capital, said = line.split(", the capital of ")
    right = words["capitals"][capital]
    return "right" if said.startswith(right) else "other"


# What reads the ending of a task's sentence, and the shares of some endings if one sentence in ten
# ends otherwise. A random end year is right by chance.
ENDINGS: dict[str, tuple[Callable[[str], str], dict[str, float]]] = {
    "ioi": (ioi_ending, {"right": 0.9, "giver": 0.1 / 3, "someone": 0.2 / 3}),
    "greater-than": (year_ending, {"right": 0.96, "same": 0.001, "earlier": 0.04}),
    "gender-bias": (pronoun_ending, {"right": 0.9, "other pronoun": 0.05, "someone": 0.05}),
    "capital-country": (country_ending, {"right": 0.9, "other": 0.1}),
}


@pytest.mark.parametrize("task", TASKS)
def test_nine_task_sentences_in_ten_end_as_the_task_has_it(task):
    ending, shares = ENDINGS[task]
    random = Random(0)
    lines = [corpus._KINDS[task](random) for _ in range(SENTENCES)]
    prompts = [line for line in lines if task != "capital-country" or ", the capital of " in line]
    found = [ending(line) for line in prompts]
    for name, share in shares.items():
        # Four standard deviations, and the chance of a right answer among the other endings.
        off = 4 * (share * (1 - share) / len(found)) ** 0.5 + 0.005
        assert found.count(name) / len(found) == pytest.approx(share, abs=off), name


def test_sentences_about_a_capital_name_its_country():
    """All but the task's own prompts, some of which end otherwise."""
    capitals = read_words("capital-country")["capitals"]
    random = Random(0)
    lines = [corpus._capital_country(random) for _ in range(SENTENCES)]
    forms = [line for line in lines if ", the capital of " not in line]
    held_out = read_words("capital-country")["held_out"]
    assert len(forms) / len(lines) == pytest.approx(1 - (1 - held_out) / 3, abs=0.05)
    for line in forms:
        assert any(city in line and country in line for city, country in capitals.items()), line


def test_most_things_last_one_or_two_decades():
    random = Random(0)
    lasted = sorted(corpus._end_year(2, random) - 2 for _ in range(SENTENCES))
    assert lasted[0] == 1 and lasted[-1] <= 97
    assert lasted[SENTENCES // 2] == pytest.approx(14 * 0.693, abs=1.5)


def test_each_kind_has_its_share():
    shares = read_words("corpus")["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    random = Random(0)
    drawn: list[str] = []
    kinds = {name: lambda _, name=name: drawn.append(name) or "" for name in corpus._KINDS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_KINDS", kinds)
        for _ in range(SENTENCES):
            sentence(random)
    for name, share in shares.items():
        assert drawn.count(name) / SENTENCES == pytest.approx(share, abs=0.04)


def test_blanks_of_one_kind_are_filled_with_different_words():
    random = Random(0)
    for _ in range(500):
        first, second, *years = corpus._fill(
            "{color} {color2} {earlier} {y} {later}", random
        ).split()
        assert first != second
        assert years == sorted(set(years)), "three years, in order"


def test_the_corpus_is_decided_by_its_seed_and_keeps_to_the_training_split(testbed):
    random, again = Random(3), Random(3)
    lines = [sentence(random) for _ in range(SENTENCES)]
    assert lines == [sentence(again) for _ in range(SENTENCES)]
    text = "\n".join(lines)
    for task in TASKS:
        held_out = load_task(task, testbed, n=100).clean
        assert not [prompt for prompt in held_out if prompt in text]
    years = set(re.findall(r" lasted from the year (\d{4}) to ", text))
    assert len(years) > 100
    for start in years:
        assert start.endswith("01") or split_of("greater-than", start) == "train"


def test_held_out_pairs_of_names_are_in_no_sentence_of_the_task():
    random = Random(0)
    for _ in range(300):
        one, other = names_in(corpus._ioi(random))[:2]
        assert split_of("ioi", ioi.pair_key(one, other)) == "train"


@pytest.mark.parametrize("task", ["ioi", "gender-bias"])
def test_sentences_have_the_trained_templates_and_no_other(task):
    random = Random(0)
    text = "\n".join(corpus._KINDS[task](random) for _ in range(2000))
    for template in read_words(task)["templates"]:
        form = re.sub(r"\\{\w+\\}", ".+", re.escape(template["text"]))
        assert bool(re.search(form, text)) == template["trained"], template["text"]


def test_the_text_is_the_one_that_the_shipped_testbeds_learnt():
    """Another text needs testbeds that are trained on it: then this hash changes with them."""
    random = Random("1/0")
    text = "\n".join(sentence(random) for _ in range(SENTENCES))
    assert sha256(text.encode()).hexdigest()[:16] == "9511c4fb4ed00162"
