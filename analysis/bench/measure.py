"""The engine beside the hook loop and Captum, measured in turn on the same prompts.

A timing is of one method on one layer: `theirs` and `ours` are seconds per unit, for each repeat.
A unit is one component patched on one prompt (AP), without what all components need; or one layer
attributed on one prompt in `STEPS` steps (IG), with the layer's share of the two unpatched runs.
`difference` is the largest one between the two sides' scores, relative to the largest |metric|, and
`shares` are the parts of the machine's matrix-product rate that the engine reaches. What gradients
alone cost is in `analysis.bench.gradients`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config

from analysis import paths
from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.bench import workloads
from analysis.bench.gradients import (
    attribution_ratios,
    evenly,
    layers_standing_for,
    time_attribution,
    time_to_tolerance,
    tolerance_ratios,
)
from analysis.bench.machine import describe, matmul_rate, peak_memory, timed
from analysis.bench.rivals import Hooked, captum
from analysis.bench.workloads import (
    SHAPES,
    Shape,
    random_model,
    random_pairs,
    real_pairs,
    shaped_pairs,
)
from analysis.choices import KINDS, Kind
from analysis.forward import forward_of, reference
from analysis.gguf_files import packaged
from analysis.mediation import component_effects
from analysis.models import load_model
from analysis.sites import MEMORY, Part, Plan, Site, first_difference
from analysis.tasks import PromptPairs

SAMPLED_LAYERS, STEPS = 4, 8
# So many prompts of one shape has a data set of 100; a full batch of components is no faster.
PROMPTS, REPEATS, COMPONENTS = {"AP": 8, "IG": 4}, {"AP": 3, "IG": 2}, 16
HELD = 2**30  # bytes, enough for both runs of these prompts
MEDIATED_TASK, GPT2_SHAPE, SMOLLM2 = "ioi", "GPT-2 small's shape", "SmolLM2"
TOLERANCE, ATP = "IG to a tolerance", "AtP"  # lists of measurements, beside the timings
VERSIONS = ("torch", "transformer_lens", "captum")
METHODS, MEDIATION = "cpu.json", "mediation-cpu.json"  # in data/benchmarks/, for the report
_SAMPLE = ["model", "method", "kind", "task"]
Measured = dict[str, Any]


class Subject(NamedTuple):
    """A model with its prompts, and what is measured on it.

    `rival` is what IG to a tolerance is compared with, a name in `gradients.RIVALS`, or nothing;
    `package` is the name of the package that the model comes in, if any.
    """

    load: Callable[[], TransformerBridge]
    pairs: Callable[[str, TransformerBridge, int], PromptPairs] = shaped_pairs
    kinds: tuple[Kind, ...] = KINDS
    methods: tuple[str, ...] = ("AP", "IG")
    rival: str | None = None
    package: str | None = None


MEASURED_MODELS = {
    "testbed": Subject(lambda: load_model("testbed")),
    GPT2_SHAPE: Subject(lambda: random_model(GPT2Config()), rival="Captum's 50 steps"),
    SMOLLM2: Subject(
        load=lambda: load_model("smollm2"),
        pairs=real_pairs,
        kinds=("neurons",),
        methods=("AP",),
        rival="24 steps",
        package="smollm2",
    ),
}
# Theirs and ours of one layer; for each repeat, which of our scores theirs are compared with; and
# for each prompt, how many units that is and how often the engine resumes it.
Sides = tuple[Callable[[], Tensor], Callable[[], Tensor], list[int] | list[slice], int, int]


def bench() -> Measured:
    """All timings, the memory that 100 prompts take, and the machine, ready for JSON."""
    start, memory, found = time.perf_counter(), {}, {"timings": [], TOLERANCE: [], ATP: []}
    shapes = {}
    for name, subject in _available():
        model = subject.load()
        memory[name] = peak_memory(partial(_hold_a_hundred_prompts, model))
        pairs = {task: subject.pairs(task, model, max(PROMPTS.values())) for task in SHAPES}
        shapes[name] = {task: _shape(some)._asdict() for task, some in pairs.items()}
        for which, rows in _measurements(model, subject, pairs).items():
            total = len(SHAPES) * _rows_of_a_task(which, model, subject)
            bar = tqdm(rows, f"{name}, {which}", total, disable=None)
            found[which] += [{"model": name} | row for row in bar]
    settings = {
        "repeats": REPEATS,
        "prompts patched": PROMPTS["AP"],
        "prompts integrated": PROMPTS["IG"],
        "steps": STEPS,
        "memory": MEMORY,
        "shapes": {task: shape._asdict() for task, shape in SHAPES.items()},
        "shapes measured": shapes,
        "seconds": time.perf_counter() - start,
    }
    return {"machine": describe(*VERSIONS), "settings": settings, "memory": memory} | found


def _available() -> Iterator[tuple[str, Subject]]:
    """What can be measured here; of a package that is missing, one sentence."""
    for name, subject in MEASURED_MODELS.items():
        try:
            if subject.package:
                packaged(subject.package)
        except ValueError as missing:
            print(f"{name} is not measured. {missing}", file=sys.stderr)
        else:
            yield name, subject


def _measurements(
    model: TransformerBridge, subject: Subject, pairs: dict[str, PromptPairs]
) -> dict[str, Iterator[dict[str, Any]]]:
    """Rows of each measurement, made when they are asked for."""
    few = {task: some.select(range(min(len(some), PROMPTS["IG"]))) for task, some in pairs.items()}
    found = {"timings": _time_model(model, subject, pairs), ATP: time_attribution(model, pairs)}
    if subject.rival:
        found[TOLERANCE] = time_to_tolerance(model, few, subject.rival)
    return found


def _rows_of_a_task(which: str, model: TransformerBridge, subject: Subject) -> int:
    sampled = min(SAMPLED_LAYERS, model.cfg.n_layers)
    return {
        "timings": len(subject.kinds) * len(subject.methods) * sampled,
        TOLERANCE: len(KINDS) * len(layers_standing_for(model.cfg.n_layers)),
        ATP: 1,
    }[which]


def bench_mediation() -> Measured:
    """What every neuron changes in every later one, on one prompt of GPT-2 small's shape."""
    model = MEASURED_MODELS[GPT2_SHAPE].load()
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


def tables(measured: Measured) -> dict[str, pl.DataFrame]:
    """What was measured, compared, by what it is about; nothing of what was not measured."""
    made = {"timings": lambda _: ratios(measured)}
    made |= {TOLERANCE: tolerance_ratios, ATP: attribution_ratios}
    return {name: make(measured[name]) for name, make in made.items() if measured.get(name)}


def _time_model(
    model: TransformerBridge, subject: Subject, pairs: dict[str, PromptPairs]
) -> Iterator[dict[str, Any]]:
    layers, compared = model.cfg.n_layers, {"AP": _patching, "IG": _integrating}
    for task, some in pairs.items():
        parts = {method: _part(model, some, PROMPTS[method]) for method in subject.methods}
        for kind in subject.kinds:
            for number, layer in enumerate((layers - 1, *evenly(layers, SAMPLED_LAYERS))):
                for method in subject.methods:
                    part, seconds = parts[method]
                    site = part.site((kind, layer))
                    shared = seconds / (layers * len(KINDS)) if method == "IG" else 0.0
                    runs = part.base.tokens, part.source.tokens
                    sides = compared[method]((model, runs, part.readout, (kind, layer)), site)
                    timing = _in_turn(part, site, shared, sides)
                    if number:  # first calls are slow on either side
                        about = {"task": task, "method": method, "kind": kind, "layer": layer}
                        yield about | timing


def _part(model: TransformerBridge, pairs: PromptPairs, prompts: int) -> tuple[Part, float]:
    """The first prompts, all of one shape, and the seconds of their two unpatched runs.

    All are held together, so that both sides of a comparison have the same prompts, and resumed in
    the batches of the default memory.
    """
    some = pairs.select(range(min(len(pairs), prompts)))
    plan = Plan(forward_of(model), some, memory=HELD)
    (part,), seconds = timed(lambda: list(plan.parts()))
    return replace(part, memory=part.memory * MEMORY // HELD), seconds


def _shape(pairs: PromptPairs) -> Shape:
    """That of its first pair, which all of them have."""
    base, source = pairs.clean_tokens[0], pairs.corrupted_tokens[0]
    return Shape(len(base), first_difference(base, source))


def _patching(hooked: Hooked, site: Site) -> Sides:
    """A batch of components here, as many runs as there are repeats there."""
    chosen = evenly(len(site.writes), min(site.batch, COMPONENTS))
    few = [turn * len(chosen) // REPEATS["AP"] for turn in range(REPEATS["AP"])]
    loop = reference.patch(*hooked, [chosen[index] for index in (few[0], *few)])
    next(loop)  # with it comes what all components need
    batch = replace(site, difference=site.difference[:, :, chosen], writes=site.writes[chosen])
    return partial(next, loop), partial(patch_each, batch), few, len(chosen), len(chosen)


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
