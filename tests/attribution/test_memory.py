"""What a method holds stays under the bound that its caller sets."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import GPT2Config

from analysis import activation_patching, integrated_gradients
from analysis.bench.workloads import SHAPES, random_model, random_pairs
from analysis.forward import KINDS, forward_of
from analysis.mediation import component_effects

MIB = 2**20


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on and still alive."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        given = {
            tensor.untyped_storage()._cdata
            for tensor in tree_iter((arguments, keywords))
            if isinstance(tensor, torch.Tensor)
        }
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return result

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or key in given:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.fixture(scope="module")
def model():
    return random_model(GPT2Config(vocab_size=500, n_layer=2, n_head=2, n_embd=32))


@pytest.mark.parametrize("memory", [MIB, 4 * MIB])
@pytest.mark.parametrize("baseline", ["source", "zero"])
@pytest.mark.parametrize("task", ["ioi", "greater-than"])
@pytest.mark.parametrize("method", [activation_patching, integrated_gradients])
def test_memory_stays_under_the_bound(model, method, task, baseline, memory):
    pairs = random_pairs(task, SHAPES[task], 12, 500)
    settings = {} if method is activation_patching else {"steps": 16}
    with LiveBytes() as weights:
        forward_of(model)
    with LiveBytes() as held:
        scores = method(model, pairs, baseline=baseline, memory=memory, **settings)
    returned = 2 * 4 * (scores.heads.numel() + scores.neurons.numel())
    assert held.peak - weights.peak - returned <= memory
    assert held.peak - weights.peak - returned > memory / 8, "the bound is made use of"


@pytest.mark.parametrize("memory", [MIB, 4 * MIB])
@pytest.mark.parametrize("kind", KINDS)
def test_effects_on_components_stay_under_the_bound(model, kind, memory):
    pairs = random_pairs("ioi", SHAPES["ioi"], 12, 500)
    with LiveBytes() as weights:
        forward_of(model)
    with LiveBytes() as held:
        effects = component_effects(model, pairs, kind, memory=memory)
    returned = sum(
        tensor.nbytes
        for found in effects.values()
        for tensor in tree_iter(list(vars(found).values()))
        if isinstance(tensor, torch.Tensor)
    )
    assert held.peak - weights.peak - returned <= memory
    assert held.peak - weights.peak - returned > memory / 8, "the bound is made use of"
