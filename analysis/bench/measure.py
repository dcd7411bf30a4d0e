"""The engine beside the hook loop and Captum, measured in turn on the same prompts.

Layers and components are sampled evenly, so that every layer weighs the same.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.parts import MEMORY, Part, Site, split_into_parts
from analysis.attribution.quadrature import quadrature
from analysis.bench.contenders import captum, hook_loop
from analysis.bench.machine import describe, matmul_rate, peak_memory, timed
from analysis.bench.operations import Network, resumed_run
from analysis.bench.workloads import SHAPES, Shape, random_model, random_pairs
from analysis.forward import KINDS, BaseRun, forward_of
from analysis.models import load_model

SAMPLED_LAYERS = 4
# As many prompts of one shape as a data set of 100 has; so many components of them at once are as
# fast as a full batch.
PATCHED_PROMPTS, PATCHED_COMPONENTS, PATCHED_REPEATS = 8, 16, 3
HELD = 2**30  # bytes, enough for both runs of these prompts
INTEGRATED_PROMPTS, STEPS, INTEGRATED_REPEATS = 4, 8, 2
GPT2_SHAPE = "GPT-2 small's shape"
MODELS = {
    "testbed": lambda: load_model("testbed"),
    GPT2_SHAPE: lambda: random_model(GPT2Config()),
}


@dataclass(frozen=True)
class Timing:
    """One method on one layer: seconds a unit by either side, one number a repeat.

    A unit is one component patched on one prompt (AP), where what all components need is not
    timed; or one layer attributed on one prompt in `STEPS` steps (IG), where the engine's two
    unpatched runs are shared out evenly among the sites that they serve. `difference` is the
    largest one between the two sides' scores, relative to the largest |metric|. `shares` are the
    parts of the machine's matrix-product rate, measured just before, that the engine reaches.
    """

    model: str
    task: str
    method: str
    kind: str
    layer: int
    theirs: list[float]
    ours: list[float]
    difference: float
    shares: list[float]


# A timing's last four fields.
Measured = tuple[list[float], list[float], float, list[float]]


def bench(progress: bool | None = None) -> dict:
    """All timings, the memory that 100 prompts take, and the machine, ready for JSON."""
    start = time.perf_counter()
    timings: list[Timing] = []
    total = len(MODELS) * len(SHAPES) * len(KINDS) * 2 * SAMPLED_LAYERS
    memory: dict[str, dict[str, int]] = {}
    with tqdm(total=total, desc="bench", disable=None if progress is None else not progress) as bar:
        for name, load in MODELS.items():
            model = load()
            memory[name] = peak_memory(lambda model=model: _hold_a_hundred_prompts(model))
            for timing in _time_model(name, model):
                timings.append(timing)
                bar.update()
    return {
        "machine": describe(),
        "settings": {
            "repeats": {"AP": PATCHED_REPEATS, "IG": INTEGRATED_REPEATS},
            "prompts patched": PATCHED_PROMPTS,
            "prompts integrated": INTEGRATED_PROMPTS,
            "steps": STEPS,
            "memory": MEMORY,
            "shapes": {task: shape._asdict() for task, shape in SHAPES.items()},
            "seconds": time.perf_counter() - start,
        },
        "memory": memory,
        "timings": [asdict(timing) for timing in timings],
    }


def _time_model(name: str, model: TransformerBridge) -> Iterator[Timing]:
    layers = model.cfg.n_layers
    apart = layers // SAMPLED_LAYERS
    for task in SHAPES:
        patching, _ = _part(model, task, PATCHED_PROMPTS)
        integrating, runs = _part(model, task, INTEGRATED_PROMPTS)
        shared = runs / (layers * len(KINDS))
        for kind in KINDS:
            _warm(model, patching, kind)
            for layer in range(apart // 2, layers, apart):
                yield Timing(
                    name, task, "AP", kind, layer, *_time_patching(model, patching, kind, layer)
                )
                measured = _time_integrating(model, integrating, kind, layer, shared)
                yield Timing(name, task, "IG", kind, layer, *measured)


def _part(model: TransformerBridge, task: str, prompts: int) -> tuple[Part, float]:
    """Random prompts of the task's shape, and the seconds of their two unpatched runs.

    All are held together, so that both sides of a comparison have the same prompts, and resumed in
    the batches of the default memory.

    Raises:
        ValueError: where `HELD` is not enough for them.
    """
    forward = forward_of(model)
    pairs = random_pairs(task, SHAPES[task], prompts, model.cfg.d_vocab)
    parts, seconds = timed(
        lambda: list(split_into_parts(forward, pairs, "noising", "source", HELD))
    )
    (part,) = parts
    return replace(part, memory=part.memory * MEMORY // HELD), seconds


def _warm(model: TransformerBridge, part: Part, kind: str) -> None:
    """Everything that is timed, once on the last layer: first calls are slow on either side."""
    layer = model.cfg.n_layers - 1
    site, tokens = _site(part, kind, layer), (part.base.tokens, part.source.tokens)
    next(hook_loop(model, *tokens, part.readout, kind, layer, [0]))
    captum(model, *tokens, part.readout, kind, layer, steps=1)
    patch_each(_only(site, [0]))
    integrate_jointly(site, *quadrature("left", 1))


def _time_patching(model: TransformerBridge, part: Part, kind: str, layer: int) -> Measured:
    """A batch of components here, as many runs as there are repeats there."""
    site = _site(part, kind, layer)
    chosen = _evenly(site.difference.shape[2], min(site.batch, PATCHED_COMPONENTS))
    few = [turn * len(chosen) // PATCHED_REPEATS for turn in range(PATCHED_REPEATS)]
    tokens = part.base.tokens, part.source.tokens
    components = [chosen[place] for place in (few[0], *few)]
    loop = hook_loop(model, *tokens, part.readout, kind, layer, components)
    next(loop)  # with it comes what all components need
    sampled = _only(site, chosen)
    runs = len(part.places) * len(chosen)
    rounds = []
    for place in few:
        effect, theirs = timed(lambda: next(loop))
        rate = matmul_rate()
        effects, ours = timed(lambda: patch_each(sampled))
        share = runs * _operations(part, kind, layer) / ours / rate
        difference = _relative(part, effect - effects[:, place])
        rounds.append((theirs / len(part.places), ours / runs, share, difference))
    return _measured(rounds)


def _time_integrating(
    model: TransformerBridge, part: Part, kind: str, layer: int, shared: float
) -> Measured:
    """One layer's IG by either side; `shared` is added to ours, for its share of the runs."""
    site, path = _site(part, kind, layer), quadrature("gauss-legendre", STEPS)
    tokens = part.base.tokens, part.source.tokens
    competitor = partial(captum, model, *tokens, part.readout, kind, layer, steps=STEPS)
    prompts = len(part.places)
    passes = 2 * prompts * STEPS
    rounds = []
    for _ in range(INTEGRATED_REPEATS):
        expected, theirs = timed(competitor)
        rate = matmul_rate()
        found, ours = timed(lambda: integrate_jointly(site, *path))
        share = passes * _operations(part, kind, layer) / ours / rate
        difference = _relative(part, expected - found)
        rounds.append((theirs / prompts, (ours + shared) / prompts, share, difference))
    return _measured(rounds)


def _measured(rounds: list[tuple[float, float, float, float]]) -> Measured:
    theirs, ours, shares, differences = (list(values) for values in zip(*rounds, strict=True))
    return theirs, ours, max(differences), shares


def _site(part: Part, kind: str, layer: int) -> Site:
    return next(site for site in part.sites((kind,)) if site.layer == layer)


def _only(site: Site, components: list[int]) -> Site:
    return replace(
        site, difference=site.difference[:, :, components], writes=site.writes[components]
    )


def _evenly(count: int, most: int) -> list[int]:
    """At most so many places, evenly spread."""
    chosen = min(count, most)
    return [(2 * place + 1) * count // (2 * chosen) for place in range(chosen)]


def _relative(part: Part, difference: Tensor) -> float:
    scale = torch.cat([part.measure(part.base), part.measure(part.source)]).abs().max()
    return float(difference.abs().max() / scale)


def _operations(part: Part, kind: str, layer: int) -> int:
    """Of one prompt resumed once."""
    network = network_of(part.base)
    shape = Shape(part.base.tokens.shape[1], part.base.first)
    columns = part.readout.width(network.vocabulary)
    columns += network.vocabulary if part.readout.normalised else 0
    return resumed_run(network, shape, kind, layer, columns)


def network_of(run: BaseRun) -> Network:
    """A model's shape."""
    vocabulary = run.logits.shape[1]
    neurons, _, width = run.forward.writes("neurons", 0).shape
    return Network(run.forward.layers, width, neurons, vocabulary)


def _hold_a_hundred_prompts(model: TransformerBridge) -> None:
    """Every prompt's runs, and one batch of each kind of the largest part's costliest layer."""
    pairs = random_pairs("ioi", SHAPES["ioi"], 100, model.cfg.d_vocab)
    nodes, weights = quadrature("gauss-legendre", 1)
    parts = split_into_parts(forward_of(model), pairs, "noising", "source", HELD)
    for number, part in enumerate(parts):
        for site in part.sites() if number == 0 else ():
            if site.layer == 0:
                integrate_jointly(site, nodes * site.gradient_batch, weights * site.gradient_batch)
                patch_each(_only(site, list(range(min(site.batch, len(site.writes))))))
