"""How many multiplications and additions a run takes, by formula: matrix products alone count.

A block does 8 d² + 4 d n operations at a position (queries, keys, values and output; the MLP's two
matrices), with d the residual stream's width and n the number of neurons, and attention 4 d for
each pair of a position and one of the prompt's, seen or not. The unembedding takes 2 d for each of
its columns.
"""

from dataclasses import dataclass

from analysis.bench.workloads import Shape


@dataclass(frozen=True)
class Network:
    """A model's shape."""

    layers: int
    width: int
    neurons: int
    vocabulary: int


def whole_run(network: Network, length: int) -> int:
    """One prompt through the whole model, unembedded at every position, as the hook loop does."""
    block = (
        _projections(network, length) + _mlp(network, length) + _attention(network, length, length)
    )
    return network.layers * block + 2 * length * network.width * network.vocabulary


def resumed_run(network: Network, shape: Shape, kind: str, layer: int, columns: int) -> int:
    """One prompt resumed after a layer's heads or neurons, as the engine does it.

    `columns` is how many logits are computed.
    """
    changed, last = shape.length - shape.first, network.layers - 1
    total = 0
    if kind == "heads":
        total += _mlp(network, 1 if layer == last else changed)
    for later in range(layer + 1, network.layers):
        needed = 1 if later == last else changed
        total += _projections(network, needed) + _attention(network, needed, shape.length)
        # The last layer's other positions give keys and values only.
        total += (changed - needed) * 4 * network.width**2
        total += _mlp(network, needed)
    return total + 2 * network.width * columns


def _projections(network: Network, positions: int) -> int:
    return 8 * positions * network.width**2


def _mlp(network: Network, positions: int) -> int:
    return 4 * positions * network.width * network.neurons


def _attention(network: Network, positions: int, length: int) -> int:
    return 4 * positions * length * network.width
