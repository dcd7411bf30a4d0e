"""The formula against a count of the matrix products that run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from analysis.bench.measure import network_of
from analysis.bench.operations import resumed_run, whole_run
from analysis.bench.workloads import Shape
from analysis.forward import KINDS, forward_of


@pytest.mark.parametrize("columns", [None, 2, 5])
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_does_what_the_formula_says(testbed, kind, layer, columns):
    shape, prompts = Shape(9, 4), 3
    tokens = torch.arange(prompts * shape.length).reshape(prompts, -1)
    run = forward_of(testbed).run(tokens, shape.first)
    change = torch.zeros(prompts, shape.length - shape.first, testbed.cfg.d_model)
    wanted, normalised = None if columns is None else tokens[:, :columns], columns == 5
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run.resume(kind, layer, change, wanted, normalised)
    network = network_of(run)
    computed = (columns or 0) + (network.vocabulary if columns in (None, 5) else 0)
    expected = prompts * resumed_run(network, shape, kind, layer, computed)
    assert counter.get_total_flops() == expected


def test_a_whole_run_does_what_the_formula_says(testbed):
    tokens = torch.arange(14).reshape(2, 7)
    run = forward_of(testbed).run(tokens)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        testbed(tokens)
    assert counter.get_total_flops() == 2 * whole_run(network_of(run), 7)
