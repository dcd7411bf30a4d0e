"""What a function computes decides its identity: neither its name nor where it stands does."""

import sys
from functools import partial, wraps
from inspect import unwrap
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, identity, integrated_gradients
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


def test_a_metric_of_the_library_is_its_source_without_its_words(tmp_path, monkeypatch):
    """The same on every version of Python, and another one when it is edited in its place."""
    monkeypatch.setattr(identity, "_HERE", str(tmp_path))

    def written_as(text: str) -> str:
        path = tmp_path / f"metrics_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        names = {"__name__": "analysis.extra"}
        exec(compile(text, path, "exec"), names)
        return identify(names["metric"])

    before = "from analysis.metrics import LabelMetric\n\n\n"
    for head in (before + "@LabelMetric\n", before):
        text = head + 'def metric(values, labels):\n    """One."""\n    return values.sum(-1)\n'
        assert written_as(text) == written_as(text.replace("One", "Another"))
        assert written_as(text) != written_as(text.replace("sum", "mean"))
    assert identify(logit_diff) == identify(logit_diff) != identify(prob_diff)


def test_a_wrapper_that_took_anothers_name_is_not_that_other():
    @wraps(prob_diff)
    def doubled(logits, labels):
        return 2 * prob_diff(logits, labels)

    @wraps(prob_diff)
    def tripled(logits, labels):
        return 3 * prob_diff(logits, labels)

    assert len({identify(metric) for metric in (prob_diff, doubled, tripled)}) == 3


def test_a_decorated_function_is_what_is_decorated():
    one, other = (torch.no_grad()(written(text)) for text in TEXTS[:2])
    assert identify(one) == identify(torch.no_grad()(written(TEXTS[0]))) != identify(other)


def test_checking_shapes_while_tests_run_changes_no_key():
    """Tests find what was kept without it."""
    for function in (activation_patching, prob_diff.of_columns):
        assert unwrap(function) is not function
        assert identify(function) == identify(unwrap(function))


def test_a_method_of_the_library_goes_by_its_name():
    """`ALGORITHM` stands for its numbers."""
    assert identify(activation_patching) != identify(integrated_gradients)


def test_a_number_in_a_module_of_the_users_is_part_of_it():
    def reading(scale: float):
        settings = ModuleType("settings")
        settings.SCALE = scale
        names = {"settings": settings}
        exec("def metric(logits, labels):\n    return logits[:, 0] * settings.SCALE", names)
        return names["metric"]

    assert identify(reading(1)) == identify(reading(1)) != identify(reading(2))


def test_a_class_of_a_session_without_a_file_is_its_code(monkeypatch):
    """As in a notebook or a console."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def of(number: int):
        names = {"__name__": "__main__"}
        exec(
            f"class Metric:\n    def __call__(self, logits, labels):\n        return {number}",
            names,
        )
        return names["Metric"]()

    assert identify(of(1)) == identify(of(1)) != identify(of(2))


def test_an_installed_package_goes_by_name_and_version(monkeypatch):
    from scipy.special import logsumexp

    def metric(logits, labels, normaliser=logsumexp):
        return normaliser(logits, axis=-1)

    before = identify(metric)
    assert identify(metric) == before
    monkeypatch.setattr(identity, "version", lambda package: "another")
    assert identify(metric) != before


def test_functions_that_call_themselves_end():
    def again(logits, labels):
        return again(logits[1:], labels) if len(logits) > 1 else logits

    assert identify(again) == identify(again)


def test_what_cannot_be_told_apart_is_one_sentence():
    stream = (number for number in range(3))
    with pytest.raises(ValueError, match="refers to .*generator.*can't be kept"):
        identify(lambda logits, labels: next(stream))
