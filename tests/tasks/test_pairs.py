"""What makes a prompt pair, and what is left out and why."""

import dataclasses
from itertools import islice
from random import Random

import numpy as np
import pytest
import torch
from conftest import save_random_model
from tokenizers import Regex, normalizers
from vocabularies import byte_level, random_model, single_digits, whole_years

from analysis import load_model, load_task
from analysis.bench.workloads import SHAPES, random_pairs
from analysis.metrics import Labels, logit_diff, prob_diff
from analysis.tasks import Example, PromptPairs, greater_than
from analysis.tasks.pairs import build_pairs
from analysis.tasks.reading import Vocabulary

CLEAN, CORRUPTED = "The nurse said that", "The man said that"


def example(clean=CLEAN, corrupted=CORRUPTED, right=(" she",), wrong=(" he",)) -> Example:
    return Example(clean, corrupted, right, wrong)


def build(model, *examples: Example, metric=prob_diff, **options) -> PromptPairs:
    return build_pairs("ours", metric, ([one] for one in examples), model, **options)


def reason(model, **changed) -> str:
    """Why the one pair is left out."""
    with pytest.raises(ValueError, match="no prompt pair is usable") as error:
        build(model, example(**changed))
    return str(error.value)


def comparing(logits, labels):
    return logit_diff(logits, labels)


comparing.compares = True


@pytest.fixture(scope="module")
def rewriting(tmp_path_factory):
    """A tokenizer that reads " he" as " she" after "man", and composes accents."""
    fast = byte_level("<s> $A")
    after_man = normalizers.Replace(Regex("(?<=man) he"), " she")
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), after_man])
    return random_model(tmp_path_factory.mktemp("rewriting"), fast)


@pytest.mark.parametrize(
    "prompts, right, found",
    [
        (("The nurse sa", "The man sa"), "id", "changes how the prompt's end is tokenised"),
        ((CLEAN, CORRUPTED), "", "empty"),
        ((CLEAN, CORRUPTED), " extraordinarily", "not a single token after its prompt"),
        (("The year 17", "The year 1"), "7", "number of tokens|prompt's end"),
    ],
)
def test_a_label_is_one_token_after_either_prompt(tiny, prompts, right, found):
    with pytest.raises(ValueError, match=found):
        build(tiny, example(*prompts, right=(right,), wrong=(" he",)))


def test_a_label_that_is_another_token_after_the_corrupted_prompt_is_left_out(rewriting):
    assert "not the same token" in reason(rewriting, clean="The nurse", corrupted="The man")
    assert len(build(rewriting, example())) == 1


def test_a_labels_first_token_counts_where_the_task_says_so(tiny):
    long = example(right=(" incomprehensible",))
    assert "not a single token" in reason(tiny, right=long.right)
    pairs = build(tiny, long, first_token=True)
    first = tiny.to_tokens(f"{CLEAN} incomprehensible")[0, len(pairs.clean_tokens[0])]
    assert pairs.labels.tokens[0, 0] == first


def test_a_prompt_that_changes_with_its_label_is_left_out_with_first_tokens_too(tiny):
    cut = example("The nurse sa", "The man sa", right=("id",))
    with pytest.raises(ValueError, match="prompt's end"):
        build(tiny, cut, first_token=True)


@pytest.mark.parametrize("space", [" ", "\u2581"])
def test_years_complete_a_century_although_some_are_one_token(tmp_path, space):
    model, path = random_model(tmp_path, whole_years(space)), tmp_path / "years.csv"
    pairs = load_task("greater-than", model, n=5)
    clean, corrupted = pairs.clean[0], pairs.corrupted[0]
    assert len(model.to_tokens(clean + "76")[0]) == len(model.to_tokens(clean)[0])
    assert len(model.to_tokens(clean + "42")[0]) == len(model.to_tokens(clean)[0]) + 1
    years = [f"{year:02}" for year in range(100)]
    expected = model.tokenizer.convert_tokens_to_ids(years)
    assert [sorted(tokens) for tokens in pairs.labels.tokens.tolist()] == [sorted(expected)] * 5
    path.write_text(f"clean,corrupted,correct_idx\n{clean},{corrupted},41\n")
    assert load_task(path, model).right == [tuple(years[42:])]


def test_other_labels_are_what_the_tokenizer_makes_of_the_whole(tmp_path):
    model = random_model(tmp_path, whole_years(" "))
    years = Example("The war to the year 17", "The war to the war 17", ("76",), ("42",))
    with pytest.raises(ValueError, match="prompt's end"):
        build(model, years)
    completing = dataclasses.replace(years, completes=True)
    assert build(model, completing).right == [("76",)]
    for label in ("7642", "year", "x"):  # what it has no single token for
        with pytest.raises(ValueError, match="no prompt pair is usable.*a label"):
            build(model, dataclasses.replace(completing, right=(label,)))


def test_labels_that_no_prompt_allows_are_tried_one_at_a_time(tmp_path, monkeypatch):
    """A hundred years after ten thousand prompts would take a minute to refuse."""
    model, encoded = random_model(tmp_path, single_digits()), []
    encode = Vocabulary.encode

    def counting(self, texts):
        encoded.extend(texts := list(texts))
        return encode(self, texts)

    monkeypatch.setattr(Vocabulary, "encode", counting)
    candidates = islice(greater_than.examples(Random(0), "held-out", "hard"), 50)
    with pytest.raises(ValueError, match=r"not a single token after its prompt \(50\)"):
        build_pairs("years", prob_diff, candidates, model)
    assert len(encoded) <= 3 * 50


def test_ids_are_labels_as_they_are(tiny):
    she, he = tiny.to_single_token(" she"), tiny.to_single_token(" he")
    pairs = build(tiny, example(right=(she,), wrong=(he,)))
    assert pairs.labels.tokens.tolist() == [[she, he]]
    assert (pairs.right, pairs.wrong) == ([(" she",)], [(" he",)])


def test_ids_beyond_the_tokenizers_tokens_are_refused(tmp_path):
    model = random_model(tmp_path, byte_level("<s> $A"), spare=7)
    tokens = model.cfg.d_vocab - 7
    assert len(build(model, example(right=(tokens - 1,)))) == 1
    for token in (tokens, model.cfg.d_vocab + 1, -1):
        with pytest.raises(ValueError, match=f"Label {token} .*{tokens} tokens"):
            build(model, example(right=(token,)))


def test_tokens_without_a_row_in_the_embedding_are_left_out(tmp_path):
    fast = byte_level("<s> $A")
    model = random_model(tmp_path, fast)
    model.tokenizer.add_tokens(" they")
    assert "no embedding" in reason(model, clean="Then they said that")
    assert "no logit" in reason(model, right=(" they",))
    with pytest.raises(ValueError, match=f"{model.cfg.d_vocab} tokens"):
        build(model, example(right=(model.cfg.d_vocab,)))


def test_a_prompt_may_fill_the_models_positions(tiny):
    room = tiny.cfg.n_ctx - len(tiny.to_tokens(CLEAN)[0])
    full, longer = (
        [text + " very" * more for text in (CLEAN, CORRUPTED)] for more in (room, room + 1)
    )
    assert len(build(tiny, example(*full)).clean_tokens[0]) == tiny.cfg.n_ctx
    with pytest.raises(ValueError, match=f"longer than the model's {tiny.cfg.n_ctx} positions"):
        build(tiny, example(*longer))


def test_the_unknown_token_is_no_label(zoo):
    model = zoo("a space in front of unigrams")
    for label in (model.tokenizer.unk_token_id, " xyzzy", "<unk>"):
        assert "unknown" in reason(model, right=(label,))


def test_the_unknown_token_is_no_label_where_it_also_begins_every_text(tmp_path):
    model = random_model(tmp_path, byte_level("<s> $A"))
    model.tokenizer.unk_token = "<s>"
    for label in (model.tokenizer.bos_token_id, "<s>"):
        assert "unknown" in reason(model, right=(label,))


def test_a_label_given_twice_counts_once(tiny):
    pairs = build(tiny, example(right=(" she", " they", " she")))
    assert pairs.right == [(" she", " they")] and pairs.labels.tokens.shape == (1, 3)


def test_prompts_that_are_the_same_tokens_are_left_out(rewriting):
    composed, letters = "The caf\u00e9 said that", "The cafe\u0301 said that"
    assert "are the same tokens" in reason(rewriting, clean=composed, corrupted=letters)


@pytest.mark.parametrize("gap", ["", " "])
@pytest.mark.parametrize("side", ["clean", "corrupted"])
def test_a_beginning_of_text_token_is_not_doubled(tiny, zoo, side, gap):
    for model in (tiny, zoo("a space in front of every piece"), zoo("no ends")):
        text = gap + model.tokenizer.bos_token + {"clean": CLEAN, "corrupted": CORRUPTED}[side]
        assert "leave it off" in reason(model, **{side: text})


def test_a_beginning_of_text_token_may_be_written_where_none_is_put(zoo):
    model = zoo("no ends and none wanted")
    pairs = build(model, example(f"<s>{CLEAN}", f"<s>{CORRUPTED}"))
    assert pairs.clean_tokens[0].tolist() == model.to_tokens(f"<s>{CLEAN}")[0].tolist()


def test_a_one_word_prompt_is_a_prompt_where_nothing_is_put_in_front(zoo):
    pairs = build(zoo("no ends and none wanted"), example("When", "The", (" she",), (" he",)))
    assert [len(tokens) for tokens in pairs.clean_tokens] == [1]


def test_a_pair_is_the_duplicate_of_a_pair_not_of_a_prompt(tiny):
    others = [example(), example(corrupted="The boy said that"), example(right=(" they",))]
    pairs = build(tiny, *others, example(), example(right=(" she", " she")))
    assert pairs.corrupted == [CORRUPTED, "The boy said that", CORRUPTED]
    assert pairs.left_out == {"the pair occurs twice": 2}


def test_different_texts_of_equal_tokens_are_duplicates(rewriting):
    both = [example(f"The caf{end} said", "The caf\u00fc said") for end in ("\u00e9", "e\u0301")]
    assert build(rewriting, *both).left_out == {"the pair occurs twice": 1}


def test_prompts_may_have_different_numbers_of_answers(tiny):
    examples = [
        example(),
        example("The nurse ran", "The man ran", (" she", " they", " I"), (" he", " it")),
        example("The nurse ate", "The man ate", (" she", " he"), ()),
    ]
    pairs = build(tiny, *examples)
    assert pairs.labels.signs.tolist() == [[1, -1, 0, 0, 0], [1, 1, 1, -1, -1], [1, 1, 0, 0, 0]]
    assert pairs.right == [(" she",), (" she", " they", " I"), (" she", " he")]
    assert pairs.wrong == [(" he",), (" he", " it"), ()]
    tokens, signs = pairs.labels.tokens, pairs.labels.signs
    assert (tokens == torch.where(signs == 0, tokens[:, :1], tokens)).all()
    logits = torch.randn(3, tiny.cfg.d_vocab, generator=torch.Generator().manual_seed(0))
    for number, one in enumerate(examples[:2]):
        alone = build(tiny, one)
        assert (alone.labels.signs != 0).all()
        for metric in (logit_diff, prob_diff):
            padded = metric(logits, pairs.labels)[number]
            torch.testing.assert_close(padded, metric(logits[number][None], alone.labels)[0])


def test_a_pair_has_the_labels_that_its_metric_compares(tiny):
    one_sided = [example(wrong=()), example("The nurse ran", "The man ran", right=())]
    assert len(build(tiny, *one_sided)) == 2
    pairs = build(tiny, *one_sided, example("The nurse ate", "The man ate"), metric=comparing)
    assert pairs.clean == ["The nurse ate"]
    assert [("only" in why, count) for why, count in pairs.left_out.items()] == [(True, 2)]
    assert "no labels" in reason(tiny, right=(), wrong=())


@pytest.mark.parametrize("n", [1.5, "3", True, 2.0, [1], float("nan")])
def test_the_number_of_prompts_is_a_whole_number(tiny, unchecked, n):
    with pytest.raises(ValueError, match="^n=.*expected a whole number"):
        load_task("gender-bias", tiny, n=n)
    with pytest.raises(ValueError, match="^seed=.*expected a whole number"):
        load_task("gender-bias", tiny, n=1, seed=n)


def test_whole_numbers_of_other_libraries_are_numbers(tiny, unchecked):
    expected = load_task("gender-bias", tiny, n=2, seed=3).clean
    for number in (np.int64, np.uint8, torch.tensor):
        assert load_task("gender-bias", tiny, n=number(2), seed=number(3)).clean == expected


def test_a_repr_shows_some_pairs_with_their_answers_and_says_how_many_there_are(tiny):
    shown = repr(load_task("greater-than", tiny, n=100))
    assert len(shown) < 1000 and "prompts=100" in shown and "and 97 more" in shown
    assert "metric=prob_diff" in shown and "right=('07', '08', '09', '10', ...)" in shown
    swapped = load_task("ioi", tiny, n=2)
    swapped = dataclasses.replace(
        swapped, labels=Labels(swapped.labels.tokens, -swapped.labels.signs)
    )
    assert "right=(' Richard',) wrong=(' Rose',)" in repr(swapped) and "more" not in repr(swapped)


def test_labels_put_in_later_are_shown_by_their_number(tiny):
    pairs = load_task("ioi", tiny, n=1)
    she = tiny.to_single_token(" she")
    other = Labels(torch.tensor([[she]]), torch.tensor([[1.0]]))
    assert dataclasses.replace(pairs, labels=other).right == [(f"token {she}",)]


@pytest.mark.parametrize("task", ["ioi", "greater-than"])
def test_pairs_are_the_models_that_they_were_loaded_with(tiny, testbed, zoo, task):
    pairs = load_task(task, tiny, n=20)
    for model in (tiny, testbed):
        pairs.check(model)
        pairs.select([3, 1]).check(model)
    with pytest.raises(ValueError, match=f"another model's tokenizer.*load_task\\('{task}', model"):
        pairs.check(zoo("no ends"))
    load_task(task, zoo("no ends"), n=20).check(zoo("no ends"))


def test_pairs_with_ids_out_of_the_vocabulary_are_refused(tiny):
    pairs = load_task("gender-bias", tiny, n=3)
    beyond = torch.full_like(pairs.labels.tokens, tiny.cfg.d_vocab)
    for labels in (beyond, beyond - tiny.cfg.d_vocab - 1):
        changed = dataclasses.replace(pairs, labels=Labels(labels, pairs.labels.signs))
        with pytest.raises(
            ValueError, match=f"an id is outside this model's vocabulary of {tiny.cfg.d_vocab}"
        ):
            changed.check(tiny)
    random = random_pairs("ioi", SHAPES["ioi"], 3, tiny.cfg.d_vocab + 500)
    with pytest.raises(ValueError, match="an id is outside"):
        random.check(tiny)


def test_pairs_longer_than_the_models_positions_are_refused(tiny, tmp_path):
    save_random_model(tmp_path, seed=1, n_positions=15)
    short = load_model(tmp_path)
    pairs = load_task("ioi", tiny, n=4)
    pairs.select([0]).check(short)
    assert len(pairs.clean_tokens[1]) == 16
    with pytest.raises(ValueError, match="longer than this model's 15 positions"):
        pairs.select([0, 1]).check(short)


def test_pairs_whose_texts_have_other_tokens_are_refused(tiny, tiny_raw, monkeypatch):
    """The same vocabulary, read otherwise: with nothing in front, or as other pieces."""
    pairs = load_task("gender-bias", tiny, n=3)
    for side in ("clean", "corrupted"):
        texts = [*getattr(pairs, side)[:2], "The cook said that"]
        with pytest.raises(ValueError, match="splits 'The cook said that' differently"):
            dataclasses.replace(pairs, **{side: texts}).check(tiny)
    monkeypatch.setattr(tiny_raw.cfg, "default_prepend_bos", False)
    with pytest.raises(ValueError, match="splits .* differently"):
        pairs.check(tiny_raw)


def test_pairs_whose_answers_are_other_words_are_refused(tiny):
    pairs = load_task("gender-bias", tiny, n=3)
    she, *_ = pairs.answers
    with pytest.raises(ValueError, match=f"answer ' Ann' is token {she}, which is"):
        dataclasses.replace(pairs, answers=pairs.answers | {she: " Ann"}).check(tiny)


def test_a_fingerprint_is_of_tokens_labels_and_signs(tiny):
    pairs = load_task("ioi", tiny, n=3)
    tokens, signs = pairs.labels.tokens, pairs.labels.signs
    others = [
        pairs,
        dataclasses.replace(pairs, clean_tokens=pairs.corrupted_tokens),
        dataclasses.replace(pairs, corrupted_tokens=pairs.clean_tokens),
        dataclasses.replace(pairs, labels=Labels(tokens.flip(-1), signs)),
        dataclasses.replace(pairs, labels=Labels(tokens, -signs)),
        pairs.select([1, 0, 2]),
    ]
    assert len({other.fingerprint() for other in others}) == len(others)
    assert load_task("ioi", tiny, n=3).fingerprint() == pairs.fingerprint()


def test_pairs_made_of_tokens_are_checked_by_their_tokens_alone(tiny):
    random_pairs("greater-than", SHAPES["greater-than"], 3, tiny.cfg.d_vocab).check(tiny)
