"""The formula against a count of the matrix products that run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens.model_bridge import TransformerBridge

from analysis.bench.workloads import Shape, network_of, resumed_run, whole_run
from analysis.choices import KINDS
from analysis.forward import forward_of
from analysis.metrics import LabelMetric, Labels, Readout

LAYERS = [("testbed", layer) for layer in range(4)] + [("llama", layer) for layer in range(2)]


@pytest.fixture(params=["testbed", "llama"])
def model(request) -> TransformerBridge:
    """Also one with a gated MLP, whose heads share keys and values."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("columns", [None, 2, 5])
@pytest.mark.parametrize("model, layer", LAYERS, indirect=["model"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_does_what_the_formula_says(model, kind, layer, columns):
    shape, prompts = Shape(9, 4), 3
    tokens = torch.arange(prompts * shape.length).reshape(prompts, -1)
    run = forward_of(model).run(tokens, shape.first)
    change = torch.zeros(prompts, shape.length - shape.first, model.cfg.d_model)
    labels = Labels(tokens[:, :columns], torch.ones(prompts, columns or shape.length))
    added = LabelMetric(lambda values, labels: values.sum(dim=-1), normalised=columns == 5)
    everything = Readout(lambda logits, labels: logits.sum(dim=-1), labels)
    readout = Readout(added, labels) if columns else everything
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run.forward.resume(run, (kind, layer), change, readout)
    network = network_of(run)
    computed = (columns or 0) + (network.vocabulary if columns in (None, 5) else 0)
    expected = prompts * resumed_run(network, shape, kind, layer, computed)
    assert counter.get_total_flops() == expected


def test_a_whole_run_does_what_the_formula_says(model):
    tokens = torch.arange(14).reshape(2, 7)
    run = forward_of(model).run(tokens)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens)
    assert counter.get_total_flops() == 2 * whole_run(network_of(run), 7)
