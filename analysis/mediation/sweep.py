"""Patches every component of a kind and measures every later one.

Neuron to neuron on GPT-2 small is 36,864² pairs a prompt: they are never held, but reduced as they
are computed, see `Effects`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.checkpoints import Checkpoints, Unit
from analysis.attribution.parts import MEMORY, Part, Site, engine, split_into_parts
from analysis.attribution.sweep import check_choices
from analysis.attribution.units import all_work, checkpoints_of, keep, progress_bar, work
from analysis.checks import some_of
from analysis.forward import KINDS, Forward, Place
from analysis.mediation.effects import Collector, Effects
from analysis.mediation.reduction import Reduction
from analysis.mediation.targets import MEASURES, Target, coordinates_of, target_of
from analysis.tasks import PromptPairs

STRONGEST = 10


def component_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    kind: str,
    targets: tuple[str, ...] = KINDS,
    direction: str = "noising",
    strongest: int = STRONGEST,
    sampled: int = 0,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool | None = None,
    checkpoints: str | Path | None = None,
) -> dict[str, Effects]:
    """Effects of every component of a kind, patched alone, on every later one, by kind of target.

    Args:
        kind: `heads` or `neurons`, the sources.
        targets: the kinds whose changes are measured, all in one sweep.
        strongest: how many partners are kept for each component.
        sampled: how many components of each kind, drawn at random from all layers together, have
            all their pairs kept; all of them where there are no more.
        seed: decides which.
        memory: a bound in bytes on what is held beyond the model and what is returned; one prompt
            with one component patched is held at least.

    The other arguments are those of `activation_patching`.

    Raises:
        ValueError: for an unknown direction or kind, or logits that are not finite.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import component_effects
        >>> model = load_model("testbed")
        >>> effects = component_effects(model, load_task("ioi", model, n=2), "heads")
        >>> sorted(effects)
        ['heads', 'neurons']
        >>> effects["neurons"].of_sources("reach").shape
        torch.Size([2, 4, 8])
    """
    check_choices(direction, "source", (kind,))
    some_of("kind", targets, KINDS)
    settings = [kind, targets, direction, strongest, sampled, seed, memory]
    with engine(model, pairs) as forward:
        finished = checkpoints_of(checkpoints, model, pairs, "effects", *settings)
        drawn = _draw(forward, (kind, *targets), sampled, seed)
        collectors = {
            target: Collector(forward, len(pairs), (kind, target), strongest, drawn)
            for target in targets
        }
        total = forward.components(kind) * all_work(forward, pairs, "source")
        name = f"{kind} on {' and '.join(targets)} {pairs.task}"
        with progress_bar(name, total, progress) as bar:
            for part, reached in _parts(forward, pairs, direction, targets, memory):
                _collect(part, kind, reached, list(collectors.values()), finished, bar, memory)
    return {target: collector.effects() for target, collector in collectors.items()}


def _collect(
    part: Part,
    kind: str,
    reached: dict[Place, Target],
    collectors: list[Collector],
    finished: Checkpoints,
    bar: tqdm,
    memory: int,
) -> None:
    """What every layer's sources do on one part."""
    prompts = torch.tensor(part.places)
    _mark_defined(collectors, prompts, reached)
    for site in part.sites((kind,)):
        site = replace(site, batch=_batch(part, reached, memory))
        cost = work(part.base.forward, site.layer, *site.difference.shape[:2]) * len(site.writes)
        reduce = partial(_reduce, part, site, reached, collectors, bar)
        unit = keep(finished, bar, f"{kind}-{site.layer}-{part.places[0]}", cost, reduce)
        for collector in collectors:
            collector.add(site.layer, prompts, unit)


def dense_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    kind: str,
    target: str,
    direction: str = "noising",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> Float[Tensor, "measure prompt layer source later_layer target"]:
    """`MEASURES` of every pair, where so many fit: norm, relative, projection and reach (0 or 1).

    Relative and projected values are NaN where undefined; what is not later is not changed, 0. The
    arguments, and what is raised, are those of `component_effects`.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import MEASURES, dense_effects
        >>> model = load_model("testbed")
        >>> effects = dense_effects(model, load_task("ioi", model, n=2), "heads", "heads")
        >>> MEASURES, effects.shape
        (('norm', 'relative', 'projection', 'reach'), torch.Size([4, 2, 4, 8, 4, 8]))
    """
    check_choices(direction, "source", (kind, target))
    with engine(model, pairs) as forward:
        sources, targets = ((forward.layers, forward.components(side)) for side in (kind, target))
        every = forward.layers * max(sources[1], targets[1])
    effects = component_effects(
        model,
        pairs,
        kind,
        (target,),
        direction,
        strongest=0,
        sampled=every,
        memory=memory,
        progress=progress,
    )
    return effects[target].block.unflatten(3, targets).unflatten(2, sources)


def head_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: str = "noising",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> Float[Tensor, "prompt layer head later_layer later_head"]:
    """How much each later head changes when a head is patched: ‖δ‖ over positions and d_model.

    0 for heads that are not later. The arguments, and what is raised, are those of
    `component_effects`.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import head_effects
        >>> model = load_model("testbed")
        >>> effects = head_effects(model, load_task("ioi", model, n=2))
        >>> effects.shape
        torch.Size([2, 4, 8, 4, 8])

        Nothing changes a head of its own or of an earlier layer:

        >>> effects[:, 3].abs().max().item()
        0.0
    """
    everything = dense_effects(model, pairs, "heads", "heads", direction, memory, progress)
    return everything[MEASURES.index("norm")]


def _draw(
    forward: Forward, kinds: tuple[str, ...], sampled: int, seed: int
) -> dict[str, Int[Tensor, " sampled"]]:
    """Some components of each kind; a model may lack the others."""
    drawn = {}
    for kind in kinds:
        random = torch.Generator().manual_seed(seed)
        count = forward.layers * forward.components(kind)
        drawn[kind] = torch.randperm(count, generator=random)[:sampled].sort().values
    return drawn


def _parts(
    forward: Forward, pairs: PromptPairs, direction: str, targets: tuple[str, ...], memory: int
) -> Iterator[tuple[Part, dict[Place, Target]]]:
    """Parts whose runs and targets take at most a quarter of the memory."""
    places = [place for place in forward.places() if place[0] in targets]
    coordinates = {place: coordinates_of(forward, place) for place in places}
    for part in split_into_parts(forward, pairs, direction, "source", memory // 2):
        yield part, {place: target_of(part, place, coordinates[place]) for place in places}


def _batch(part: Part, reached: dict[Place, Target], memory: int) -> int:
    """How many sources can be traced and measured at once in half of the memory."""
    prompts, length = part.base.tokens.shape
    forward = part.base.forward
    largest = max(reached.values(), key=lambda target: target.base.numel()).base
    measured = 3 * largest[0].numel() + 16 * largest.shape[2]
    floats = forward.floats_traced(length, part.base.first) + measured
    return max(1, memory // 2 // (forward.itemsize * prompts * floats))


def _mark_defined(
    collectors: list[Collector], prompts: Int[Tensor, " prompt"], reached: dict[Place, Target]
) -> None:
    for collector in collectors:
        for (kind, layer), target in reached.items():
            if kind == collector.kinds[1]:
                collector.defined[prompts, layer] = target.defined.cpu()


@torch.no_grad()
def _reduce(
    part: Part, site: Site, reached: dict[Place, Target], collectors: list[Collector], bar: tqdm
) -> Unit:
    """One source layer on one part."""
    reductions = {collector.kinds[1]: _reduction(part, site, collector) for collector in collectors}
    a_run = work(part.base.forward, site.layer, *site.difference.shape[:2])
    changed = (site.difference != 0).any(dim=3).any(dim=1).T
    first = 0
    for change in site.changes():
        own = changed[first : first + len(change)]
        for place, activations in part.base.trace(site.kind, site.layer, change):
            if place in reached:
                measured = reached[place].measure(activations, own)
                reductions[place[0]].add(first, place[1], measured)
        first += len(change)
        bar.update(a_run * len(change))
    units = [reduction.unit(target) for target, reduction in reductions.items()]
    return {name: values for unit in units for name, values in unit.items()}


def _reduction(part: Part, site: Site, collector: Collector) -> Reduction:
    forward = part.base.forward
    targets = forward.components(collector.kinds[1])
    return Reduction(
        shape=(len(part.places), len(site.writes), forward.layers, targets),
        source_layer=site.layer,
        strongest=collector.strongest_targets.values.shape[-1],
        rows=collector.rows[collector.rows_of(site.layer)].to(forward.device),
        columns=collector.columns.to(forward.device),
        device=forward.device,
    )
