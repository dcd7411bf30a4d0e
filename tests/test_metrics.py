import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.metrics import Labels, logit_diff, prob_diff


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
