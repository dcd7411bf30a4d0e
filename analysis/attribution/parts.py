"""A data set in parts that fit in memory: prompts of one length, their two runs, their sites.

A *site* is one layer's heads or neurons in the base run of a part, with the activations' change
towards the baseline. Every method is a function of one site.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.forward import KINDS, BaseRun, Forward
from analysis.tasks import PromptPairs

DIRECTIONS = ("noising", "denoising")
BASELINES = ("source", "zero", "mean")
FEWEST_FOR_A_MEAN = 8
MEMORY = 2**27

Activations = dict[tuple[str, int], Float[Tensor, "_ position component size"]]


@dataclass(frozen=True)
class Site:
    """One layer's heads or neurons in a base run.

    `difference` is Δa, what changes each activation to the baseline's; `writes` is what a unit of
    an activation adds to the residual stream; `resume` gives the metric when the components write
    so much more; `base` is the metric without any change. `batch` says how many changes `resume`
    should be given at once, and how many if it is to be differentiated.
    """

    kind: str
    layer: int
    difference: Float[Tensor, "prompt position component size"]
    writes: Float[Tensor, "component size d_model"]
    base: Float[Tensor, " prompt"]
    resume: Callable[
        [Float[Tensor, "*batch prompt position d_model"]], Float[Tensor, "*batch prompt"]
    ]
    batch: int
    gradient_batch: int

    def changes(self) -> Iterator[Float[Tensor, "component prompt position d_model"]]:
        """What each component alone writes more, Δa W, in batches."""
        yield from self._changes(self.batch)

    def gradient_changes(self) -> Iterator[Float[Tensor, "component prompt position d_model"]]:
        """The same in batches small enough to be differentiated."""
        yield from self._changes(self.gradient_batch)

    def joint_change(self) -> Float[Tensor, "prompt position d_model"]:
        """What all components of the layer together write more: Σ Δa W."""
        return torch.einsum("ptcs,csd->ptd", self.difference, self.writes)

    def _changes(self, size: int) -> Iterator[Float[Tensor, "component prompt position d_model"]]:
        for difference, writes in zip(
            self.difference.split(size, dim=2), self.writes.split(size), strict=True
        ):
            yield torch.einsum("ptcs,csd->cptd", difference, writes)


@dataclass(frozen=True)
class Part:
    """Prompts of one length at `places` of the data set, and both their runs."""

    places: list[int]
    base: BaseRun
    source: BaseRun
    measure: Callable[[Float[Tensor, "*batch prompt vocabulary"]], Float[Tensor, "*batch prompt"]]
    values: Activations
    memory: int

    def sites(self, kinds: tuple[str, ...] = KINDS) -> Iterator[Site]:
        """Every layer's heads, neurons, or both."""
        forward = self.base.forward
        base = self.measure(self.base.logits)
        for (kind, layer), activations in self.base.activations.items():
            if kind in kinds:
                positions = activations.shape[0] * activations.shape[1]
                per_run = 4 * positions * forward.floats_per_position
                yield Site(
                    kind=kind,
                    layer=layer,
                    difference=self.values[kind, layer] - activations,
                    writes=forward.writes(kind, layer),
                    base=base,
                    resume=self._resume(kind, layer),
                    batch=max(1, self.memory // per_run),
                    gradient_batch=max(1, self.memory // (per_run * len(forward.layers))),
                )

    def _resume(self, kind: str, layer: int) -> Callable[[Tensor], Tensor]:
        return lambda change: self.measure(self.base.resume(kind, layer, change))


def split_into_parts(
    forward: Forward, pairs: PromptPairs, direction: str, baseline: str, memory: int
) -> Iterator[Part]:
    """Every prompt that the baseline allows, by length.

    Raises:
        ValueError: where the logits are not finite, and where `baseline="mean"` leaves no prompt.
    """
    for group in groups_for(pairs, baseline):
        clean, corrupted = (
            torch.stack([tokens[place] for place in group]).to(forward.device)
            for tokens in (pairs.clean_tokens, pairs.corrupted_tokens)
        )
        base, source = (clean, corrupted) if direction == "noising" else (corrupted, clean)
        chunks = _chunks(forward, base, memory)
        baseline_of = _baseline(forward, source, chunks, baseline)
        for chunk in chunks:
            places = [group[index] for index in chunk]
            labels = pairs.labels[torch.tensor(places)].to(forward.device)
            base_run, source_run = forward.run(base[chunk]), forward.run(source[chunk])
            _check_finite(pairs, places, base_run, source_run)
            yield Part(
                places=places,
                base=base_run,
                source=source_run,
                measure=lambda logits, labels=labels: pairs.metric(logits, labels),
                values=baseline_of(source_run),
                memory=memory,
            )


def groups_for(pairs: PromptPairs, baseline: str) -> list[list[int]]:
    """The places of each length's prompts; a mean needs enough of them."""
    fewest = FEWEST_FOR_A_MEAN if baseline == "mean" else 1
    groups = [group for group in pairs.groups() if len(group) >= fewest]
    if not groups:
        raise ValueError(
            f"{pairs.task}: baseline='mean' needs {fewest} prompts of one length; no length has "
            "as many. Use more prompts or another baseline."
        )
    return groups


def _chunks(
    forward: Forward, tokens: Int[Tensor, "prompt position"], memory: int
) -> list[list[int]]:
    """As many prompts at a time as the activations of two runs, and their difference, allow."""
    prompts, positions = tokens.shape
    per_prompt = 3 * 4 * positions * len(forward.layers) * forward.floats_per_position
    size = max(1, memory // per_prompt)
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


def _check_finite(pairs: PromptPairs, places: list[int], base: BaseRun, source: BaseRun) -> None:
    finite = torch.isfinite(base.logits + source.logits).all(dim=-1).tolist()
    for place, is_finite in zip(places, finite, strict=True):
        if not is_finite:
            raise ValueError(
                f"{pairs.task}: the model's logits are NaN or infinite on the prompt "
                f"{pairs.clean[place]!r} or its corruption: check the model's weights."
            )
