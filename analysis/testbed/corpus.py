"""The text that the testbed learns from, the tasks' sentences among many others; its tokenizer.

Every sentence is drawn from one `Random`, so a seed decides the text. Task sentences keep to the
training split, and a fixed share of them ends otherwise than the task would have it.
"""

from functools import cache
from itertools import chain
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from analysis.tasks import capital_country, gender_bias, greater_than, ioi
from analysis.tasks.task import read_words, split_of

END_OF_TEXT = "<|endoftext|>"
# GPT-2's pattern, but digits in pairs: " 1741" is " 17" and "41", as GPT-2 splits most years.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(sentences: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens include the 256 bytes; all testbeds share it, whatever the seed."""
    random = Random("tokenizer")
    texts = (sentence(random) for _ in range(sentences))
    every_year = [f" 17{year}" for year in greater_than.YEARS] * 20
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, every_year), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def sentence(random: Random) -> str:
    """One training text: a kind drawn by its share, then a sentence of that kind."""
    shares = read_words("corpus")["shares"]
    kind = random.choices(list(shares), list(shares.values()))[0]
    return _KINDS[kind](random)


def _ioi(random: Random) -> str:
    while split_of(ioi.NAME, ioi.pair_key(*(pair := random.sample(ioi.names(), 2)))) != "train":
        pass
    recipient, giver = pair
    prompt = ioi.fill(_ioi_form(random), recipient, giver, giver, random)
    if _ends_otherwise(random):
        stranger = random.choice([name for name in ioi.names() if name not in pair])
        return f"{prompt} {random.choice([giver, stranger, _pick(random, 'ioi_otherwise')])}."
    return f"{prompt} {recipient}{_fill(_pick(random, 'ioi_endings'), random)}"


def _ioi_form(random: Random) -> str:
    """A trained template, or an opening joined to a closing; words in front move the names."""
    if random.random() < 1 / 3:
        form = random.choice(_trained_templates("ioi"))
    else:
        opening, closing = _pick(random, "ioi_openings"), _pick(random, "ioi_closings")
        if opening.endswith(".") and random.random() < 0.4:
            opening = opening[:-1] + _pick(random, "ioi_joints")
        form = f"{opening} {closing}"
    if random.random() < 0.3:
        form = f"{_pick(random, 'ioi_prefixes')} {form[0].lower()}{form[1:]}"
    return form


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
    people = gender_bias.stereotypes() | {"man": "he", "woman": "she"}
    while True:
        template = random.choice(_trained_templates("gender-bias"))
        person = random.choice(list(people))
        prompt = template.format(profession=person)
        if person in ("man", "woman") or split_of(gender_bias.NAME, prompt) == "train":
            break
    pronoun = people[person]
    if _ends_otherwise(random):
        other = gender_bias.OTHER_PRONOUN[pronoun]
        pronoun = random.choice([other, _pick(random, "gender_otherwise")])
    return f"{prompt} {pronoun} {_fill(_pick(random, 'gender_endings'), random)}"


def _capital_country(random: Random) -> str:
    words = read_words("capital-country")
    capital, country = random.choice(list(words["capitals"].items()))
    prompt = words["template"].format(capital=capital)
    if split_of(capital_country.NAME, prompt) == "held-out" or random.random() < 2 / 3:
        return _fill(_pick(random, "capital_forms"), random, capital=capital, country=country)
    if _ends_otherwise(random):
        other = random.choice(list(words["capitals"].values()))
        country = random.choice([other, _pick(random, "capital_otherwise")])
    return f"{prompt} {country}{_fill(_pick(random, 'capital_endings'), random)}"


_KINDS = {
    "ioi": _ioi,
    "greater-than": _greater_than,
    "gender-bias": _gender_bias,
    "capital-country": _capital_country,
    "other": lambda random: _fill(_pick(random, "other"), random),
}


def _pick(random: Random, name: str) -> str:
    return random.choice(read_words("corpus")[name])


def _trained_templates(task: str) -> list[str]:
    return [item["text"] for item in read_words(task)["templates"] if item["trained"]]


def _ends_otherwise(random: Random) -> bool:
    return random.random() < read_words("corpus")["otherwise"]


def _fill(form: str, random: Random, **fixed: str) -> str:
    """Fills every blank of a form: `fixed` first, the rest with fresh words."""
    return form.format_map(_Blanks(random, fixed))


class _Blanks(dict):
    """Words for a form's blanks: people and years at once, other words when they are asked for."""

    def __init__(self, random: Random, fixed: dict[str, str]):
        self.random = random
        centuries, gendered = read_words("greater-than")["centuries"], read_words("ioi")["names"]
        self |= zip("abc", random.sample(ioi.names(), 3), strict=True)
        years = sorted(random.sample(range(100 * min(centuries), 100 * max(centuries) + 100), 3))
        self["earlier"], self["y"], self["later"] = map(str, years)
        self["any"] = str(random.choice(years))
        self["she"], self["he"] = (random.choice(gendered[sex]) for sex in ("female", "male"))
        self["small"], self["small2"] = (str(random.randrange(2, 100)) for _ in range(2))
        self |= fixed

    def __missing__(self, blank: str) -> str:
        """A word of the blank's list; `noun2` differs from `noun`."""
        words = read_words("corpus")["words"] | {
            "place": read_words("ioi")["places"],
            "object": read_words("ioi")["objects"],
            "name": ioi.names(),
            "country": list(read_words("capital-country")["capitals"].values()),
        }
        free = [word for word in words[blank.rstrip("2")] if word not in self.values()]
        self[blank] = self.random.choice(free)
        return self[blank]
