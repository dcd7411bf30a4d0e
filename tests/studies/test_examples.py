"""The prompts that a page shows are the ones that are scored, with the answers that are scored."""

import torch

from analysis import load_task
from analysis.studies.examples import examples
from analysis.tasks import TASKS


def test_each_task_has_its_first_pair_with_the_answers_that_are_scored(tiny):
    rows = examples(tiny, seed=1).rows(named=True)
    assert [row["task"] for row in rows] == list(TASKS)
    for row in rows:
        pairs = load_task(row["task"], tiny, n=1, seed=1)
        assert (row["clean"], row["corrupted"]) == (pairs.clean[0], pairs.corrupted[0])
        tokens, signs = pairs.labels.tokens[0], pairs.labels.signs[0]
        for side, sign in (("right", 1), ("wrong", -1)):
            first = tiny.tokenizer.decode([int(tokens[torch.argmax((signs == sign).float())])])
            assert row[side].startswith(repr(first))


def test_of_many_answers_it_says_how_many_more(tiny):
    pairs = load_task("greater-than", tiny, n=1)
    row = examples(tiny).row(1, named=True)
    for side, count in (("right", len(pairs.right[0])), ("wrong", len(pairs.wrong[0]))):
        if count > 3:
            assert row[side].endswith(f" and {count - 3} more")
