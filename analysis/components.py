"""Which components to score: all of some kinds, or those asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from analysis.checks import one_of
from analysis.choices import KINDS, Kind
from analysis.forward import Forward, SiteKey

Components = Mapping[Kind, Sequence[tuple[int, int]]]  # (layer, index) of each, by kind
Indices = dict[SiteKey, list[int]]  # of some components of each site


def chosen_components(
    components: Components | None, kinds: tuple[Kind, ...], forward: Forward
) -> Indices:
    """The components to score at each site, in order; a site without any is left out.

    Examples:
        >>> from analysis import activation_patching, load_model, load_task
        >>> model = load_model("testbed")
        >>> components = {"heads": [(2, 6), (0, 1)]}
        >>> pairs = load_task("ioi", model, n=2)
        >>> ap = activation_patching(model, pairs, components=components)
        >>> ap.heads[0].isfinite().nonzero().tolist()
        [[0, 1], [2, 6]]

    Raises:
        ValueError: for an unknown kind, a component that the model does not have, one that is asked
            for twice, and a kind of which none is.
    """
    if components is None:
        every = {kind: list(range(forward.components(kind))) for kind in kinds}
        return {site: every[site[0]] for site in forward.sites() if site[0] in kinds}
    if not isinstance(components, Mapping) or not components:
        raise _refused(components, "a dictionary such as {'heads': [(0, 1), (2, 6)]}")
    indices: Indices = {site: [] for site in forward.sites()}
    for kind, some in components.items():
        one_of("kind of component", kind, KINDS)
        for layer, component in _pairs(kind, some, forward):
            indices[kind, layer].append(component)
    return {site: sorted(some) for site, some in indices.items() if some}


def _pairs(kind: Kind, some: Any, forward: Forward) -> list[tuple[int, int]]:
    """A kind's (layer, index) pairs, each checked."""
    try:
        pairs = [(index(layer), index(component)) for layer, component in some]
    except (TypeError, ValueError):
        pairs = []
    if not pairs:
        raise _refused({kind: some}, f"(layer, index) of one of the {kind} at least")
    layers, count = forward.layers, forward.components(kind)
    for layer, component in pairs:
        if not (0 <= layer < layers and 0 <= component < count):
            raise _refused(
                {kind: [(layer, component)]},
                f"a layer from 0 to {layers - 1} and an index from 0 to {count - 1}",
            )
    often, times = Counter(pairs).most_common(1)[0]
    if times > 1:
        raise _refused({kind: [often] * times}, "each component once")
    return pairs


def _refused(given: Any, expected: str) -> ValueError:
    return ValueError(f"components={given!r} was given: expected {expected}.")
