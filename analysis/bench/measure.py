"""The engine beside the hook loop and Captum, measured in turn on the same prompts.

Layers and components are sampled evenly, so that every layer weighs the same.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

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
from analysis.bench.workloads import SHAPES, random_model, random_pairs
from analysis.forward import KINDS, forward_of
from analysis.models import load_model

REPEATS = 3
SAMPLED_LAYERS = 4
PATCHED_PROMPTS = 16
INTEGRATED_PROMPTS, STEPS = 2, 8
MODELS = {
    "GPT-2 small's shape": lambda: random_model(GPT2Config()),
    "testbed": lambda: load_model("testbed"),
}


@dataclass(frozen=True)
class Timing:
    """One method on one layer: seconds a unit by either side, one number a repeat.

    A unit is one component patched on one prompt (AP), where what all components need is not
    timed; or one layer attributed on one prompt in `STEPS` steps (IG), where the engine's two
    unpatched runs are shared out among the sites that they serve. `difference` is the largest one
    between the two sides' scores, relative to the largest |metric|. `shares` are the parts of the
    machine's matrix-product rate, measured just before, that the engine reaches.
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


def bench(progress: bool | None = None) -> dict:
    """All timings, the memory that 100 prompts take, and the machine, ready for JSON."""
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
            "repeats": REPEATS,
            "prompts patched": PATCHED_PROMPTS,
            "prompts integrated": INTEGRATED_PROMPTS,
            "steps": STEPS,
            "memory": MEMORY,
            "shapes": {task: shape._asdict() for task, shape in SHAPES.items()},
        },
        "memory": memory,
        "timings": [asdict(timing) for timing in timings],
    }


def _time_model(name: str, model: TransformerBridge) -> Iterator[Timing]:
    layers = model.cfg.n_layers
    apart = layers // SAMPLED_LAYERS
    for task in SHAPES:
        for kind in KINDS:
            for layer in range(apart // 2, layers, apart):
                timing = Timing(name, task, "AP", kind, layer, [], [], 0.0, [])
                yield _time_patching(timing, model)
                timing = Timing(name, task, "IG", kind, layer, [], [], 0.0, [])
                yield _time_integrating(timing, model)


def _time_patching(timing: Timing, model: TransformerBridge) -> Timing:
    """One full batch of components here, as many runs as there are repeats there."""
    part = _part(model, timing.task, PATCHED_PROMPTS)
    site = _site(part, timing)
    chosen = _evenly(site.difference.shape[2], site.batch)
    few = _evenly(len(chosen), REPEATS)
    loop = hook_loop(
        model,
        part.base.tokens,
        part.source.tokens,
        part.readout,
        timing.kind,
        timing.layer,
        [chosen[place] for place in (few[0], *few)],
    )
    sampled = _only(site, chosen)
    next(loop), patch_each(sampled)  # both once, to be warm
    runs = PATCHED_PROMPTS * len(chosen)
    operations = runs * _operations(model, part, timing)
    for place in few:
        rate = matmul_rate()
        effect, seconds = timed(lambda: next(loop))
        effects, our_seconds = timed(lambda: patch_each(sampled))
        timing.theirs.append(seconds / PATCHED_PROMPTS)
        timing.ours.append(our_seconds / runs)
        timing.shares.append(operations / our_seconds / rate)
        timing = _with_difference(timing, part, effect, effects[:, place])
    return timing


def _time_integrating(timing: Timing, model: TransformerBridge) -> Timing:
    nodes, weights = quadrature("gauss-legendre", STEPS)
    part, shared = timed(lambda: _part(model, timing.task, INTEGRATED_PROMPTS))
    site = _site(part, timing)
    integrate_jointly(site, nodes, weights)
    passes = 2 * INTEGRATED_PROMPTS * STEPS
    tokens = part.base.tokens, part.source.tokens
    competitor = partial(
        captum, model, *tokens, part.readout, timing.kind, timing.layer, steps=STEPS
    )
    for _ in range(REPEATS):
        rate = matmul_rate()
        theirs, seconds = timed(competitor)
        ours, our_seconds = timed(lambda: integrate_jointly(site, nodes, weights))
        spread = shared / (model.cfg.n_layers * len(KINDS))
        timing.theirs.append(seconds / INTEGRATED_PROMPTS)
        timing.ours.append((our_seconds + spread) / INTEGRATED_PROMPTS)
        timing.shares.append(passes * _operations(model, part, timing) / our_seconds / rate)
        timing = _with_difference(timing, part, theirs, ours)
    return timing


def _part(model: TransformerBridge, task: str, prompts: int) -> Part:
    pairs = random_pairs(task, SHAPES[task], prompts, model.cfg.d_vocab)
    (part,) = split_into_parts(forward_of(model), pairs, "noising", "source", 4 * MEMORY)
    return replace(part, memory=MEMORY - MEMORY // 4)


def _site(part: Part, timing: Timing) -> Site:
    return next(site for site in part.sites((timing.kind,)) if site.layer == timing.layer)


def _only(site: Site, components: list[int]) -> Site:
    return replace(
        site, difference=site.difference[:, :, components], writes=site.writes[components]
    )


def _evenly(count: int, most: int) -> list[int]:
    """At most so many places, evenly spread."""
    chosen = min(count, most)
    return [(2 * place + 1) * count // (2 * chosen) for place in range(chosen)]


def _with_difference(timing: Timing, part: Part, theirs: Tensor, ours: Tensor) -> Timing:
    scale = part.measure(part.base).abs().max()
    difference = float((theirs - ours).abs().max() / scale)
    return replace(timing, difference=max(timing.difference, difference))


def _operations(model: TransformerBridge, part: Part, timing: Timing) -> int:
    columns = part.readout.columns
    return resumed_run(
        network_of(model),
        SHAPES[timing.task],
        timing.kind,
        timing.layer,
        None if columns is None else columns.shape[1],
    )


def network_of(model: TransformerBridge) -> Network:
    """A model's shape."""
    config = model.cfg
    return Network(config.n_layers, config.d_model, config.d_mlp, config.d_vocab)


def _hold_a_hundred_prompts(model: TransformerBridge) -> None:
    """What is held at once while 100 IOI prompts are scored, on the costliest layer."""
    pairs = random_pairs("ioi", SHAPES["ioi"], 100, model.cfg.d_vocab)
    forward = forward_of(model)
    nodes, weights = quadrature("gauss-legendre", 1)
    for number, part in enumerate(split_into_parts(forward, pairs, "noising", "source", MEMORY)):
        for site in part.sites():
            if number == 0 and site.layer == 0:
                integrate_jointly(site, nodes * site.gradient_batch, weights * site.gradient_batch)
                patch_each(_only(site, list(range(min(site.batch, len(site.writes))))))
