"""Some numbers, held for as long as `ALGORITHM` is the same: what is kept is found by it.

Where one of these changes on purpose, raise `ALGORITHM` in analysis/version.py and put the new
number here.
"""

import pytest
import torch

from analysis import activation_patching, integrated_gradients, load_task
from analysis.version import ALGORITHM

METHODS = {"AP": activation_patching, "IG": integrated_gradients}
NUMBERS = {
    ("AP", "ioi", "noising", "source"): [-10.2517, -4.34532, -0.365993],
    ("IG", "ioi", "noising", "source"): [-10.2517, -4.26238, -0.491922],
    ("AP", "greater-than", "denoising", "source"): [1.06116, 0.576567, 0.0238959],
    ("IG", "greater-than", "denoising", "source"): [1.06116, 0.531993, 0.0277205],
    ("AP", "gender-bias", "noising", "zero"): [-6.20362, -0.713227, 0.16631],
    ("IG", "gender-bias", "noising", "zero"): [-6.20362, -1.74817, -0.34744],
    ("AP", "ioi", "denoising", "mean"): [8.11618, 1.54426, 0.128367],
    ("IG", "ioi", "denoising", "mean"): [8.11618, 1.66706, 0.158679],
    ("AP", "capital-country", "noising", "source"): [-31.4763, -7.6137, -0.322838],
    ("IG", "capital-country", "denoising", "source"): [31.4763, 8.3175, 0.46721],
}


def measured(testbed, method: str, task: str, direction: str, baseline: str) -> list[float]:
    """The total effect, the extreme head and the extreme neuron of the means."""
    n = 30 if baseline == "mean" else 3
    pairs = load_task(task, testbed, n=n)
    found = METHODS[method](testbed, pairs, direction=direction, baseline=baseline)
    heads, neurons = (found.of(kind).mean(dim=0).flatten() for kind in ("heads", "neurons"))
    return [
        found.total.mean().item(),
        *(scores[scores.abs().argmax()].item() for scores in (heads, neurons)),
    ]


@pytest.mark.parametrize("setting", NUMBERS, ids="-".join)
def test_numbers_are_those_of_this_version(testbed, setting):
    assert ALGORITHM == 2
    torch.testing.assert_close(
        torch.tensor(measured(testbed, *setting)), torch.tensor(NUMBERS[setting]), rtol=1e-4, atol=0
    )
