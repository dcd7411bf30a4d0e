"""Every family that the exact engine knows, against bare hooks on transformers' own model."""

from copy import deepcopy
from pathlib import Path
from types import MethodType

import pytest
import torch
from architectures import LAYERS, SCORED, VOCABULARY, BareHooks, Row, network_of
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import KINDS
from analysis.forward import forward_of
from analysis.forward.decoder import Decoder
from analysis.mediation import _measure_sets, _mediated
from analysis.sites import Part, Plan

pytestmark = pytest.mark.filterwarnings("ignore:.*Adapter does not support:UserWarning")

# Single precision, with processed weights, is tested of all architectures in `test_architectures`.
RUNS = [
    *(("GPT-2", torch.float64), ("Llama, one key", torch.float64), ("Llama 3", torch.float32)),
    *(("Mistral, sliding", torch.float64), ("Qwen 2, sliding", torch.float64)),
    *(("Qwen 3, wide heads", torch.float64), ("Pythia", torch.float32)),
    *(("Pythia, tied, all rotary", torch.float64), ("Pythia, MLP after attention", torch.float64)),
]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
STEPS = 4
PAIRS = {
    task: random_pairs(task, Shape(length=8, first=5), prompts=2, vocabulary=VOCABULARY)
    for task in ("ioi", "greater-than")
}


def exact(network: PreTrainedModel) -> PreTrainedModel:
    """The network in double precision, which transformers' norms and eager attention leave."""

    def normed(self: nn.Module, values: Tensor) -> Tensor:
        square = values.square().mean(dim=-1, keepdim=True)
        return self.weight * values * torch.rsqrt(square + self.variance_epsilon)

    network = deepcopy(network).double()
    network.set_attn_implementation("sdpa")
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(normed, module)
    return network


def both(row: Row, task: str, dtype: torch.dtype, folder: Path) -> tuple[BareHooks, Part]:
    """The network with bare hooks, and the engine's runs of the same prompts."""
    network = network_of(row, folder)
    model = TransformerBridge.boot_transformers(
        str(folder), hf_model=deepcopy(network).to(dtype), device="cpu", dtype=dtype
    )
    if dtype is torch.float32:  # in which weights are processed, whatever they are
        model.enable_compatibility_mode(disable_warnings=True)
    forward = forward_of(model.eval())
    assert isinstance(forward, Decoder)
    (part,) = Plan(forward, PAIRS[task]).parts()
    bare = exact(network) if dtype is torch.float64 else network
    return BareHooks(bare, row, PAIRS[task]), part


@pytest.fixture(scope="module", params=RUNS, ids=str)
def runs(request, tmp_path_factory):
    name, dtype = request.param
    task = ("ioi", "greater-than")[RUNS.index(request.param) % 2]
    bare, part = both(SCORED[name], task, dtype, tmp_path_factory.mktemp("family"))

    def close(found: Tensor, expected: Tensor, scale: float = bare.scale()) -> bool:
        assert found.abs().max() > 0, "nothing happens"
        return bool((found - expected).abs().max() <= TOLERANCE[dtype] * scale)

    return bare, part, close


def test_patching_and_integration(runs):
    bare, part, close = runs
    for site in part.sites():
        components = [0, 1, 3]
        expected = [bare.patched(site.kind, site.layer, component) for component in components]
        assert close(patch_each(site)[:, components], torch.stack(expected, dim=1))
        integrated = integrate_jointly(site, *quadrature("gauss-legendre", STEPS))
        assert close(integrated, bare.integrated(site.kind, site.layer, STEPS))


def test_gradients_of_all_sites_at_once(runs):
    """Each as from a run resumed at its site."""
    _, part, close = runs
    run = part.base
    at_once = run.forward.gradients(run, torch.zeros_like(run.embedded), part.readout)
    for site in part.sites():
        point = torch.zeros_like(run.embedded, requires_grad=True)
        (expected,) = torch.autograd.grad(site.resume(point).sum(), point)
        assert close(at_once[site.kind, site.layer], expected)


def test_gradients_of_a_run_taken_apart(runs):
    """Its patterns are whole, and a dropped layer writes nothing that counts."""
    _, part, close = runs
    run = part.base
    whole = run.forward.sensitivity(run, part.readout)
    for site, expected in part.gradients().items():
        assert close(whole.stream[site], expected)
    for layer in range(LAYERS):
        nothing = torch.zeros_like(run.embedded)
        pattern = run.forward.patterns(run, layer, nothing)
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]))
        dropped = run.forward.sensitivity(run, part.readout, layer)
        assert not any(dropped.stream[kind, layer].any() for kind in KINDS)


def test_sets_of_components(runs):
    bare, part, close = runs
    components = [("heads", 0, 1), ("neurons", 0, 3), ("heads", 1, 2), ("neurons", 1, 7)]
    metric = _measure_sets(part, part.values, [components])[0]
    before = part.measure(part.base)
    assert close(metric - before, bare.ablated(components) - before)


def test_mediation(runs):
    bare, part, close = runs
    links = [(("heads", 0, 1), ("heads", 1, 2)), (("neurons", 0, 3), ("neurons", 1, 7))]
    if not part.base.forward.parallel:
        links.append((("heads", 0, 2), ("neurons", 0, 5)))
    for patched, mediator in links:
        found = _mediated(part, patched, [mediator])[:3, :, 0]
        assert all(map(close, found, bare.mediated(patched, mediator)))


def test_what_comes_after_a_site(runs):
    """A traced change reaches all later sites, and in a parallel block none of its own layer."""
    bare, part, close = runs
    forward, patched = part.base.forward, ("heads", 0, 1)
    site = next(part.sites(("heads",)))
    change = next(site.changes())[1]
    edits = bare.put_in({("heads", 0): bare.entering(("heads", 0), bare.source)}, [patched])
    traced = dict(forward.trace(part.base, ("heads", 0), change))
    assert (("neurons", 0) in traced) is not forward.parallel
    for later in [(kind, layer) for kind in KINDS for layer in range(LAYERS)][1:]:
        before, then = (bare.entering(later, bare.base, some) for some in ({}, edits))
        if later in traced:
            found = (traced[later] - part.base.activations[later]).flatten(2)
            expected = (then - before)[:, part.base.first :]
            assert close(found, expected, scale=before.abs().max().item())
        else:
            assert torch.equal(before, then)
