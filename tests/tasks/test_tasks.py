"""Every task's invariants, under the testbed's tokenizer and under GPT-2's."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from analysis import load_model, load_task
from analysis.metrics import logit_diff, prob_diff
from analysis.tasks import TASKS, gender_bias, ioi
from analysis.tasks.greater_than import labels_after
from analysis.tasks.task import read_words, split_of

VOCABULARY = Path(__file__).parents[3] / "shared" / "gpt2-tokenizer"
names = st.sampled_from(list(TASKS))


@pytest.fixture(scope="session")
def gpt2_sized(tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    """A random model of GPT-2's form with GPT-2's own vocabulary."""
    if not VOCABULARY.is_dir():
        pytest.skip(f"GPT-2's vocabulary is not at {VOCABULARY}")
    directory = tmp_path_factory.mktemp("gpt2-sized")
    fast = ByteLevelBPETokenizer(str(VOCABULARY / "vocab.json"), str(VOCABULARY / "merges.txt"))
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast._tokenizer, bos_token=end, eos_token=end, unk_token=end
    )
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return load_model(directory)


@pytest.fixture(params=["testbed", "gpt2_sized"])
def model(request) -> TransformerBridge:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", TASKS)
def test_pairs_are_what_a_method_may_rely_on(model, name):
    pairs = load_task(name, model, n=90)
    assert len(pairs) == len(set(pairs.clean)) == 90
    for clean, corrupted, tokens, other in zip(
        pairs.clean, pairs.corrupted, pairs.clean_tokens, pairs.corrupted_tokens, strict=True
    ):
        assert clean != corrupted
        assert tokens.tolist() == model.to_tokens(clean)[0].tolist()
        assert other.tolist() == model.to_tokens(corrupted)[0].tolist()
        assert len(tokens) == len(other)
    for clean, start, tokens, signs in zip(
        pairs.clean, pairs.clean_tokens, pairs.labels.tokens, pairs.labels.signs, strict=True
    ):
        assert len(set(tokens.tolist())) == len(tokens), "labels differ"
        assert set(signs.tolist()) == {1, -1}
        for token in (tokens[0].item(), tokens[-1].item()):
            label = model.tokenizer.decode([token])
            whole = model.to_tokens(clean + label)[0].tolist()
            split_otherwise = whole[: len(start)] != start.tolist()  # " 1699" by GPT-2, for one
            assert name == "greater-than" if split_otherwise else whole == [*start.tolist(), token]
            assert model.tokenizer.decode([*start[1:], token]) == clean + label
    assert sorted(place for group in pairs.groups() for place in group) == list(range(90))
    for group in pairs.groups():
        assert len({len(pairs.clean_tokens[place]) for place in group}) == 1


@pytest.mark.parametrize("name", TASKS)
def test_prompts_end_in_a_word_and_labels_have_their_space(model, name):
    """A year's last two digits continue its century; every other answer is a word of its own."""
    pairs = load_task(name, model, n=60)
    for text in pairs.clean + pairs.corrupted:
        assert text[-1].isalnum()
    for token in pairs.labels.tokens.flatten().tolist():
        spaced = model.tokenizer.decode([token]).startswith(" ")
        assert spaced == (name != "greater-than")


@pytest.mark.parametrize("name, metric", [("greater-than", prob_diff), ("ioi", logit_diff)])
def test_each_task_has_its_metric(model, name, metric):
    assert load_task(name, model, n=1).metric is metric


@settings(max_examples=8)
@given(name=names, seed=st.integers(0, 10**6), few=st.integers(1, 20))
def test_a_seed_decides_the_prompts_and_fewer_are_a_prefix(testbed, name, seed, few):
    many = load_task(name, testbed, n=30, seed=seed)
    assert load_task(name, testbed, n=few, seed=seed).clean == many.clean[:few]
    assert load_task(name, testbed, n=30, seed=seed + 1).clean != many.clean


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_prompt(testbed, name):
    n = 40
    held_out = load_task(name, testbed, n=n)
    trained = load_task(name, testbed, n=n, split="train")
    assert not set(held_out.clean) & set(trained.clean)


def test_held_out_name_pairs_are_held_out_in_both_orders(testbed):
    for split in ("held-out", "train"):
        pairs = load_task("ioi", testbed, n=60, split=split)
        for text in pairs.clean:
            said = [name for name in ioi.names() if f"{name} " in text or f"{name}," in text]
            pair = {
                name
                for name in said
                if text.count(name) and name in text.split() or f"{name}," in text.split()
            }
            key = ioi.pair_key(*sorted(pair)[:2])
            assert split_of("ioi", key) == split, text


def test_ioi_corruptions(testbed):
    hard = load_task("ioi", testbed, n=20)
    third = load_task("ioi", testbed, n=20, corruption="abc")
    assert hard.clean == third.clean
    for clean, other, abc, labels in zip(
        hard.clean, hard.corrupted, third.corrupted, hard.labels.tokens, strict=True
    ):
        recipient, giver = (testbed.tokenizer.decode([token]).strip() for token in labels)
        assert clean.count(giver) == 2 and clean.count(recipient) == 1
        assert other.count(giver) == 1 and other.count(recipient) == 2
        assert abc.count(giver) == abc.count(recipient) == 1


@given(year=st.integers(0, 98))
def test_the_start_year_itself_is_wrong(year):
    right, wrong = labels_after(year)
    assert [int(text) for text in right] == list(range(year + 1, 100))
    assert [int(text) for text in wrong] == list(range(year + 1))


def test_greater_than_uses_the_start_year_of_the_clean_prompt(model):
    pairs = load_task("greater-than", model, n=20)
    for clean, corrupted, tokens, signs in zip(
        pairs.clean, pairs.corrupted, pairs.labels.tokens, pairs.labels.signs, strict=True
    ):
        year = clean.split(" year ")[1][:4]
        assert f"year {year[:2]}01 to" in corrupted
        right = [model.tokenizer.decode([t]) for t, s in zip(tokens, signs, strict=True) if s > 0]
        assert right == [f"{later:02}" for later in range(int(year[2:]) + 1, 100)]


def test_gender_bias_is_corrupted_against_the_stereotype(model):
    pairs = load_task("gender-bias", model, n=60)
    for clean, corrupted, labels in zip(
        pairs.clean, pairs.corrupted, pairs.labels.tokens, strict=True
    ):
        right = model.tokenizer.decode([labels[0]]).strip()
        profession = clean.split()[1]
        assert gender_bias.stereotypes()[profession] == right
        assert corrupted.split()[1] == {"she": "man", "he": "woman"}[right]


def test_no_country_that_shares_its_first_token_is_a_label_of_both(model):
    pairs = load_task("capital-country", model, n=90)
    assert (pairs.labels.tokens[:, 0] != pairs.labels.tokens[:, 1]).all()


EXAMPLES = [
    (
        "ioi",
        "When Mary and John went to the store, John gave a bottle of milk to",
        "When Mary and John went to the store, Mary gave a bottle of milk to",
        " Mary",
        " John",
    ),
    (
        "ioi",
        "When John and Mary went to the store, John gave a bottle of milk to",
        "When John and Mary went to the store, Mary gave a bottle of milk to",
        " Mary",
        " John",
    ),
    ("gender-bias", "The nurse said that", "The man said that", " she", " he"),
    (
        "capital-country",
        "Tirana, the capital of",
        "Brasilia, the capital of",
        " Albania",
        " Brazil",
    ),
]


@pytest.mark.parametrize("task, clean, corrupted, right, wrong", EXAMPLES)
def test_the_designs_examples_load(model, tmp_path, task, clean, corrupted, right, wrong):
    path = tmp_path / "example.csv"
    path.write_text(f'clean,corrupted,correct,incorrect\n"{clean}","{corrupted}",{right},{wrong}\n')
    pairs = load_task(path, model)
    assert (pairs.clean, pairs.corrupted) == ([clean], [corrupted])
    written = [item["text"] for item in read_words("ioi")["templates"]]
    assert "When {first} and {second} went to the {place}, {giver} gave {object} to" in written


def test_the_designs_year_loads(model, tmp_path):
    path = tmp_path / "years.csv"
    clean = "The war lasted from the year 1741 to the year 17"
    path.write_text(f"clean,corrupted,correct_idx\n{clean},{clean.replace('1741', '1701')},41\n")
    pairs = load_task(path, model)
    assert pairs.metric is prob_diff and int((pairs.labels.signs > 0).sum()) == 58


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name_or_path": "iol"}, "iol.*'ioi'"),
        ({"name_or_path": "ioi", "split": "dev"}, "dev.*held-out"),
        ({"name_or_path": "gender-bias", "corruption": "abc"}, "abc.*hard"),
        ({"name_or_path": "ioi", "n": 0}, "n=0.*at least 1"),
        ({"name_or_path": "capital-country", "n": 500}, r"n=500.*at most \d+"),
    ],
)
def test_bad_requests_get_a_sentence(testbed, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_task(model=testbed, **arguments)


@pytest.mark.parametrize("name", [None, 123, b"ioi", ["ioi"], True])
def test_a_task_is_named_by_a_text_or_a_path(testbed, unchecked, name):
    with pytest.raises(ValueError, match="is not a task: give a task's name or a CSV file's path"):
        load_task(name, testbed)


@pytest.mark.parametrize("name", ["", ".", "..", "../ioi", "IOI", "ioi ", "ioi.json", "no/such"])
def test_other_names_get_a_sentence(testbed, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="There is no task|does not end in .csv"):
        load_task(name, testbed)


@pytest.mark.parametrize("name", [None, 3, ["hard"]])
def test_choices_are_among_those_named(testbed, unchecked, name):
    for choice in ("split", "corruption"):
        with pytest.raises(ValueError, match=f"There is no {choice}"):
            load_task("ioi", testbed, **{choice: name})


def test_a_folder_named_like_a_task_is_not_the_task(testbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ioi").mkdir()
    assert load_task("ioi", testbed, n=1).task == "ioi"
    with pytest.raises(ValueError, match="ioi does not end in .csv"):
        load_task(tmp_path / "ioi", testbed)


# The testbeds' weights were learnt from the other side of this split: it can't be drawn again.
HELD_OUT = {
    "ioi": ["Alice & Catherine", "Alice & Diana"],
    "greater-than": ["1107", "1109"],
    "gender-bias": ["The teacher said that", "The maid said that"],
    "capital-country": ["Kabul, the capital of", "Tirana, the capital of"],
}
TRAINED = {
    "ioi": ["Alice & Amy", "Alice & Angela"],
    "greater-than": ["1102", "1103"],
    "gender-bias": ["The nurse said that", "The secretary said that"],
    "capital-country": ["Vienna, the capital of", "Nassau, the capital of"],
}


@pytest.mark.parametrize("name", TASKS)
def test_these_keys_are_held_out_and_those_are_not(name):
    assert {split_of(name, key) for key in HELD_OUT[name]} == {"held-out"}
    assert {split_of(name, key) for key in TRAINED[name]} == {"train"}


DRAWN = {
    ("ioi", "held-out"): "66ef2a7fed50",
    ("ioi", "train"): "80ef61fe90e0",
    ("greater-than", "held-out"): "e88c7cd8242a",
    ("greater-than", "train"): "7f08850113e4",
    ("gender-bias", "held-out"): "33246de33c37",
    ("gender-bias", "train"): "71c76d5c4c48",
    ("capital-country", "held-out"): "099a271374b9",
    ("capital-country", "train"): "8ad9c2d00369",
}


@pytest.mark.parametrize("name, split", DRAWN)
def test_a_seed_draws_the_prompts_that_published_numbers_are_of(testbed, name, split):
    pairs = load_task(name, testbed, n=20, split=split)
    texts = json.dumps([pairs.clean, pairs.corrupted])
    assert sha256(texts.encode()).hexdigest()[:12] == DRAWN[name, split]
