"""SmolLM2, the real language model. Every test that loads it is here, so that one process does."""

import json

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from analysis import load_task, model_card, paths
from analysis.gguf_files import packaged

CARD = json.loads((paths.MODELS / "smollm2" / "evaluation.json").read_text())
# llama.cpp's two patterns for a tokenizer of this kind: each digit, then GPT-2's words.
DIGIT = r"\p{N}"
WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def independent(smollm2) -> Tokenizer:
    """Vocabulary and merges straight from the file, split by llama.cpp's patterns."""
    reader = GGUFReader(packaged("smollm2"))
    tokens, merges = (
        reader.get_field(f"tokenizer.ggml.{part}").contents() for part in ("tokens", "merges")
    )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, [tuple(pair.split(" ")) for pair in merges]))
    patterns = [Split(Regex(pattern), "isolated") for pattern in (DIGIT, WORD)]
    bytes_after = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([*patterns, bytes_after])
    return tokenizer


# fmt: off
FIXED = {
    "When Mary and John went to the store, John gave a bottle of milk to":
        [2427, 5099, 284, 2322, 3514, 288, 260, 4249, 28, 2322, 4502, 253, 10765, 282, 4788, 288],
    "The war lasted from the year 1741 to the year 17":
        [504, 1913, 15298, 429, 260, 713, 216, 33, 39, 36, 33, 288, 260, 713, 216, 33, 39],
    "Tirana, the capital of":
        [68, 337, 3231, 28, 260, 3575, 282],
    "two  spaces  before  1741, and\n\ttabs":
        [11355, 216, 5600, 216, 1092, 256, 33, 39, 36, 33, 28, 284, 198, 197, 100, 7366],
    "Ünknown wörds, 日本, ½ and it's":
        [142, 246, 94, 3864, 267, 29989, 931, 28, 17097, 241, 115, 40993, 28, 216, 16738, 284,
         357, 506],
}
# fmt: on


@pytest.mark.parametrize("text", FIXED)
def test_token_ids_of_fixed_texts(smollm2, independent, text):
    found = smollm2.to_tokens(text)[0].tolist()
    assert found == [1, *FIXED[text]]
    assert independent.encode(text).ids == FIXED[text]
    assert smollm2.tokenizer.decode(found[1:]) == text


@given(texts=st.lists(st.text() | st.text("a1 9.\n\t'²x"), max_size=20))
def test_any_text_is_read_as_the_file_says(smollm2, independent, texts):
    for text in texts:
        assert smollm2.to_tokens(text)[0].tolist() == [1, *independent.encode(text).ids]


def test_it_is_the_model_that_the_card_describes(smollm2):
    assert model_card.facts("smollm2", smollm2).items() <= CARD.items()
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_heads, smollm2.cfg.d_mlp) == (30, 9, 1536)
    assert smollm2.cfg.model_name == "smollm2"


def test_a_sentence_that_it_completes(smollm2):
    prompt = "When Mary and John went to the store, John gave a bottle of milk to"
    mary = smollm2.to_single_token(" Mary")
    assert smollm2(prompt)[0, -1].softmax(dim=-1)[mary] > 0.8


@pytest.mark.parametrize("task", ["gender-bias", "capital-country"])
def test_the_cards_numbers_are_what_is_measured(smollm2, task):
    for front, found in model_card.evaluate(smollm2, task).items():
        assert found == pytest.approx(CARD["tasks"][task][front], abs=2e-3)
    assert smollm2.cfg.default_prepend_bos


def test_greater_than_is_another_task_here(smollm2):
    pairs = load_task("greater-than", smollm2, n=3)
    assert pairs.task == CARD["tasks"]["greater-than"]["with BOS"]["task"]
    assert pairs.task == "greater-than by digits"


def test_the_card_beside_the_records_is_theirs():
    written = (paths.MODELS / "smollm2" / "README.md").read_text()
    assert written == model_card.card("smollm2", CARD)
    found = CARD["tasks"]["ioi"]["without BOS"]
    numbers = f"{found['accuracy']:.0%} | {found['clean']:.2f} | {found['corrupted']:.2f} |"
    assert f"| ioi | without BOS | {numbers}" in written
    assert all(both["with BOS"]["prompts"] == model_card.PROMPTS for both in CARD["tasks"].values())
