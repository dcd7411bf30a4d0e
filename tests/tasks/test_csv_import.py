import pytest
import torch

from analysis import load_task
from analysis.metrics import logit_diff

HEADER = "clean,corrupted,correct,incorrect"
ROW = "The nurse said that,The man said that, she, he"


@pytest.fixture
def load(tiny, tmp_path):
    def load_text(*lines: str, **arguments):
        path = tmp_path / "my.csv"
        path.write_text("\n".join(lines) + "\n" if lines else "")
        return load_task(path, tiny, **arguments)

    return load_text


def token(model, text: str) -> int:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize(
    "columns",
    [
        ("correct_idx", "incorrect_idx"),
        ("clean_answer_idx", "corrupted_answer_idx"),
        ("country_idx", "corrupted_country_idx"),
    ],
)
def test_ids_are_the_models_own(tiny, load, columns):
    she, he = token(tiny, " she"), token(tiny, " he")
    pairs = load(
        f"clean,corrupted,{columns[0]},{columns[1]}",
        f"The nurse said that,The man said that,{she},{he}",
    )
    assert pairs.labels.tokens.tolist() == [[she, he]]
    assert pairs.labels.signs.tolist() == [[1, -1]]
    assert pairs.metric is logit_diff


def test_texts_are_verbatim(tiny, load):
    pairs = load(HEADER, '" The nurse, said that"," The man, said that", she, he')
    assert pairs.clean == [" The nurse, said that"]
    assert pairs.clean_tokens[0].tolist() == tiny.to_tokens(" The nurse, said that")[0].tolist()


def test_years_below_ten_are_numbers(tiny, load):
    pairs = load(
        "clean,corrupted,correct_idx",
        "The war lasted from the year 1707 to the year 17,"
        "The war lasted from the year 1701 to the year 17,7",
    )
    right = pairs.labels.tokens[pairs.labels.signs > 0]
    assert len(right) == 92
    assert token(tiny, "08") in right.tolist() and token(tiny, "07") not in right.tolist()


def test_what_the_tokenizer_rules_out_is_counted(load):
    pairs = load(
        HEADER,
        ROW,
        ROW,
        "The nurse ate because,The very old man ate because, she, he",
        "The nurse ran because,The man ran because, she, she",
        "The nurse slept because,The man slept because, incomprehensible, he",
        "The nurse cried because,The nurse cried because, she, he",
        f"The nurse {'very ' * 50}said that,The man {'very ' * 50}said that, she, he",
    )
    assert len(pairs) == 1
    assert sorted(pairs.left_out.values()) == [1] * 6
    reasons = " ".join(pairs.left_out)
    for word in (
        "twice",
        "number of tokens",
        "same token",
        "single token",
        "are the same",
        "longer",
    ):
        assert word in reasons


def test_n_takes_the_first_rows(load):
    other = ROW.replace("said", "yelled")
    assert load(HEADER, ROW, other, n=1).clean == ["The nurse said that"]
    with pytest.raises(ValueError, match="n=3.*only 2"):
        load(HEADER, ROW, other, n=3)


@pytest.mark.parametrize(
    "lines, message",
    [
        ((), "empty"),
        ((HEADER,), "no rows"),
        (("clean,correct,incorrect", "a, b, c"), "no column 'corrupted'"),
        (("clean,corrupted", "a,b"), "columns for the answers"),
        (("clean,corrupted,correct_idx,incorrect_idx", "a,b,1,999999"), "row 1.*999999"),
        (("clean,corrupted,correct_idx,incorrect_idx", "a,b,1,two"), "row 1.*'two'"),
        (("clean,corrupted,correct_idx", "a,b,100"), "row 1.*'100'"),
        ((HEADER, "The nurse said that,The very old man said that, she, he"), "number of tokens"),
        ((HEADER, "The nurse said that,The man said that, she, she"), "same token"),
        ((HEADER, "The nurse said that,The man said that, extraordinarily, he"), "single token"),
        ((HEADER, ",, she, he"), "are the same"),
    ],
)
def test_bad_files_get_a_sentence(load, lines, message):
    with pytest.raises(ValueError, match=message):
        load(*lines)


def test_a_missing_file_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="no file.*none.csv"):
        load_task(tmp_path / "none.csv", tiny)


def test_words_unknown_to_a_word_level_tokenizer_are_no_labels_and_no_prompts(
    tmp_path, tmp_path_factory
):
    """A tokenizer that maps what it does not know to one id, without an error."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from analysis import load_model

    words = ["[UNK]", "[BOS]", "the", "nurse", "man", "said", "she", "he"]
    fast = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="[UNK]", bos_token="[BOS]", eos_token="[BOS]"
    )
    directory = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_layer=1, n_head=1, n_embd=8, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    model = load_model(directory)
    path = tmp_path / "words.csv"
    good, unknown_label, unknown_word = (
        "the nurse said,the man said, she, he",
        "the nurse said she,the man said she, they, he",
        "the plumber said,the man said, she, he",
    )
    path.write_text("\n".join([HEADER, good, unknown_label, unknown_word]) + "\n")
    pairs = load_task(path, model)
    assert pairs.clean == ["the nurse said"]
    assert sum(pairs.left_out.values()) == 2
    path.write_text("\n".join([HEADER, unknown_label]) + "\n")
    with pytest.raises(ValueError, match="unknown to the tokenizer"):
        load_task(path, model)
