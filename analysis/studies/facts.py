"""The facts that connect IG and AP, each measured on a model's own prompts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import comb, nan
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution import activation_patching, integrated_gradients
from analysis.attribution.activation_patching import patch_each
from analysis.attribution.integrated_gradients import STEPS, integrate_jointly
from analysis.attribution.parts import MEMORY, Part, Site, first_difference, split_into_parts
from analysis.attribution.quadrature import quadrature
from analysis.forward import forward_of
from analysis.tasks import PromptPairs, load_task

PROMPTS = 4
_PATH = quadrature("gauss-legendre", STEPS)
_LEFT_END = quadrature("left", 1)


@dataclass(frozen=True)
class Facts:
    """Each fact that connects the two methods, measured.

    Attributes:
        prompts: how many are behind the numbers.
        table: a row a fact: what is compared, and the largest relative difference.
        parts: a row a layer: the means over heads and prompts of |IG - AP| and of its two parts,
            |Shapley - AP| and |IG - Shapley|, relative to the largest |total effect|.
    """

    prompts: int
    table: pl.DataFrame
    parts: pl.DataFrame

    def most_different(self) -> dict[str, Any]:
        """The layer, and its parts, in which IG and AP differ most."""
        return self.parts.sort("IG - AP", descending=True).row(0, named=True)


def facts(model: TransformerBridge) -> Facts:
    """Measures each fact on a few IOI prompts; on heads where every neuron would take long."""
    pairs = load_task("ioi", model, n=PROMPTS)
    largest = float(integrated_gradients(model, pairs, kinds=()).total.abs().max())
    table = pl.DataFrame(
        [
            {
                "fact": fact,
                "compared": compared,
                "difference": f"{check(model, pairs) / largest:.1e}",
            }
            for fact, compared, check in _CHECKS
        ]
    )
    return Facts(len(pairs), table, _difference_in_parts(model, pairs, largest))


def shapley(site: Site) -> Float[Tensor, "prompt component"]:
    """The Shapley value of the on-off game at one site, exactly, from all 2ⁿ corners.

    Raises:
        ValueError: for more than 16 components.
    """
    count = site.difference.shape[2]
    if count > 16:
        raise ValueError(f"The exact Shapley value needs 2^{count} runs: at most 16 components.")
    alone = torch.cat(list(site.changes()))
    corners = torch.tensor([[bit >> c & 1 for c in range(count)] for bit in range(2**count)])
    metrics = torch.cat(
        [
            site.resume(torch.einsum("kc,cptd->kptd", some.to(alone), alone))
            for some in corners.split(site.batch)
        ]
    )
    sizes = corners.sum(dim=1).tolist()
    # A corner counts for its members as where they have just come in, else as where they have not.
    joined = torch.tensor([1 / (count * comb(count - 1, max(size - 1, 0))) for size in sizes])
    absent = torch.tensor([1 / (count * comb(count - 1, min(size, count - 1))) for size in sizes])
    weights = torch.where(corners.bool(), joined[:, None], -absent[:, None])
    return torch.einsum("kc,kp->pc", weights.to(metrics), metrics)


def _parts(model: TransformerBridge, pairs: PromptPairs) -> Iterator[Part]:
    return split_into_parts(forward_of(model), pairs, "noising", "source", MEMORY)


def _head_sites(model: TransformerBridge, pairs: PromptPairs) -> Iterator[Site]:
    for part in _parts(model, pairs):
        yield from part.sites(("heads",))


def _difference_in_parts(
    model: TransformerBridge, pairs: PromptPairs, largest: float
) -> pl.DataFrame:
    rows = []
    for site in _head_sites(model, pairs):
        ap, ig, middle = patch_each(site), integrate_jointly(site, *_PATH), shapley(site)
        parts = {"IG - AP": ig - ap, "Shapley - AP": middle - ap, "IG - Shapley": ig - middle}
        means = {name: float(part.abs().mean()) / largest for name, part in parts.items()}
        rows.append({"layer": site.layer, "prompts": len(ap)} | means)
    names = ("IG - AP", "Shapley - AP", "IG - Shapley")
    weighted = [
        (pl.col(name) * pl.col("prompts")).sum() / pl.col("prompts").sum() for name in names
    ]
    return pl.DataFrame(rows).group_by("layer").agg(weighted).sort("layer")


def _completeness(model: TransformerBridge, pairs: PromptPairs) -> float:
    ig = integrated_gradients(model, pairs)
    return _largest(torch.stack([ig.heads_gap, ig.neurons_gap]))


def _single_path(model: TransformerBridge, pairs: PromptPairs) -> float:
    single = integrated_gradients(model, pairs, path="single", kinds=("heads",))
    return _largest(single.heads - activation_patching(model, pairs, kinds=("heads",)).heads)


def _one_left_step(model: TransformerBridge, pairs: PromptPairs) -> float:
    def gradient_at_base(site: Site) -> Tensor:
        nothing = torch.zeros_like(site.joint_change(), requires_grad=True)
        (gradient,) = torch.autograd.grad(site.resume(nothing).sum(), nothing)
        return torch.einsum("ptcs,csd,ptd->pc", site.difference, site.writes, gradient)

    return max(
        _largest(integrate_jointly(site, *_LEFT_END) - gradient_at_base(site))
        for site in _head_sites(model, pairs)
    )


def _linear(model: TransformerBridge, pairs: PromptPairs) -> float:
    differences = []
    for site in _head_sites(model, pairs):
        direction = _direction(site)
        linear = _with_metric(site, lambda change, direction=direction: change @ direction)
        ap = patch_each(linear)
        for path in (_PATH, _LEFT_END):
            differences.append(_largest(integrate_jointly(linear, *path) - ap))
    return max(differences)


def _quadratic(model: TransformerBridge, pairs: PromptPairs) -> float:
    differences = []
    for site in _head_sites(model, pairs):
        direction = _direction(site)
        square = _with_metric(site, lambda change, direction=direction: (change @ direction) ** 2)
        differences.append(_largest(integrate_jointly(square, *_PATH) - shapley(square)))
    return max(differences)


def _direction(site: Site) -> Float[Tensor, " d_model"]:
    """A fixed direction of the residual stream."""
    return torch.ones(site.writes.shape[-1], device=site.writes.device).cumsum(0).cos()


def _with_metric(site: Site, metric: Callable[[Tensor], Tensor]) -> Site:
    """The same activations under a metric of what is written at the last position."""
    return replace(
        site, base=torch.zeros_like(site.base), resume=lambda change: metric(change[..., -1, :])
    )


def _whole_stream(model: TransformerBridge, pairs: PromptPairs) -> float:
    differences = []
    for part in _parts(model, pairs):
        for (kind, layer), stream in part.base.after.items():
            everything = part.source.after[kind, layer] - stream
            logits = part.base.resume(kind, layer, everything)
            differences.append(part.readout.of_vocabulary(logits) - part.measure(part.source))
    return _largest(torch.cat(differences)) if differences else nan  # norms follow every site


def _no_change(model: TransformerBridge, pairs: PromptPairs) -> float:
    same = replace(pairs, corrupted=pairs.clean, corrupted_tokens=pairs.clean_tokens)
    methods = (activation_patching, integrated_gradients)
    return max(_largest(method(model, same, kinds=("heads",)).heads) for method in methods)


def _alone(model: TransformerBridge, pairs: PromptPairs) -> float:
    def heads(some: PromptPairs) -> Tensor:
        return integrated_gradients(model, some, kinds=("heads",)).heads

    together = heads(pairs)
    alone = (heads(pairs.select([place])) for place in range(len(pairs)))
    return max(_largest(one - together[place]) for place, one in enumerate(alone))


def _prefix(model: TransformerBridge, pairs: PromptPairs) -> float:
    """The largest |Δa| before the first differing token."""
    forward, largest = forward_of(model), 0.0
    for clean, corrupted in zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True):
        first = first_difference(clean, corrupted)
        base, source = (
            forward.run(tokens[None].to(forward.device)) for tokens in (clean, corrupted)
        )
        for site, activations in base.activations.items():
            before = source.activations[site][:, :first] - activations[:, :first]
            largest = max(largest, _largest(before))
    return largest


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


_CHECKS: tuple[tuple[str, str, Callable[[TransformerBridge, PromptPairs], float]], ...] = (
    ("completeness", "Σ IG of a layer, and the layer patched", _completeness),
    ("single path", "IG on the single path, and AP", _single_path),
    ("one left step", "IG with one left step, and the gradient at the base", _one_left_step),
    ("linear metric", "IG and attribution patching, and AP", _linear),
    ("quadratic metric", "IG, and the Shapley value", _quadratic),
    ("no change", "every score, and 0", _no_change),
    ("whole stream", "the residual stream patched, and the total effect", _whole_stream),
    ("company", "a prompt's scores alone, and among others", _alone),
    ("causality", "Δa before the first differing token, and 0", _prefix),
)
