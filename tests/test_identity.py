"""What a function computes decides its identity: neither its name nor where it stands does."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.identity import identify
from analysis.metrics import LabelMetric, logit_diff, prob_diff

SHIFT = 1.0


def written(source: str):
    """The metric of this text, which is always called `metric`."""
    names = {"torch": torch, "np": np, "SHIFT": SHIFT}
    exec(f"def metric(logits, labels):\n    return {source}", names)
    return names["metric"]


TEXTS = [
    "logits.mean(dim=-1)",
    "logits.sum(dim=-1)",
    "logits.mean(dim=-2)",
    "-logits.mean(dim=-1)",
    "2 * logits.mean(dim=-1)",
    "3 * logits.mean(dim=-1)",
    "logits.mean(dim=-1) + SHIFT",
    "torch.stack([(lambda row: row.max())(row) for row in logits])",
    "torch.stack([(lambda row: row.min())(row) for row in logits])",
]


@given(one=st.sampled_from(TEXTS), other=st.sampled_from(TEXTS))
def test_functions_of_one_name_are_told_apart_by_their_code(one, other):
    assert (identify(written(one)) == identify(written(other))) == (one == other)


def read_from(value):
    """Functions of the same code that read this value by each way that Python has."""

    def metric(logits, labels, default=value):
        return default

    class Holder:
        def __init__(self):
            self.value = value

        def __call__(self, logits, labels):
            return self.value

        def read(self, logits, labels):
            return self.value

    outside = {"SHIFT": value}
    exec("def metric(logits, labels):\n    return logits + SHIFT", outside)
    another = outside["metric"]
    return {
        "closure": lambda logits, labels: value,
        "default": metric,
        "keyword": partial(metric, default=value),
        "global": outside["metric"],
        "attribute": Holder(),
        "method": Holder().read,
        "wrapped": LabelMetric(lambda values, labels: values * value),
        "through another": lambda logits, labels: (lambda: another)()(logits, labels),
    }


VALUES = [1, 2, True, 1.0, "1", None, (1, 2), [1, 2], {1, 2}, {"a": 1}, {"a": 2}, np.arange(3)]
VALUES += [torch.arange(3), torch.arange(3.0), torch.arange(4), torch.float32, slice(1, 2), b"1"]


@pytest.mark.parametrize("way", read_from(0))
def test_a_value_that_is_read_from_outside_is_part_of_it(way):
    """All different, and the same again."""
    found = [identify(read_from(value)[way]) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert found == [identify(read_from(value)[way]) for value in VALUES]


def test_what_a_label_metric_needs_is_part_of_it():
    def same(values, labels):
        return values.sum(dim=-1)

    assert len({identify(LabelMetric(same, normalised=value)) for value in (True, False)}) == 2


def test_the_librarys_metrics_go_by_their_names():
    """So that results are found by other versions of Python."""
    assert identify(logit_diff) == identify(logit_diff) != identify(prob_diff)


def test_functions_that_call_themselves_end():
    def again(logits, labels):
        return again(logits[1:], labels) if len(logits) > 1 else logits

    assert identify(again) == identify(again)


def test_what_cannot_be_told_apart_is_one_sentence():
    stream = (number for number in range(3))
    with pytest.raises(ValueError, match="refers to .*generator.*can't be kept"):
        identify(lambda logits, labels: next(stream))
