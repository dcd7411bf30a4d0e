"""The engine beside the hook loop and Captum, measured in turn on the same prompts.

A timing is of one method on one layer: `theirs` and `ours` are seconds per unit, for each repeat.
A unit is one component patched on one prompt (AP), without what all components need; or one layer
attributed on one prompt in `STEPS` steps (IG), with the layer's share of the two unpatched runs.
`difference` is the largest one between the two sides' scores, relative to the largest |metric|, and
`shares` are the parts of the machine's matrix-product rate that the engine reaches.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config

from analysis import paths
from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.bench import workloads
from analysis.bench.machine import describe, matmul_rate, peak_memory, timed
from analysis.bench.workloads import SHAPES, Shape, random_model, random_pairs
from analysis.choices import KINDS
from analysis.forward import forward_of, reference
from analysis.mediation import component_effects
from analysis.metrics import Readout
from analysis.models import load_model
from analysis.sites import MEMORY, Part, Plan, Site

SAMPLED_LAYERS, STEPS = 4, 8
# So many prompts of one shape has a data set of 100; a full batch of components is no faster.
PROMPTS, REPEATS, COMPONENTS = {"AP": 8, "IG": 4}, {"AP": 3, "IG": 2}, 16
HELD = 2**30  # bytes, enough for both runs of these prompts
MEDIATED_TASK, GPT2_SHAPE = "ioi", "GPT-2 small's shape"
VERSIONS = ("torch", "transformer_lens", "captum")
METHODS, MEDIATION = "cpu.json", "mediation-cpu.json"  # in data/benchmarks/, for the report
_SAMPLE = ["model", "method", "kind", "task"]
Measured = dict[str, Any]
MEASURED_MODELS: dict[str, Callable[[], TransformerBridge]] = {
    "testbed": lambda: load_model("testbed"),
    GPT2_SHAPE: lambda: random_model(GPT2Config()),
}
# What the hook loop and Captum take first.
Hooked = tuple[TransformerBridge, reference.Runs, Readout, reference.Site]
# Theirs and ours of one layer; for each repeat, which of our scores theirs are compared with; and
# for each prompt, how many units that is and how often the engine resumes it.
Sides = tuple[Callable[[], Tensor], Callable[[], Tensor], list[int] | list[slice], int, int]


def bench() -> Measured:
    """All timings, the memory that 100 prompts take, and the machine, ready for JSON."""
    start, memory, timings = time.perf_counter(), {}, []
    total = 2 * len(SHAPES) * len(KINDS) * SAMPLED_LAYERS
    for name, load in MEASURED_MODELS.items():
        model = load()
        memory[name] = peak_memory(partial(_hold_a_hundred_prompts, model))
        bar = tqdm(_time_model(model), name, total, disable=None)
        timings += [{"model": name} | row for row in bar]
    settings = {
        "repeats": REPEATS,
        "prompts patched": PROMPTS["AP"],
        "prompts integrated": PROMPTS["IG"],
        "steps": STEPS,
        "memory": MEMORY,
        "shapes": {task: shape._asdict() for task, shape in SHAPES.items()},
        "seconds": time.perf_counter() - start,
    }
    machine = describe(*VERSIONS)
    return {"machine": machine, "settings": settings, "memory": memory, "timings": timings}


def bench_mediation() -> Measured:
    """What every neuron changes in every later one, on one prompt of GPT-2 small's shape."""
    model = MEASURED_MODELS[GPT2_SHAPE]()
    shape, layers = SHAPES[MEDIATED_TASK], model.cfg.n_layers
    pairs = random_pairs(MEDIATED_TASK, shape, 1, model.cfg.d_vocab)
    work = partial(component_effects, model, pairs, "neurons", ("neurons",))
    memory, seconds = timed(lambda: peak_memory(work))
    return {
        "machine": describe(*VERSIONS),
        "settings": {"shape": shape._asdict(), "memory": MEMORY},
        "model": GPT2_SHAPE,
        "task": MEDIATED_TASK,
        "pairs": layers * (layers - 1) // 2 * forward_of(model).components("neurons") ** 2,
        "seconds": seconds,
        "memory": memory,
    }


def read(name: str) -> Measured:
    """One of these measurements."""
    return json.loads((paths.BENCHMARKS / name).read_text(encoding="utf-8"))


def ratios(measured: Measured) -> pl.DataFrame:
    """A row per model, method, kind and task; every layer weighs the same.

    `ratio` is of summed seconds, the median over repeats with the lowest and the highest as `low`
    and `high`; `theirs` and `ours` are seconds per unit; `share` is of the middle half of layers.
    """
    timings, quarter = pl.DataFrame(measured["timings"]), pl.len() // 4
    middle = pl.col("shares").slice(quarter, pl.len() - 2 * quarter).explode()
    sampled = timings.group_by(_SAMPLE, maintain_order=True)
    sampled = sampled.agg(share=middle.median(), difference=pl.col("difference").max())
    repeats = timings.with_columns(repeat=pl.int_ranges(pl.col("ours").list.len()))
    sums = repeats.explode("theirs", "ours", "repeat").group_by(*_SAMPLE, "repeat")
    ratio = pl.col("theirs") / pl.col("ours")
    seconds = sums.agg(pl.col("theirs", "ours").mean()).group_by(_SAMPLE)
    medians = pl.col("theirs", "ours").median()
    sides = seconds.agg(medians, ratio=ratio.median(), low=ratio.min(), high=ratio.max())
    return sampled.join(sides, on=_SAMPLE, maintain_order="left")


def _time_model(model: TransformerBridge) -> Iterator[dict[str, Any]]:
    layers = model.cfg.n_layers
    for task in SHAPES:
        parts = {method: _part(model, task, prompts) for method, prompts in PROMPTS.items()}
        for kind in KINDS:
            for number, layer in enumerate((layers - 1, *_evenly(layers, SAMPLED_LAYERS))):
                for method, compare in (("AP", _patching), ("IG", _integrating)):
                    part, seconds = parts[method]
                    site = next(of for of in part.sites((kind,)) if of.layer == layer)
                    shared = seconds / (layers * len(KINDS)) if method == "IG" else 0.0
                    runs = part.base.tokens, part.source.tokens
                    sides = compare((model, runs, part.readout, (kind, layer)), site)
                    timing = _in_turn(part, site, shared, sides)
                    if number:  # first calls are slow on either side
                        about = {"task": task, "method": method, "kind": kind, "layer": layer}
                        yield about | timing


def _part(model: TransformerBridge, task: str, prompts: int) -> tuple[Part, float]:
    """Random prompts of the task's shape, and the seconds of their two unpatched runs.

    All are held together, so that both sides of a comparison have the same prompts, and resumed in
    the batches of the default memory.
    """
    pairs = random_pairs(task, SHAPES[task], prompts, model.cfg.d_vocab)
    plan = Plan(forward_of(model), pairs, memory=HELD)
    (part,), seconds = timed(lambda: list(plan.parts()))
    return replace(part, memory=part.memory * MEMORY // HELD), seconds


def _patching(hooked: Hooked, site: Site) -> Sides:
    """A batch of components here, as many runs as there are repeats there."""
    chosen = _evenly(len(site.writes), min(site.batch, COMPONENTS))
    few = [turn * len(chosen) // REPEATS["AP"] for turn in range(REPEATS["AP"])]
    loop = reference.patch(*hooked, [chosen[index] for index in (few[0], *few)])
    next(loop)  # with it comes what all components need
    batch = replace(site, difference=site.difference[:, :, chosen], writes=site.writes[chosen])
    return partial(next, loop), partial(patch_each, batch), few, len(chosen), len(chosen)


def captum(hooked: Hooked, steps: int, rule: str) -> Float[Tensor, "prompt component"]:
    """Layer-joint IG by Captum, which integrates from the source to the base: minus ours."""
    from captum.attr import LayerIntegratedGradients

    model, runs, readout, (kind, layer) = hooked

    def measured(tokens: Tensor) -> Tensor:
        """Captum repeats the prompts once for each step."""
        logits = model(tokens)[:, -1].unflatten(0, (-1, len(runs[0])))
        return readout.of_vocabulary(logits).flatten()

    model.set_use_attn_result(kind == "heads")
    block = model.blocks[layer]
    module = block.attn.hook_result if kind == "heads" else block.mlp.hook_post
    integrated = LayerIntegratedGradients(measured, module)
    attribution = integrated.attribute(*runs, n_steps=steps, method=rule)
    assert isinstance(attribution, Tensor)
    return -attribution.sum(dim=(1, 3) if kind == "heads" else 1).detach()


def _integrating(hooked: Hooked, site: Site) -> Sides:
    theirs = partial(captum, hooked, STEPS, "gausslegendre")
    ours = partial(integrate_jointly, site, *quadrature("gauss-legendre", STEPS))
    return theirs, ours, [slice(None)] * REPEATS["IG"], 1, 2 * STEPS


def _in_turn(part: Part, site: Site, shared: float, sides: Sides) -> dict[str, Any]:
    """A timing; `shared` seconds are added to ours."""
    theirs, ours, compared, units, passes = sides
    scale = torch.cat([part.measure(part.base), part.measure(part.source)]).abs().max()
    prompts, rounds = len(part.base.tokens), []
    network, readout = workloads.network_of(part.base), part.readout
    columns = readout.width(network.vocabulary) + readout.normalised * network.vocabulary
    shape = Shape(part.base.tokens.shape[1], part.base.first)
    resumed = workloads.resumed_run(network, shape, site.kind, site.layer, columns)
    operations = prompts * passes * resumed
    for some in compared:
        expected, their_seconds = timed(theirs)
        rate = matmul_rate()
        found, our_seconds = timed(ours)
        per_unit = their_seconds / prompts, (our_seconds + shared) / (prompts * units)
        difference = ((expected - found[:, some]).abs().max() / scale).item()
        rounds.append((*per_unit, difference, operations / our_seconds / rate))
    theirs, ours, differences, shares = map(list, zip(*rounds, strict=True))
    return {"theirs": theirs, "ours": ours, "difference": max(differences), "shares": shares}


def _evenly(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread."""
    chosen = min(count, most)
    return [(2 * index + 1) * count // (2 * chosen) for index in range(chosen)]


def _hold_a_hundred_prompts(model: TransformerBridge) -> None:
    """Every prompt's runs, and one batch of each kind of the largest part's costliest layer."""
    pairs = random_pairs("ioi", SHAPES["ioi"], 100, model.cfg.d_vocab)
    nodes, weights = quadrature("gauss-legendre", 1)
    for number, part in enumerate(Plan(forward_of(model), pairs, memory=HELD).parts()):
        for site in part.sites() if number == 0 else ():
            if site.layer == 0:
                integrate_jointly(site, nodes * site.gradient_batch, weights * site.gradient_batch)
                difference, writes = site.difference[:, :, : site.batch], site.writes[: site.batch]
                patch_each(replace(site, difference=difference, writes=writes))
