import gzip
import os
from pathlib import Path

import pytest
import torch
from vocabularies import byte_level, random_model

from analysis import load_task
from analysis.metrics import logit_diff

HEADER = "clean,corrupted,correct,incorrect"
ROW = "The nurse said that,The man said that, she, he"


@pytest.fixture
def load(tiny, tmp_path):
    def load_text(*lines: str, data: bytes | None = None, **arguments):
        path = tmp_path / "my.csv"
        text = "\n".join(lines) + "\n" if lines else ""
        path.write_bytes(text.encode() if data is None else data)
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
        ((), "is empty"),
        (("", "  ", ""), "is empty"),
        ((HEADER,), "no rows"),
        ((HEADER, "", ",,,"), "no rows"),
        ((ROW, ROW), "no column 'clean': it has The nurse said that"),
        (("clean,correct,incorrect", "a, b, c"), "no column 'corrupted'"),
        (("Clean,corrupted,correct,incorrect", ROW), "no column 'clean': it has Clean"),
        (("clean,corrupted,clean,correct,incorrect", ROW), "two columns 'clean'"),
        (("clean,corrupted", "a,b"), "columns for the answers"),
        (("clean,corrupted,correct,", ROW), "columns for the answers"),
        (("clean;corrupted;correct;incorrect", "a;b; she; he"), "semicolons.*commas"),
        (("clean\tcorrupted\tcorrect\tincorrect", "a\tb\t she\t he"), "tabs.*commas"),
        ((HEADER, "The nurse said that,The very old man said that, she, he"), "number of tokens"),
        ((HEADER, "The nurse said that,The man said that, she, she"), "same token"),
        ((HEADER, "The nurse said that,The man said that, extraordinarily, he"), "single token"),
        ((HEADER, ",, she, he"), "are the same"),
        (
            (HEADER, ROW, "", "The nurse, she,The man, she, is, was"),
            r"row 2 \(line 4\): .* 4 cells .* row has 6",
        ),
        (
            (HEADER, ROW, "The nurse said that,The man said that, she"),
            r"row 2 \(line 3\): .* row has 3",
        ),
        ((HEADER, f'"{ROW}', ROW), "line 2.*close every double quote"),
        ((HEADER, ROW, '"The nurse" said,The man said, she, he'), "line 3.*double quote"),
        ((HEADER, "a" * 200_000 + ",b, she, he"), "line 2.*field larger"),
    ],
)
def test_bad_files_get_a_sentence(load, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        load(*lines)
    assert "\n" not in str(error.value)


IDS = "clean,corrupted,correct_idx,incorrect_idx"
YEARS = "clean,corrupted,correct_idx"


@pytest.mark.parametrize(
    "header, answers, message",
    [
        (IDS, "1,999999", "incorrect_idx holds '999999'.*tokenizer has 3328"),
        (IDS, "1,3328", "incorrect_idx holds '3328'.*0 to 3327"),
        (IDS, "1,two", "incorrect_idx holds 'two'"),
        (IDS, "1,2.0", "incorrect_idx holds '2.0'"),
        (IDS, "-1,2", "correct_idx holds '-1'"),
        (IDS, ",2", "correct_idx holds ''"),
        (IDS, "1," + "9" * 5000, "incorrect_idx holds '999"),
        (IDS, '"[1, 99999]",2', r"correct_idx holds '\[1, 99999\]', expected ids"),
        (IDS, '"[1, 2",3', r"correct_idx holds '\[1, 2', expected one answer or a JSON list"),
        (IDS, '"[1, 2.5]",3', "correct_idx holds .* JSON list"),
        (IDS, '"[1, true]",3', "correct_idx holds .* JSON list"),
        (IDS, '"[1, ""2""]",3', r"correct_idx holds .* JSON list such as \[12, 34\]"),
        (IDS, "[" * 20_000 + ",3", "correct_idx holds .* JSON list"),
        (
            HEADER,
            """"[' she', ' they']", he""",
            r'correct holds .*JSON list such as \[" a", " b"\]',
        ),
        (HEADER, ' she,"[ he, it]"', "incorrect holds .* JSON list"),
        (HEADER, ' she,"["" he"", 5]"', "incorrect holds .* JSON list"),
        (YEARS, "100", "correct_idx holds '100', expected a two-digit year"),
        (YEARS, "41.0", "correct_idx holds '41.0', expected a two-digit year"),
        (YEARS, "[41]", r"correct_idx holds '\[41\]', expected a two-digit year"),
    ],
)
def test_bad_answers_are_named_with_their_row(load, header, answers, message):
    good = {IDS: "1,2", HEADER: " she, he", YEARS: "41"}[header]
    prompts = "The nurse said that,The man said that"
    with pytest.raises(ValueError, match=r"my.csv, row 2 \(line 5\): column " + message) as error:
        load(header, "", f"{prompts},{good}", "", f"{prompts},{answers}")
    assert len(str(error.value)) < 300


def test_ids_of_a_padded_vocabulary_are_no_tokens(tmp_path, tmp_path_factory):
    model = random_model(tmp_path_factory.mktemp("padded"), byte_level("<s> $A"), spare=9)
    path, last = tmp_path / "ids.csv", model.cfg.d_vocab - 10
    for token in (last, last + 1):
        path.write_text(f"{IDS}\nThe nurse said that,The man said that,7,{token}\n")
        if token == last:
            assert load_task(path, model).labels.tokens.tolist() == [[7, last]]
    with pytest.raises(ValueError, match=rf"row 1 \(line 2\): .*'{last + 1}'.* {last + 1}, 0 to"):
        load_task(path, model)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_blank_lines_and_other_line_ends_are_no_rows(load, end, mark):
    other = ROW.replace("said", "ran")
    lines = ("", HEADER, "", ROW, "   ", ",,,", other, "", "")
    pairs = load(data=mark + end.join(lines).encode())
    assert pairs.clean == ["The nurse said that", "The nurse ran that"]


def test_an_id_file_may_end_in_a_blank_line(tiny, load):
    she, he = token(tiny, " she"), token(tiny, " he")
    assert len(load(IDS, f"The nurse said that,The man said that,{she},{he}", "")) == 1


def test_a_prompt_may_stand_on_several_lines(load):
    header, quoted = HEADER, '"The nurse said\nthat","The man said\nthat", she, he'
    assert load(header, quoted).clean == ["The nurse said\nthat"]
    windows = "\r\n".join([header, quoted.replace("\n", "\r\n")])
    assert load(data=windows.encode()).clean == ["The nurse said\r\nthat"]
    with pytest.raises(ValueError, match=r"row 2 \(line 5\): .* row has 1"):
        load(header, quoted, "oops")


def test_columns_may_be_spaced_and_others_are_ignored(load):
    pairs = load(',clean , corrupted, correct,incorrect,note,""', f'0,{ROW},"a ""note""",')
    assert pairs.clean == ["The nurse said that"] and pairs.right == [(" she",)]


def test_one_clean_prompt_may_have_two_corruptions(load):
    other = ROW.replace("man", "boy")
    pairs = load(HEADER, ROW, other, ROW)
    assert pairs.corrupted == ["The man said that", "The boy said that"]
    assert pairs.left_out == {"the pair occurs twice": 1}


def test_a_cell_may_hold_several_answers(tiny, load):
    prompts = "The nurse said that,The man said that"
    texts = load(HEADER, f'{prompts},"["" she"", "" they""]", he', ROW.replace("said", "ran"))
    assert texts.right == [(" she", " they"), (" she",)] and texts.wrong == [(" he",)] * 2
    assert texts.labels.signs.tolist() == [[1, 1, -1], [1, -1, 0]]
    she, they, he = (token(tiny, f" {word}") for word in ("she", "they", "he"))
    ids = load(IDS, f'{prompts}," [{she}, {they}] ",[{he}]')
    assert ids.labels.tokens.tolist() == [[she, they, he]]


def test_a_bracket_may_be_an_answer(load):
    assert load(HEADER, "The nurse said that,The man said that,[, he").right == [("[",)]


@pytest.mark.parametrize(
    "data, message",
    [
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), r"not UTF-8 text \(line 1\): save it as UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16-le"), "save it as UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-32"), "save it as UTF-8"),
        (f"{HEADER}\n{ROW}\nThe café".encode("latin-1"), r"UTF-8 text \(line 3\): save it as"),
        (
            gzip.compress(f"{HEADER}\n{ROW}\n".encode(), mtime=0),
            "UTF-8, unpacked if it is compressed",
        ),
        (f"{HEADER}\n{ROW}\0\n".encode(), r"not UTF-8 text \(line 2\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_files_that_are_no_utf8_text_get_a_sentence(load, data, message):
    with pytest.raises(ValueError, match=message):
        load(data=data)


def test_a_missing_file_is_named(tiny, tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    for name in ("none.csv", "link.csv", "nu\0ll.csv"):
        with pytest.raises(ValueError, match=f"no file.*{name}"):
            load_task(tmp_path / name, tiny)


def test_what_is_no_file_is_named(tiny, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "pipe.csv"):
        with pytest.raises(ValueError, match=f"{name} is a directory or a device"):
            load_task(tmp_path / name, tiny)


def test_a_file_that_cannot_be_read_is_named(tiny, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="csv cannot be read: File name too long"):
        load_task(tmp_path / f"{'a' * 300}.csv", tiny)
    path = tmp_path / "secret.csv"
    path.write_text(HEADER)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match="secret.csv cannot be read: Permission denied"):
        load_task(path, tiny)


def test_the_ending_is_read_in_any_case_and_needed(tiny, tmp_path):
    for name in ("my.CSV", "my.Csv"):
        (tmp_path / name).write_text(f"{HEADER}\n{ROW}\n")
        assert len(load_task(str(tmp_path / name), tiny)) == 1
    for name in ("my.txt", "my.csv.gz", "my"):
        (tmp_path / name).write_text(f"{HEADER}\n{ROW}\n")
        with pytest.raises(ValueError, match=f"{name} does not end in .csv"):
            load_task(tmp_path / name, tiny)


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
