"""A data set in parts that fit in memory: prompts of one length, their two runs, their sites.

A *site* is one layer's heads or neurons in the base run of a part, with the activations' change
towards the baseline. Every method is a function of one site.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.choices import BASELINES as BASELINES
from analysis.choices import DIRECTIONS as DIRECTIONS
from analysis.forward import KINDS, Activations, BaseRun, Forward, forward_of, undisturbed
from analysis.metrics import Readout, name_of
from analysis.tasks import PromptPairs

FEWEST_FOR_A_MEAN = 8
# Larger batches fall out of a processor's caches, and are slower.
MEMORY = 2**27


@contextmanager
def engine(model: TransformerBridge, pairs: PromptPairs) -> Iterator[Forward]:
    """The model's engine, with the model to itself and prompts that are the model's.

    Raises:
        ValueError: for what is no model or no prompt pairs, for pairs of another tokenizer, for a
            model with hooks of the user's, and as `forward_of` does.
    """
    expected = {"model": (model, TransformerBridge), "pairs": (pairs, PromptPairs)}
    for name, (given, kind) in expected.items():
        if not isinstance(given, kind):
            raise ValueError(
                f"{name} is of the type {type(given).__name__}: expected what "
                f"load_{'model' if name == 'model' else 'task'} returns."
            )
    if not callable(pairs.metric):
        raise ValueError(f"The metric {pairs.metric!r} was given: expected a function.")
    with undisturbed(model):
        pairs.check(model)
        yield forward_of(model)


@dataclass(frozen=True)
class Site:
    """One layer's heads or neurons in a base run.

    `difference` is Δa, what changes each activation to the baseline's; `writes` is what a unit of
    an activation adds to the residual stream; `resume` gives the metric when the components write
    so much more; `base` is the metric without any change. `batch` says how many changes `resume`
    should be given at once, and `gradient_batch` how many if it is to be differentiated. Positions
    before the first change are no part of a site.
    """

    kind: str
    layer: int
    difference: Float[Tensor, "prompt changed component size"]
    writes: Float[Tensor, "component size d_model"]
    base: Float[Tensor, " prompt"]
    resume: Callable[
        [Float[Tensor, "*batch prompt changed d_model"]], Float[Tensor, "*batch prompt"]
    ]
    batch: int
    gradient_batch: int

    def changes(self) -> Iterator[Float[Tensor, "component prompt changed d_model"]]:
        """What each component alone writes more, Δa W, in batches."""
        yield from self._changes(self.batch)

    def gradient_changes(self) -> Iterator[Float[Tensor, "component prompt changed d_model"]]:
        """The same in batches small enough to be differentiated."""
        yield from self._changes(self.gradient_batch)

    def joint_change(self) -> Float[Tensor, "prompt changed d_model"]:
        """What all components of the layer together write more: Σ Δa W."""
        return torch.einsum("ptcs,csd->ptd", self.difference, self.writes)

    def _changes(self, size: int) -> Iterator[Float[Tensor, "component prompt changed d_model"]]:
        for difference, writes in zip(
            self.difference.split(size, dim=2), self.writes.split(size), strict=True
        ):
            yield torch.einsum("ptcs,csd->cptd", difference, writes)


@dataclass(frozen=True)
class Part:
    """Prompts of one length at `places` of the data set, and both their runs.

    `values` is what takes the place of the base activations; `memory` bounds, in bytes, what is
    held while the base run is resumed.
    """

    places: list[int]
    base: BaseRun
    source: BaseRun
    readout: Readout
    values: Activations
    memory: int

    def sites(self, kinds: tuple[str, ...] = KINDS) -> Iterator[Site]:
        """Every layer's heads, neurons, or both."""
        base = self.measure(self.base)
        for (kind, layer), activations in self.base.activations.items():
            if kind in kinds:
                yield Site(
                    kind=kind,
                    layer=layer,
                    difference=self.values[kind, layer] - activations,
                    writes=self.base.forward.writes(kind, layer),
                    base=base,
                    resume=self._resume(kind, layer),
                    batch=self.batch(gradient=False),
                    gradient_batch=self.batch(gradient=True),
                )

    def measure(self, run: BaseRun) -> Float[Tensor, " prompt"]:
        """The metric of one of the two runs."""
        return self.readout.of_vocabulary(run.logits)

    def _resume(self, kind: str, layer: int) -> Callable[[Tensor], Tensor]:
        readout = self.readout
        return lambda change: readout.read(
            self.base.resume(kind, layer, change, readout.columns, readout.normalised)
        )

    def batch(self, gradient: bool) -> int:
        """How many changes can be resumed at once."""
        prompts, length = self.base.tokens.shape
        forward = self.base.forward
        held = forward.floats_held(length, self.base.first, self.readout, gradient)
        return max(1, self.memory // (forward.itemsize * prompts * held))


def split_into_parts(
    forward: Forward, pairs: PromptPairs, direction: str, baseline: str, memory: int
) -> Iterator[Part]:
    """Every prompt that the baseline allows, those of one length and first change together.

    A quarter of the memory is for the runs that are kept, the rest for resuming them.

    Raises:
        ValueError: where the logits are not finite, and where `baseline="mean"` leaves no prompt.
    """
    for group, first in groups_for(pairs, baseline):
        clean, corrupted = (
            torch.stack([tokens[place] for place in group]).to(forward.device)
            for tokens in (pairs.clean_tokens, pairs.corrupted_tokens)
        )
        base, source = (clean, corrupted) if direction == "noising" else (corrupted, clean)
        readout = Readout(pairs.metric, pairs.labels)
        chunks = _chunks(forward, base, first, readout, memory)
        baseline_of = _baseline(forward, source, chunks, baseline)
        for chunk in chunks:
            places = [group[index] for index in chunk]
            labels = pairs.labels[torch.tensor(places)].to(forward.device)
            base_run, source_run = (forward.run(side[chunk], first) for side in (base, source))
            readout = Readout(pairs.metric, labels)
            for run in (base_run, source_run):
                _check_run(pairs, places, run, readout)
            yield Part(
                places=places,
                base=base_run,
                source=source_run,
                readout=readout,
                values=baseline_of(source_run),
                memory=memory - memory // 4,
            )


def groups_for(pairs: PromptPairs, baseline: str) -> list[tuple[list[int], int]]:
    """The places of the prompts that run together, and the first position that changes.

    Only with `baseline="source"` does anything stay as it is: what precedes the first differing
    token. A mean needs enough prompts of one length.
    """
    if baseline == "source":
        together: dict[tuple[int, int], list[int]] = {}
        for place, tokens in enumerate(pairs.clean_tokens):
            first = first_difference(tokens, pairs.corrupted_tokens[place])
            together.setdefault((len(tokens), first), []).append(place)
        return [(places, first) for (_, first), places in sorted(together.items())]
    fewest = FEWEST_FOR_A_MEAN if baseline == "mean" else 1
    groups = [(group, 0) for group in pairs.groups() if len(group) >= fewest]
    if not groups:
        raise ValueError(
            f"{pairs.task}: baseline='mean' needs {fewest} prompts of one length; no length has "
            "as many. Use more prompts or another baseline."
        )
    return groups


def first_difference(tokens: Int[Tensor, " position"], others: Int[Tensor, " position"]) -> int:
    """The first position at which two prompts differ; the last one where they don't."""
    differing = (tokens != others).nonzero()
    return int(differing[0]) if len(differing) else len(tokens) - 1


def _chunks(
    forward: Forward,
    tokens: Int[Tensor, "prompt position"],
    first: int,
    readout: Readout,
    memory: int,
) -> list[list[int]]:
    """As many prompts as fit: two runs and a difference, and each resumed with one change."""
    prompts, length = tokens.shape
    kept = 3 * forward.itemsize * forward.floats_kept(length, first)
    held = forward.itemsize * forward.floats_held(length, first, readout, gradient=True)
    size = max(1, min(memory // 4 // kept, (memory - memory // 4) // held))
    return [list(range(start, min(start + size, prompts))) for start in range(0, prompts, size)]


def _baseline(
    forward: Forward,
    tokens: Int[Tensor, "prompt position"],
    chunks: list[list[int]],
    baseline: str,
) -> Callable[[BaseRun], Activations]:
    """What takes the place of the base activations, given the source run of the same prompts."""
    if baseline == "source":
        return lambda source: source.activations
    if baseline == "zero":
        return lambda source: {site: torch.zeros_like(a) for site, a in source.activations.items()}
    sums: Activations = {}
    for chunk in chunks:
        for site, activations in forward.run(tokens[chunk]).activations.items():
            total = activations.sum(dim=0, keepdim=True)
            sums[site] = sums[site] + total if site in sums else total
    means = {site: total / len(tokens) for site, total in sums.items()}
    return lambda source: means


def _check_run(pairs: PromptPairs, places: list[int], run: BaseRun, readout: Readout) -> None:
    """Numbers, of every prompt by itself."""
    metric = readout.of_vocabulary(run.logits)
    called = name_of(pairs.metric)
    for what, values in (("logits are", run.logits), (f"{called} is", metric[:, None])):
        finite = torch.isfinite(values).all(dim=-1).tolist()
        if not all(finite):
            place = places[finite.index(False)]
            raise ValueError(
                f"{pairs.task}: the model's {what} NaN or infinite on prompt {place} or its "
                f"corruption ({pairs.clean[place]!r}): check the model's weights and the metric."
            )
    first = Readout(readout.metric, readout.labels[:1]).of_vocabulary(run.logits[:1])
    if not torch.isclose(first[0], metric[0], rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"{pairs.task}: {called} gives a prompt {metric[0]:.3g} beside others and "
            f"{first[0]:.3g} alone: it must depend on a prompt's own logits and labels only."
        )
