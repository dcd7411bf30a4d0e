"""What a patched component changes in later ones, and how much of its effect goes through one.

A component c, patched alone, changes a later component d's activation by δ. With Δa, what d's
activation differs by between the source and the base run,

    norm        ‖δ‖
    relative    ‖δ‖ / ‖Δa‖
    projection  ⟨δ, Δa⟩ / ‖Δa‖²
    reach       1 where the relative change is over 5 %, else 0

over positions and dimensions, of a head in d_model. A projection of 1 is all the way to the source,
a negative one leads away from it. Relative change and projection are undefined where Δa is 0.

With m the metric, and d the mediator of c's effect,

    total      m(c patched) - m(base)
    direct     m(c patched, d held at base) - m(base)
    indirect   m(base, d at the value that it takes when c is patched) - m(base)
    remainder  total - direct - indirect

The first three are runs of their own, so nothing makes them add up: the remainder is the part of
the effect that needs both ways together.

Examples:
    >>> from analysis import load_model, load_task
    >>> from analysis.mediation import EFFECTS, head_effects, mediate
    >>> model = load_model("testbed")
    >>> pairs = load_task("ioi", model, n=2)
    >>> head_effects(model, pairs).shape
    torch.Size([2, 4, 8, 4, 8])

    How much of head 0.2's effect on the logit difference goes through head 2.6:

    >>> found = mediate(model, pairs, [(("heads", 0, 2), ("heads", 2, 6))])
    >>> print(", ".join(f"{name} {one.mean():.2f}" for name, one in zip(EFFECTS, found)))
    total -0.41, direct -0.18, indirect -0.23, remainder -0.00
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import one_of, some_of
from analysis.choices import KINDS, Direction, Kind
from analysis.forward import Activations, Forward, SiteKey
from analysis.sites import MEMORY, Part, Plan, Site, engine, fitting
from analysis.sweep import progress_bar
from analysis.tasks import PromptPairs

MEASURES = ("norm", "relative", "projection", "reach")
EFFECTS = ("total", "direct", "indirect", "remainder")
REACHED = 0.05  # the relative change above which a component counts as reached
Component = tuple[Kind, int, int]  # a head or neuron: its kind, its layer and its index there
Link = tuple[Component, Component]
Coordinates = Callable[[Tensor], Tensor]  # (*batch, component, size or coordinate)
# Below this share of its layer's median, ‖Δa‖ is too small to divide by.
_LEAST = 1e-4


def head_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction = "noising",
    progress: bool | None = None,
) -> Float[Tensor, "prompt layer head later_layer later_head"]:
    """How much each later head changes when a head is patched: ‖δ‖ over positions and d_model.

    Entries of heads that don't come later are 0. Arguments are those of `component_effects`.
    """
    norm, *_ = dense_effects(model, pairs, "heads", "heads", direction, progress)
    return norm


@torch.no_grad()
def dense_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    kind: Kind,
    target: Kind,
    direction: Direction = "noising",
    progress: bool | None = None,
) -> Float[Tensor, "measure prompt layer source later_layer target"]:
    """`MEASURES` of every pair of a component and a later one, where so many fit in memory.

    Relative changes and projections are NaN where undefined. Entries of components that don't come
    later are 0. The arguments are those of `component_effects`.
    """
    some_of("kind", (kind, target), KINDS)
    with engine(model, pairs) as forward:
        sources, targets = ((forward.layers, forward.components(side)) for side in (kind, target))
        found = torch.zeros(len(MEASURES), len(pairs), *sources, *targets)
        sites = _sites(forward, pairs, kind, (target,), direction, MEMORY, progress)
        for part, site, later in sites:
            for patched, key, measured in _measured(part, site, later):
                measured[1:3].masked_fill_(~later[key].defined, torch.nan)  # all but norm, reach
                block = found[:, :, site.layer, patched, key[1]]
                block[:, part.prompts] = measured.transpose(1, 2).float().cpu()
    return found


@torch.no_grad()
def component_effects(
    model: TransformerBridge,
    pairs: PromptPairs,
    kind: Kind,
    targets: tuple[Kind, ...] = KINDS,
    direction: Direction = "noising",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> dict[str, Float[Tensor, "measure prompt layer source"]]:
    """What each component of a kind, patched alone, changes in all later ones, by kind of target.

    Norm, relative change and projection are means over the later components in which they are
    defined; `reach` is how many are reached. NaN where there are none. Pairs are never held, only
    their sums: of neurons on neurons GPT-2 small has 600 million.

    `targets` are the kinds whose changes are measured, all in one sweep. The other arguments are
    those of `activation_patching`.
    """
    one_of("kind", kind, KINDS)
    some_of("kind", targets, KINDS)
    with engine(model, pairs) as forward:
        shape = (len(MEASURES), len(pairs), forward.layers, forward.components(kind))
        found = {target: torch.zeros(shape) for target in targets}
        for part, site, later in _sites(forward, pairs, kind, targets, direction, memory, progress):
            for target, means in _means(part, site, later).items():
                found[target][:, part.prompts, site.layer] = means.float().cpu()
    return dict(found)


@torch.no_grad()
def mediate(
    model: TransformerBridge,
    pairs: PromptPairs,
    links: Sequence[Link],
    direction: Direction = "noising",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> Float[Tensor, "effect prompt link"]:
    """`EFFECTS` of each link, a patched component and its mediator, in the metric's units.

    Each link takes two runs, each patched component one more; a run computes all layers, from the
    first changed position on. The other arguments are those of `activation_patching`.
    """
    bar = progress_bar(f"mediation {pairs.task}", len(links) * len(pairs), progress)
    with engine(model, pairs) as forward, bar:
        by_source = _by_source(forward, links)
        found = torch.zeros(len(EFFECTS), len(pairs), len(links))
        for part in Plan(forward, pairs, direction, memory=memory // 2).parts():
            prompts = torch.tensor(part.prompts)[:, None]
            for source, numbers in by_source.items():
                effects = _mediated(part, source, [links[number][1] for number in numbers])
                found[:, prompts, numbers] = effects.float().cpu()
                bar.update(len(part.prompts) * len(numbers))
    return found


def name_of(component: Component) -> str:
    """As `head 2.6`."""
    kind, layer, index = component
    return f"{kind.removesuffix('s')} {layer}.{index}"


class Target:
    """One later layer's heads or neurons in a part's base run, and their way to the source.

    Activations (prompt, changed, component, coordinate) are in coordinates in which lengths are
    those of what a component writes. `along` is Δa / ‖Δa‖², and `per_length` 1 / ‖Δa‖; both are 0
    unless `defined`: where ‖Δa‖ is not 0, and at least `_LEAST` of its layer's median.
    """

    def __init__(self, part: Part, key: SiteKey, coordinates: Coordinates):
        self.coordinates = coordinates
        self.base, source = (coordinates(run.activations[key]) for run in (part.base, part.source))
        way = source - self.base
        length = torch.linalg.vector_norm(way, dim=(1, 3))
        least = _LEAST * length.median(dim=1, keepdim=True).values
        self.defined = (length >= least) & (length > 0)
        self.per_length = torch.where(self.defined, 1 / length, 0.0)
        self.along = way * (self.per_length**2)[:, None, :, None]

    def measure(
        self,
        activations: Float[Tensor, "source prompt changed component size"],
        changed: Bool[Tensor, "source prompt"],
    ) -> Float[Tensor, "measure source prompt component"]:
        """`MEASURES` of each component; 0 where undefined, and for sources that don't change."""
        change = self.coordinates(activations) - self.base
        # Squares and sums, because torch's norm over axes that are not the last is slow.
        norm = change.square().sum(dim=(2, 4)).sqrt() * changed[..., None]
        projection = (change * self.along).sum(dim=(2, 4)) * changed[..., None]
        relative = norm * self.per_length
        return torch.stack([norm, relative, projection, (relative > REACHED).to(norm)])


def _coordinates(forward: Forward, key: SiteKey) -> Coordinates:
    """Gives a head's z the lengths and angles of z W_O; neurons stay as they are.

    With W_Oᵀ = Q R, ‖z W_O‖ = ‖z Rᵀ‖: as many numbers as z has instead of d_model.
    """
    if key[0] == "neurons":
        return lambda activations: activations
    upper = torch.linalg.qr(forward.writes(key).transpose(1, 2), mode="r").R.transpose(1, 2)
    return lambda activations: torch.einsum("...cs,csx->...cx", activations, upper)


def _sites(
    forward: Forward,
    pairs: PromptPairs,
    kind: Kind,
    targets: tuple[Kind, ...],
    direction: Direction,
    memory: int,
    progress: bool | None,
) -> Iterator[tuple[Part, Site, dict[SiteKey, Target]]]:
    """Each layer's components to patch, with what they may change, in a quarter of the memory."""
    keys = [key for key in forward.sites() if key[0] in targets]
    coordinates = {key: _coordinates(forward, key) for key in keys}
    plan = Plan(forward, pairs, direction, memory=memory // 2)
    total = forward.components(kind) * plan.work
    with progress_bar(f"{kind} on {' and '.join(targets)} {pairs.task}", total, progress) as bar:
        for part in plan.parts():
            later = {key: Target(part, key, coordinates[key]) for key in keys}
            # Tracing and measuring get half of the memory.
            prompts, length = part.base.tokens.shape
            largest = max((target.base for target in later.values()), key=torch.numel)
            measured = 3 * largest[0].numel() + 16 * largest.shape[2]
            floats = forward.floats_traced(length, part.base.first) + measured
            batch = fitting(memory // 2, forward, prompts * floats)
            for site in part.sites((kind,)):
                yield part, replace(site, batch=batch), later
                bar.update(part.work(site.layer) * len(site.writes))


def _measured(
    part: Part, site: Site, later: dict[SiteKey, Target]
) -> Iterator[tuple[slice, SiteKey, Float[Tensor, "measure source prompt target"]]]:
    """Some of a site's components, patched one at a time, and what they change in a later site."""
    changed, forward = (site.difference != 0).any(dim=3).any(dim=1).T, part.base.forward
    start = 0
    for change in site.changes():
        sources = slice(start, start + len(change))
        for key, activations in forward.trace(part.base, (site.kind, site.layer), change):
            if key in later:
                yield sources, key, later[key].measure(activations, changed[sources])
        start = sources.stop


def _means(
    part: Part, site: Site, later: dict[SiteKey, Target]
) -> dict[str, Float[Tensor, "measure prompt source"]]:
    """What `component_effects` returns, of one site's components on a part's prompts."""
    shape = len(MEASURES), len(part.prompts), len(site.writes)
    sums = {kind: site.difference.new_zeros(shape) for kind, _ in later}
    for sources, (kind, _), measured in _measured(part, site, later):
        sums[kind][:, :, sources] += measured.sum(dim=3).transpose(1, 2)
    reachable = part.base.forward.sites_after((site.kind, site.layer))
    counts = {kind: site.difference.new_zeros(shape[:2]) for kind in sums}
    for (kind, layer), target in later.items():
        if (kind, layer) in reachable:
            defined = target.defined.sum(dim=1)
            every = torch.full_like(defined, target.defined.shape[1])
            counts[kind] += torch.stack([every, defined, defined, every])
    for kind, count in counts.items():
        count[MEASURES.index("reach")].clamp_(max=1)  # a number of components, not their mean
        sums[kind] /= count[:, :, None]
    return sums


def _by_source(forward: Forward, links: Sequence[Link]) -> dict[Component, list[int]]:
    """The numbers of each patched component's links."""
    found: dict[Component, list[int]] = {}
    for number, (source, target) in enumerate(links):
        for kind, layer, index in (source, target):
            one_of("kind", kind, KINDS)
            width = forward.components(kind)
            if not (0 <= layer < forward.layers and 0 <= index < width):
                raise ValueError(
                    f"There is no {name_of((kind, layer, index))}: the model has {forward.layers} "
                    f"layers of {width} {kind}."
                )
        if target[:2] not in forward.sites_after(source[:2]):
            raise ValueError(
                f"{name_of(target)} is not computed after {name_of(source)}: it can't mediate."
            )
        found.setdefault(source, []).append(number)
    return found


def _mediated(
    part: Part, source: Component, targets: list[Component]
) -> Float[Tensor, "effect prompt target"]:
    """`EFFECTS` of one patched component."""
    forward, base = part.base.forward, part.base.activations
    site, index = source[:2], source[2]
    values = part.values[site]
    difference = (values - base[site])[:, :, index]
    change = torch.einsum("pts,sd->ptd", difference, forward.writes(site)[index])
    wanted = {target[:2] for target in targets}
    taken = {key: then for key, then in forward.trace(part.base, site, change) if key in wanted}
    before = part.measure(part.base)
    patched = [[source], *([source, target] for target in targets)]
    held = _measure_sets(part, base | {site: values}, patched)
    alone = _measure_sets(part, base | taken, [[target] for target in targets])
    total, direct, indirect = held[:1] - before, held[1:] - before, alone - before
    found = [total.expand_as(direct), direct, indirect, total - direct - indirect]
    return torch.stack(found).transpose(1, 2)


def _measure_sets(
    part: Part, values: Activations, sets: list[list[Component]]
) -> Float[Tensor, "set prompt"]:
    """The metric with the components of each set at these values."""
    forward, size, found = part.base.forward, part.batch(gradient=False), []
    for start in range(0, len(sets), size):
        some, chosen = sets[start : start + size], {}
        kinds: set[Kind] = {kind for components in some for kind, *_ in components}
        for kind in kinds:
            shape = len(some), forward.layers, forward.components(kind)
            chosen[kind] = torch.zeros(shape, dtype=torch.bool, device=forward.device)
        for number, components in enumerate(some):
            for kind, layer, index in components:
                chosen[kind][number, layer, index] = True
        found.append(forward.replace(part.base, values, chosen, part.readout))
    return torch.cat(found)
