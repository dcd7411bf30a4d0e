"""How much of a component's effect on the metric goes through one later component.

For a component c and a later one d, the mediator, with m the metric:

    TE  = m(c patched) - m(base)
    NDE = m(c patched, d held at base) - m(base)
    NIE = m(base, d at the value that it takes when c is patched) - m(base)

The remainder TE - NDE - NIE is the mediated interaction: what c does in company with d that neither
way does alone. Each is measured by a run of its own, so the remainder is nothing that was put in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.parts import MEMORY, Part, engine, groups_for, split_into_parts
from analysis.attribution.sweep import check_choices
from analysis.attribution.units import progress_bar
from analysis.forward import Activations, Chosen, Forward, forward_of
from analysis.mediation.effects import Effects
from analysis.tasks import PromptPairs


class Component(NamedTuple):
    """One head or neuron; `place` is its number in its layer.

    Examples:
        >>> from analysis.mediation import Component
        >>> Component("heads", layer=1, place=5)
        Component(kind='heads', layer=1, place=5)
    """

    kind: str
    layer: int
    place: int


Link = tuple[Component, Component]


class Mediation(NamedTuple):
    """Total, direct and indirect effects of each link's first component, in the metric's units.

    Examples:
        >>> import torch
        >>> from analysis.mediation import Mediation

        One prompt and one link; half a logit takes both ways together:

        >>> effects = Mediation(
        ...     total=torch.tensor([[-3.0]]),
        ...     direct=torch.tensor([[-1.0]]),
        ...     indirect=torch.tensor([[-1.5]]),
        ... )
        >>> effects.remainder
        tensor([[-0.5000]])
    """

    total: Float[Tensor, "prompt link"]
    direct: Float[Tensor, "prompt link"]
    indirect: Float[Tensor, "prompt link"]

    @property
    def remainder(self) -> Float[Tensor, "prompt link"]:
        """TE - NDE - NIE, the mediated interaction; 0 where m adds what d and the rest do."""
        return self.total - self.direct - self.indirect


@torch.no_grad()
def mediate(
    model: TransformerBridge,
    pairs: PromptPairs,
    links: Sequence[Link],
    direction: str = "noising",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> Mediation:
    """TE, NDE and NIE of each link, a patched component and its mediator, on every prompt.

    Two runs a link and one more a patched component; each is a whole pass over the positions from
    the first change on. The other arguments are those of `activation_patching`.

    Raises:
        ValueError: for a link to what is not computed later, a component that the model lacks, an
            unknown direction, or logits that are not finite.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import Component, mediate
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)

        What of head 0.2's effect on the logit difference goes through head 2.6:

        >>> link = (Component("heads", 0, 2), Component("heads", 2, 6))
        >>> effects = mediate(model, pairs, [link])
        >>> for name, effect in effects._asdict().items():
        ...     print(f"{name:8} {effect.mean():.2f}")
        total    -0.41
        direct   -0.18
        indirect -0.23
    """
    check_choices(direction, "source", ())
    total = sum(
        len(group) * (len(pairs.clean_tokens[group[0]]) - first) * len(links)
        for group, first in groups_for(pairs, "source")
    )
    bar = progress_bar(f"mediation {pairs.task}", total, progress)
    with engine(model, pairs) as forward, bar:
        by_source = _by_source(forward, links)
        found = torch.zeros(3, len(pairs), len(links))
        for part in split_into_parts(forward, pairs, direction, "source", memory // 2):
            prompts = torch.tensor(part.places)
            for source, places in by_source.items():
                effects = _mediate(part, source, [links[place][1] for place in places])
                found[:, prompts[:, None], torch.tensor(places)] = effects.float().cpu()
                bar.update(part.base.tokens[:, part.base.first :].numel() * len(places))
    return Mediation(*found)


def head_links(model: TransformerBridge) -> list[Link]:
    """Every head with every later head.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.mediation import head_links
        >>> links = head_links(load_model("testbed"))
        >>> len(links)
        384
        >>> links[0]
        (Component(kind='heads', layer=0, place=0), Component(kind='heads', layer=1, place=0))
    """
    forward = forward_of(model)
    heads = [
        Component("heads", layer, place)
        for layer in range(forward.layers)
        for place in range(forward.components("heads"))
    ]
    return [(c, d) for c in heads for d in heads if c.layer < d.layer]


def strongest_links(
    effects: Effects, count: int, sources: Sequence[Component] | None = None
) -> list[Link]:
    """Each source with the targets that it changes most: at most so many, strongest first.

    Targets are ranked by the sum over prompts of the relative changes in `strongest_targets`: one
    that is not in a prompt's list adds nothing there, so the lists should be longer than `count`.
    Without `sources`, all of them.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.mediation import component_effects, strongest_links
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=2)
        >>> effects = component_effects(model, pairs, "heads", ("heads",))
        >>> for source, target in strongest_links(effects["heads"], count=1)[:3]:
        ...     print(
        ...         f"{source.layer}.{source.place} changes {target.layer}.{target.place} most"
        ...     )
        0.0 changes 3.3 most
        0.1 changes 1.0 most
        0.2 changes 3.3 most
    """
    layers, width = effects.by_source.shape[2:4]
    if sources is None:
        sources = [
            Component(effects.source, layer, place)
            for layer in range(layers)
            for place in range(width)
        ]
    return [
        (source, Component(effects.target, *divmod(place, effects.by_target.shape[4])))
        for source in sources
        for place in _strongest(effects, source)[:count]
    ]


def _strongest(effects: Effects, source: Component) -> list[int]:
    values, places = (part[:, source.layer, source.place] for part in effects.strongest_targets)
    sums = torch.zeros(effects.defined[0].numel())
    sums.index_add_(0, places[places >= 0], values[places >= 0])
    order = sums.argsort(descending=True, stable=True)
    return order[: int((sums > 0).sum())].tolist()


def _by_source(forward: Forward, links: Sequence[Link]) -> dict[Component, list[int]]:
    """The places of each patched component's links."""
    found: dict[Component, list[int]] = {}
    for place, (source, target) in enumerate(links):
        for component in (source, target):
            _check(forward, component)
        if target[:2] not in forward.places_after(*source[:2]):
            raise ValueError(f"{target} is not computed after {source}: it can't mediate.")
        found.setdefault(source, []).append(place)
    return found


def _check(forward: Forward, component: Component) -> None:
    check_choices("noising", "source", (component.kind,))
    layers, width = forward.layers, forward.components(component.kind)
    if not (0 <= component.layer < layers and 0 <= component.place < width):
        raise ValueError(
            f"There is no {component}: the model has {layers} layers of {width} {component.kind}."
        )


def _mediate(
    part: Part, source: Component, targets: list[Component]
) -> Float[Tensor, "effect prompt target"]:
    """TE, NDE and NIE of one patched component."""
    base, site = part.base.activations, (source.kind, source.layer)
    difference = (part.values[site] - base[site])[:, :, source.place]
    change = torch.einsum("pts,sd->ptd", difference, part.base.forward.writes(*site)[source.place])
    places = {target[:2] for target in targets}
    traced = {place: values for place, values in part.base.trace(*site, change) if place in places}
    patched = base | {site: part.values[site]}
    before = part.measure(part.base)
    held = _measure_sets(part, patched, [[source], *([source, target] for target in targets)])
    alone = _measure_sets(part, base | traced, [[target] for target in targets])
    total, direct, indirect = held[:1] - before, held[1:] - before, alone - before
    return torch.stack([total.expand_as(direct), direct, indirect]).transpose(1, 2)


def _measure_sets(
    part: Part, values: Activations, sets: list[list[Component]]
) -> Float[Tensor, "set prompt"]:
    """The metric with the components of each set at these values."""
    readout, size = part.readout, part.batch(gradient=False)
    return torch.cat(
        [
            readout.read(
                part.base.replace(
                    values,
                    _masks(part.base.forward, sets[start : start + size]),
                    readout.columns,
                    readout.normalised,
                )
            )
            for start in range(0, len(sets), size)
        ]
    )


def _masks(forward: Forward, sets: list[list[Component]]) -> Chosen:
    kinds = {component.kind for components in sets for component in components}
    masks = {
        kind: torch.zeros(len(sets), forward.layers, forward.components(kind), dtype=torch.bool)
        for kind in sorted(kinds)
    }
    for number, components in enumerate(sets):
        for kind, layer, place in components:
            masks[kind][number, layer, place] = True
    return {kind: mask.to(forward.device) for kind, mask in masks.items()}
