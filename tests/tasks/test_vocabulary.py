"""Texts as tokens, and labels after their prompt, whatever a tokenizer puts around a text."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import KINDS

from analysis import load_task
from analysis.tasks import TASKS
from analysis.tasks.greater_than import YEARS
from analysis.tasks.reading import Vocabulary

README = (Path(__file__).parents[2] / "README.md").read_text()
(CSV,) = re.findall(r"```csv\n(.*?)```", README, re.DOTALL)

kinds = pytest.mark.parametrize("kind", KINDS)
words = st.sampled_from(
    ["When", " Mary", "Mary", " ", "  ", "17", "41", ",", "é", "e\u0301", "日", "\n", "<s>", "</s>"]
)


@kinds
@given(texts=st.lists(st.lists(words, min_size=1, max_size=6).map("".join), max_size=4))
def test_texts_have_the_tokens_that_the_model_gives_them_one_at_a_time(zoo, kind, texts):
    model = zoo(kind)
    expected = [tuple(model.to_tokens(text, truncate=False)[0].tolist()) for text in texts]
    assert Vocabulary(model).encode(texts) == expected


@kinds
@pytest.mark.parametrize("task", TASKS)
def test_labels_are_what_the_whole_adds_to_its_prompt(zoo, kind, task):
    model = zoo(kind)
    pairs = load_task(task, model, n=8)
    for number in range(len(pairs)):
        for prompt in (pairs.clean[number], pairs.corrupted[number]):
            start = model.to_tokens(prompt)[0].tolist()
            for token in pairs.labels.tokens[number].tolist():
                answer = model.tokenizer.decode([token]).strip()
                space = "" if task == "greater-than" else " "
                whole = model.to_tokens(prompt + space + answer)[0].tolist()
                assert whole == [*start, token], (prompt, answer)
        if task == "greater-than":
            (right, wrong), year = (pairs.right[number], pairs.wrong[number]), pairs.clean[number]
            assert sorted(right + wrong) == list(YEARS)
            assert min(right) == f"{int(re.findall(r'year ..(..)', year)[0]) + 1:02}"
        if task == "ioi":
            names = [answer.strip() for (answer,) in (pairs.right[number], pairs.wrong[number])]
            assert [pairs.clean[number].count(name) for name in names] == [1, 2]


@kinds
def test_the_readmes_file_loads(zoo, kind, tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(CSV)
    pairs = load_task(path, zoo(kind))
    assert [answer.strip() for (answer,) in pairs.right + pairs.wrong] == ["were"] * 3 + ["was"] * 3
    assert not pairs.left_out


def test_a_model_without_a_tokenizer_is_refused(zoo, monkeypatch, unchecked):
    model = zoo("an end")
    monkeypatch.setattr(model, "tokenizer", None)
    for without in (model, None):
        with pytest.raises(ValueError, match="no tokenizer"):
            load_task("ioi", without)
