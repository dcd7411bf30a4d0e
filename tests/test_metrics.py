import copy
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task
from analysis.ablation import multi_ablated_performance
from analysis.mediation import mediate
from analysis.metrics import LabelMetric, Labels, logit_diff, prob_diff


def labels(tokens: list[list[int]], signs: list[list[float]]) -> Labels:
    return Labels(torch.tensor(tokens), torch.tensor(signs, dtype=torch.float32))


def test_logit_diff_by_hand():
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]])
    chosen = labels([[1, 2], [2, 0]], [[1, -1], [1, -1]])
    assert logit_diff(logits, chosen).tolist() == [3.0, -3.0]


def test_prob_diff_by_hand():
    """Probabilities 1/8, 2/8, 5/8 over the full vocabulary, of which two are labels."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    assert prob_diff(logits, labels([[2, 0]], [[1, -1]])).item() == pytest.approx(4 / 8)


@given(shift=st.floats(-50, 50), seed=st.integers(0, 100))
def test_neither_changes_when_all_logits_shift(shift, seed):
    logits = torch.randn(2, 3, 7, generator=torch.manual_seed(seed))
    chosen = labels([[0, 1, 2]] * 3, [[1, -1, 0]] * 3)
    for metric in (logit_diff, prob_diff):
        torch.testing.assert_close(
            metric(logits + shift, chosen), metric(logits, chosen), rtol=1e-4, atol=1e-4
        )


@given(seed=st.integers(0, 100))
def test_swapping_right_and_wrong_flips_the_sign(seed):
    logits = torch.randn(4, 6, generator=torch.manual_seed(seed))
    tokens, signs = [[0, 1, 2]] * 4, [[1.0, -1.0, -1.0]] * 4
    swapped = labels(tokens, [[-sign for sign in row] for row in signs])
    for metric in (logit_diff, prob_diff):
        torch.testing.assert_close(metric(logits, swapped), -metric(logits, labels(tokens, signs)))


@given(seed=st.integers(0, 100))
def test_prob_diff_lies_between_minus_one_and_one(seed):
    logits = 10 * torch.randn(4, 6, generator=torch.manual_seed(seed))
    assert prob_diff(logits, labels([[0, 1]] * 4, [[1, -1]] * 4)).abs().max() <= 1


def test_labels_are_chosen_by_prompt():
    chosen = labels([[0, 1], [2, 3]], [[1, -1], [1, -1]])[torch.tensor([1])]
    assert chosen.tokens.tolist() == [[2, 3]]


def test_a_logit_difference_is_of_means_whatever_the_number_of_answers():
    """Two right answers and one wrong one; the other prompt's row is filled up."""
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]])
    chosen = labels([[1, 2, 0], [2, 0, 2]], [[1, 1, -1], [1, -1, 0]])
    assert logit_diff(logits, chosen).tolist() == [2.5, -3.0]


def test_probabilities_of_unequal_numbers_of_answers_are_sums():
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 2).log()
    chosen = labels([[2, 1, 0], [2, 0, 2]], [[1, 1, -1], [1, -1, 0]])
    torch.testing.assert_close(prob_diff(logits, chosen), torch.tensor([6 / 8, 4 / 8]))


def wrapped(logits, labels):
    return prob_diff(logits, labels)


def only_prompts(logits, labels):
    """Knows nothing of batches: one axis of prompts."""
    probabilities = logits.softmax(dim=1)
    picked = torch.stack([row[ids] for row, ids in zip(probabilities, labels.tokens, strict=True)])
    return (picked * labels.signs).sum(dim=1)


class Weighted:
    """A metric that is an object."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, logits, labels):
        return self.weight * prob_diff(logits, labels)


SAME = {
    "a wrapper": wrapped,
    "a lambda": lambda logits, labels: prob_diff(logits, labels),
    "a partial": partial(wrapped),
    "an object": Weighted(1.0),
    "one without batches": only_prompts,
    "one of the answers' probabilities": LabelMetric(
        lambda values, labels: (values * labels.signs).sum(dim=-1), normalised=True
    ),
}


@pytest.fixture(params=["greater-than", "ioi"])
def pairs(request, tiny):
    return load_task(request.param, tiny, n=3)


@pytest.mark.parametrize("metric", SAME)
@pytest.mark.parametrize("baseline", ["source", "zero"])
def test_any_function_that_computes_the_same_gives_the_same_scores(tiny, pairs, metric, baseline):
    """A metric is known by what it says of itself, never by being a certain object."""
    expected, found = (
        [
            activation_patching(tiny, replace(pairs, metric=metric), baseline=baseline),
            integrated_gradients(
                tiny, replace(pairs, metric=metric), baseline=baseline, steps=2, memory=2**22
            ),
        ]
        for metric in (prob_diff, SAME[metric])
    )
    for one, other in zip(found, expected, strict=True):
        for name in ("heads", "neurons", "heads_gap", "base", "source"):
            a, b = getattr(one, name), getattr(other, name)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", SAME)
def test_ablation_and_mediation_take_any_metric_too(tiny, metric):
    pairs = load_task("greater-than", tiny, n=2)
    link = (("heads", 0, 1), ("heads", 1, 2))
    sets = torch.rand(2, 3, 4, generator=torch.manual_seed(0)).numpy() > 0.5
    expected, found = (
        [
            multi_ablated_performance(tiny, replace(pairs, metric=metric), sets, "heads"),
            mediate(tiny, replace(pairs, metric=metric), [link]),
        ]
        for metric in (prob_diff, SAME[metric])
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


WRONG = {
    "one number for all": (lambda logits, labels: logits.mean(), "one number for each prompt"),
    "a number in Python": (lambda logits, labels: 1.0, "float for"),
    "a number for each token": (lambda logits, labels: logits, "one number for each prompt"),
    "not a number": (lambda logits, labels: logits[:, 0] * torch.nan, "NaN or infinite"),
    "other prompts' numbers": (
        lambda logits, labels: logits[:, 0] - logits[:, 0].mean(),
        "own logits and labels only",
    ),
}


@pytest.mark.parametrize("metric", WRONG)
def test_a_metric_that_is_none_is_one_sentence(tiny, metric):
    compute, expected = WRONG[metric]
    pairs = replace(load_task("gender-bias", tiny, n=3), metric=compute)
    with pytest.raises(ValueError, match=expected):
        activation_patching(tiny, pairs)


def test_a_metric_without_a_gradient_can_be_patched_but_not_integrated(tiny):
    def chosen(logits, labels):
        return (logits.argmax(dim=1) == labels.tokens[:, 0]).float()

    pairs = replace(load_task("ioi", tiny, n=2), metric=chosen)
    assert set(activation_patching(tiny, pairs).base.tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="no gradient.*activation_patching"):
        integrated_gradients(tiny, pairs)


def test_a_metric_is_sent_to_another_process_by_its_name():
    assert pickle.loads(pickle.dumps(prob_diff)) is prob_diff
    assert copy.deepcopy(logit_diff) is logit_diff
