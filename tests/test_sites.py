"""Which prompts run together, and that a method holds no more than its caller allows."""

import weakref
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, Qwen3Config

from analysis import (
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_task,
    sites,
)
from analysis.bench.workloads import SHAPES, Shape, random_model, random_pairs
from analysis.choices import BASELINES, DIRECTIONS, KINDS
from analysis.forward import forward_of
from analysis.forward.hooks import HookedForward
from analysis.mediation import component_effects
from analysis.metrics import logit_diff, prob_diff
from analysis.sites import Plan

MIB = 2**20
METHODS = (activation_patching, attribution_patching, integrated_gradients)
integrated_to_a_tolerance = partial(integrated_gradients, tolerance=0.05)


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


def random_weights(vocabulary: int, layers: int = 2) -> TransformerBridge:
    return random_model(GPT2Config(vocab_size=vocabulary, n_layer=layers, n_head=2, n_embd=32))


@pytest.fixture(scope="module")
def models():
    return {vocabulary: random_weights(vocabulary) for vocabulary in (500, 20_000)}


def wide_heads(vocabulary: int) -> TransformerBridge:
    """Queries of three times the stream's width, and few neurons beside them."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return random_model(Qwen3Config(vocab_size=vocabulary, **sizes, **heads))


@pytest.fixture(scope="module", params=["500", "20000", "wide"])
def deep(request):
    """Layers enough for a gradient to cost more than its run, and a vocabulary to count too."""
    if request.param == "wide":
        return 500, wide_heads(500)
    return int(request.param), random_weights(int(request.param), layers=4)


# A vocabulary so large that the readout takes what the layers take in a small one.
@pytest.fixture(autouse=True)
def uncompared(monkeypatch):
    """Comparing the engine with the model holds a run on a few tokens, whatever the bound."""
    monkeypatch.setattr("analysis.forward._compare", lambda forward, model: None)


@pytest.mark.parametrize("vocabulary, memory", [(500, MIB), (20_000, 4 * MIB)])
@pytest.mark.parametrize("baseline", ["source", "zero"])
@pytest.mark.parametrize("task", ["ioi", "greater-than"])
@pytest.mark.parametrize("method", (*METHODS, integrated_to_a_tolerance))
def test_memory_stays_under_the_bound(models, method, task, baseline, vocabulary, memory):
    model = models[vocabulary]
    pairs = random_pairs(task, SHAPES[task], 8, vocabulary)
    settings = {"steps": 12} if method is integrated_gradients else {}
    with LiveBytes() as weights:
        forward_of(model)
    with LiveBytes() as held:
        scores = method(model, pairs, baseline=baseline, memory=memory, **settings)
    returned = 2 * 4 * (scores.heads.numel() + scores.neurons.numel())
    assert held.peak - weights.peak - returned <= memory
    assert held.peak - weights.peak - returned > memory / 8, "the bound is made use of"


def of_everything(logits, labels):
    """A metric that says nothing of the columns that it needs."""
    probabilities = logits.softmax(dim=-1)
    return (probabilities.gather(1, labels.tokens) * labels.signs).sum(dim=1)


# One answer's column of many; a change at the first token, at a late one, at the last one.
@pytest.mark.parametrize("shape", [Shape(1, 0), Shape(17, 12), Shape(40, 39)])
@pytest.mark.parametrize("metric", [logit_diff, prob_diff, of_everything])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("engine", [forward_of, HookedForward])
def test_resuming_holds_no_more_than_announced(deep, engine, gradient, metric, shape):
    vocabulary, model = deep
    pairs = replace(random_pairs("greater-than", shape, 3, vocabulary), metric=metric)
    forward = engine(model)
    (part,) = Plan(forward, pairs, memory=2**40).parts()
    announced = forward.floats_held(shape.length, shape.first, part.readout, gradient)
    for site, changes in product(part.sites(("heads",)), (1, 4)):
        some = site.joint_change().expand(changes, -1, -1, -1).clone().requires_grad_(gradient)
        with LiveBytes() as held, torch.set_grad_enabled(gradient):
            metric_of_each = site.resume(some)
            if gradient:
                torch.autograd.grad(metric_of_each.sum(), some)
        assert held.peak <= announced * forward.itemsize * len(pairs) * changes


@pytest.mark.parametrize("shape", [Shape(1, 0), Shape(17, 12), Shape(40, 39)])
@pytest.mark.parametrize("engine", [forward_of, HookedForward])
@torch.no_grad()
def test_runs_keep_and_traces_hold_no_more_than_announced(deep, engine, shape):
    vocabulary, model = deep
    forward = engine(model)
    tokens = torch.stack(random_pairs("ioi", shape, 3, vocabulary).clean_tokens)
    with LiveBytes() as kept:
        run = forward.run(tokens, shape.first)
    announced = forward.floats_kept(shape.length, shape.first)
    assert kept.live <= announced * forward.itemsize * len(tokens)
    change = torch.ones(1, 3, shape.length - shape.first, model.cfg.d_model)
    with LiveBytes() as held:
        for _ in forward.trace(run, ("heads", 0), change):
            pass
    announced = forward.floats_traced(shape.length, shape.first)
    assert held.peak <= announced * forward.itemsize * len(tokens)


@pytest.mark.parametrize("memory", [MIB, 4 * MIB])
@pytest.mark.parametrize("kind", KINDS)
def test_effects_on_components_stay_under_the_bound(models, kind, memory):
    model = models[500]
    pairs = random_pairs("ioi", SHAPES["ioi"], 12, 500)
    with LiveBytes() as weights:
        forward_of(model)
    with LiveBytes() as held:
        effects = component_effects(model, pairs, kind, memory=memory)
    returned = sum(found.nbytes for found in effects.values())
    assert held.peak - weights.peak - returned <= memory
    assert held.peak - weights.peak - returned > memory / 8, "the bound is made use of"


def test_nothing_changes_before_the_first_differing_token(tiny):
    """A part begins there; base and source activations differ from there on, and not before."""
    pairs, forward = load_task("ioi", tiny, n=6), forward_of(tiny)
    plan, found = Plan(forward, pairs), []
    for part in plan.parts():
        for index in part.prompts:
            clean, corrupted = pairs.clean_tokens[index], pairs.corrupted_tokens[index]
            first = int((clean != corrupted).nonzero()[0])
            assert part.base.first == part.source.first == first
            base, source = (forward.run(tokens[None]) for tokens in (clean, corrupted))
            for site, activations in base.activations.items():
                difference = source.activations[site] - activations
                assert difference[:, :first].abs().max() == 0
                assert difference[:, first].abs().max() > 0
            found.append(index)
    assert len(list(pairs.groups())) > 2
    assert sorted(found) == plan.prompts.tolist() == list(range(6))


@pytest.mark.parametrize("memory", [1, 2**20, 2**28])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_plan_knows_its_work_and_its_prompts(tiny, direction, baseline, memory):
    pairs = load_task("ioi", tiny, n=40)
    plan = Plan(forward_of(tiny), pairs, direction, baseline, memory)
    parts = list(plan.parts())
    assert sum(part.work(layer) for part in parts for layer in range(3)) == plan.work
    assert plan.tokens == sum(part.work(2) for part in parts)
    indices = [index for part in parts for index in part.prompts]
    assert sorted(indices) == plan.prompts.tolist()
    large = [group for group in pairs.groups() if len(group) >= 8]
    expected = sum(map(len, large)) if baseline == "mean" else 40
    assert 0 < expected == len(indices) and (baseline != "mean" or expected < 40)
    assert memory > 1 or all(len(part.prompts) == 1 for part in parts)
    sides = pairs.clean_tokens if direction == "noising" else pairs.corrupted_tokens
    for part in parts:
        assert torch.equal(part.base.tokens, torch.stack([sides[i] for i in part.prompts]))
        assert plan.prompts[plan.rows(part)].tolist() == part.prompts


def test_pairs_are_asked_once(tiny, monkeypatch):
    """Which prompts run together is decided by one look at where each pair differs."""
    asked = []
    find = sites.first_difference
    monkeypatch.setattr(
        sites, "first_difference", lambda *tokens: asked.append(tokens) or find(*tokens)
    )
    activation_patching(tiny, load_task("ioi", tiny, n=5), kinds=("heads",), progress=False)
    assert len(asked) == 5
