"""The text that the testbed learns from: the tasks' own sentences among many others.

Every sentence is drawn from one `Random`, so a seed decides the text. Task sentences keep to the
training split, and a fixed share of them ends otherwise than the task would have it.
"""

from collections.abc import Callable
from functools import cache
from random import Random

from analysis.tasks import capital_country, gender_bias, greater_than, ioi
from analysis.tasks.split import is_held_out
from analysis.tasks.words import read_words


def sentence(random: Random) -> str:
    """One training text: a kind drawn by its share, then a sentence of that kind."""
    shares = read_words("corpus")["shares"]
    kind = random.choices(list(shares), list(shares.values()))[0]
    return _KINDS[kind](random)


def _ioi(random: Random) -> str:
    recipient, giver = _train_pair(random)
    prompt = ioi.fill(_ioi_form(random), recipient, giver, giver, random)
    if _ends_otherwise(random):
        strangers = [name for name in ioi.names() if name not in (recipient, giver)]
        other = random.choice([giver, random.choice(strangers), _pick(random, "ioi_otherwise")])
        return f"{prompt} {other}."
    return f"{prompt} {recipient}{_fill(_pick(random, 'ioi_endings'), random)}"


def _ioi_form(random: Random) -> str:
    """A trained template of the data set, or an opening joined to a closing.

    Words in front and between move the names about, so that their places give nothing away.
    """
    if random.random() < 1 / 3:
        templates = [item["text"] for item in read_words("ioi")["templates"] if item["trained"]]
        form = random.choice(templates)
    else:
        opening, closing = _pick(random, "ioi_openings"), _pick(random, "ioi_closings")
        if opening.endswith(".") and random.random() < 0.4:
            opening = opening[:-1] + _pick(random, "ioi_joints")
        form = f"{opening} {closing}"
    if random.random() < 0.3:
        form = f"{_pick(random, 'ioi_prefixes')} {form[0].lower()}{form[1:]}"
    return form


def _train_pair(random: Random) -> list[str]:
    while is_held_out(ioi.NAME, ioi.pair_key(*(pair := random.sample(ioi.names(), 2)))):
        pass
    return pair


def _greater_than(random: Random) -> str:
    words = read_words("greater-than")
    century, start = random.choice(_start_years())
    prompt = greater_than.fill(random.choice(words["nouns"]), century, start)
    end = random.randrange(100) if _ends_otherwise(random) else _end_year(start, random)
    return f"{prompt}{end:02}{_pick(random, 'greater_than_endings')}"


@cache
def _start_years() -> list[tuple[int, int]]:
    """The training split's start years, and the corrupted prompts' years."""
    words = read_words("greater-than")
    corrupted = [(century, words["corrupted_year"]) for century in words["centuries"]]
    return greater_than.start_years("train") + corrupted


def _end_year(start: int, random: Random) -> int:
    """A later year of the same century; most things last one or two decades."""
    while (end := start + 1 + int(random.expovariate(1 / 14))) > 99:
        pass
    return end


def _gender_bias(random: Random) -> str:
    words = read_words("gender-bias")
    templates = [item["text"] for item in words["templates"] if item["trained"]]
    people = gender_bias.stereotypes() | {"man": "he", "woman": "she"}
    while True:
        template, person = random.choice(templates), random.choice(list(people))
        prompt = gender_bias.context_key(template, person)
        if person in ("man", "woman") or not is_held_out(gender_bias.NAME, prompt):
            break
    pronoun = people[person]
    if _ends_otherwise(random):
        others = [gender_bias.OTHER_PRONOUN[pronoun], _pick(random, "gender_otherwise")]
        pronoun = random.choice(others)
    return f"{prompt} {pronoun} {_fill(_pick(random, 'gender_endings'), random)}"


def _capital_country(random: Random) -> str:
    words = read_words("capital-country")
    capital, country = random.choice(list(words["capitals"].items()))
    prompt = words["template"].format(capital=capital)
    if is_held_out(capital_country.NAME, prompt) or random.random() < 2 / 3:
        form = _pick(random, "capital_forms")
        return _fill(form, random, capital=capital, country=country)
    if _ends_otherwise(random):
        others = [
            random.choice(list(words["capitals"].values())),
            _pick(random, "capital_otherwise"),
        ]
        country = random.choice(others)
    return f"{prompt} {country}{_fill(_pick(random, 'capital_endings'), random)}"


def _other(random: Random) -> str:
    return _fill(_pick(random, "other"), random)


_KINDS: dict[str, Callable[[Random], str]] = {
    "ioi": _ioi,
    "greater-than": _greater_than,
    "gender-bias": _gender_bias,
    "capital-country": _capital_country,
    "other": _other,
}


def _pick(random: Random, name: str) -> str:
    return random.choice(read_words("corpus")[name])


def _ends_otherwise(random: Random) -> bool:
    return random.random() < read_words("corpus")["otherwise"]


def _fill(form: str, random: Random, **fixed: str) -> str:
    """Fills every blank of a form: `fixed` first, the rest with fresh words."""
    return form.format_map(_Blanks(random, fixed))


class _Blanks(dict):
    """Words for a form's blanks: people and years at once, other words when they are asked for."""

    def __init__(self, random: Random, fixed: dict[str, str]):
        people = dict(zip("abc", random.sample(ioi.names(), 3), strict=True))
        years = dict(zip(("earlier", "y", "later"), _three_years(random), strict=True))
        gendered = read_words("ioi")["names"]
        super().__init__(
            people
            | years
            | {"any": random.choice(list(years.values()))}
            | {"she": random.choice(gendered["female"]), "he": random.choice(gendered["male"])}
            | {"small": str(random.randrange(2, 100)), "small2": str(random.randrange(2, 100))}
            | fixed
        )
        self.random = random

    def __missing__(self, blank: str) -> str:
        """A word of the blank's list; `noun2` differs from `noun`."""
        words = _blank_words()[blank.rstrip("2")]
        self[blank] = self.random.choice([word for word in words if word not in self.values()])
        return self[blank]


@cache
def _blank_words() -> dict[str, list[str]]:
    words = dict(read_words("corpus")["words"])
    words |= {"place": read_words("ioi")["places"], "object": read_words("ioi")["objects"]}
    words |= {
        "name": ioi.names(),
        "country": list(read_words("capital-country")["capitals"].values()),
    }
    return words


def _three_years(random: Random) -> list[str]:
    """Three different years in order, any century of the task's."""
    centuries = read_words("greater-than")["centuries"]
    years = random.sample(range(100 * min(centuries), 100 * (max(centuries) + 1)), 3)
    return [str(year) for year in sorted(years)]
