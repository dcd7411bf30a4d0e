"""Greater-than where a tokenizer splits years into digits: another task, and said to be."""

import pytest

from analysis import load_task


def test_greater_than_is_read_digit_by_digit(llama):
    pairs = load_task("greater-than", llama, n=40)
    assert pairs.task == "greater-than by digits" and "by digits" in repr(pairs)
    for clean, corrupted, right, wrong in zip(
        pairs.clean, pairs.corrupted, pairs.right, pairs.wrong, strict=True
    ):
        century, tens = clean.split(" year ")[1][:2], int(clean.split(" year ")[1][2])
        assert 2 <= tens <= 8 and f"year {century}01 to" in corrupted
        assert clean.endswith(f" year {century}") and corrupted.endswith(f" year {century}")
        assert [int(digit) for digit in right] == list(range(tens + 1, 10))
        assert [int(digit) for digit in wrong] == list(range(tens))
    pairs.check(llama)


def test_the_task_can_be_loaded_by_its_own_name_too(llama):
    both = [load_task(name, llama, n=5) for name in ("greater-than", "greater-than by digits")]
    assert both[0].clean == both[1].clean


def test_a_tokenizer_that_keeps_two_digits_together_has_no_such_task(testbed):
    with pytest.raises(ValueError, match="tokenizer: use 'greater-than'"):
        load_task("greater-than by digits", testbed)


def test_the_digits_prompts_are_those_of_the_whole_task(llama, testbed):
    whole = load_task("greater-than", testbed, n=60)
    tens = [int(text.split(" year ")[1][2]) for text in whole.clean]
    expected = [text for text, digit in zip(whole.clean, tens, strict=True) if 2 <= digit <= 8]
    assert load_task("greater-than", llama, n=len(expected)).clean == expected
