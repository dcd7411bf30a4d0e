import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import Scores


def scores(total: torch.Tensor, heads: torch.Tensor) -> Scores:
    """Scores of runs with these total effects."""
    prompts, layers = heads.shape[:2]
    return Scores(
        method="AP",
        task="made up",
        direction="noising",
        baseline="source",
        heads=heads,
        neurons=heads,
        base=torch.zeros(prompts),
        source=total,
        prompts=torch.arange(prompts),
        heads_gap=torch.zeros(prompts, layers),
        neurons_gap=torch.zeros(prompts, layers),
    )


@given(flipped=st.integers(0, 5), size=st.floats(0.001, 1))
def test_no_prompt_can_flip_normalised_scores(flipped, size):
    """One prompt whose total effect has the other sign, or is tiny, changes no score's sign."""
    heads = torch.randn(6, 2, 3, generator=torch.manual_seed(flipped))
    total = torch.full((6,), -4.0)
    total[flipped] = size
    normalised = scores(total, heads).normalised("heads")
    assert torch.equal(normalised.sign(), -heads.sign())
    torch.testing.assert_close(normalised * total.mean(), heads)
