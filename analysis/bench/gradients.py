"""What gradient methods cost: IG to a tolerance beside fixed steps, AtP beside a forward pass.

IG is measured layer by layer, each side once. The first two layers need many more nodes than the
others, so they stand for themselves and the rest is sampled: a row is of one layer's heads or
neurons, `layers` is how many layers it stands for, and `theirs` and `ours` are its seconds with its
share of what all sites need. `nodes` are the mean over prompts, `gap` is how far the attributions
are from summing to the layer's effect and `difference` the largest one between the two sides'
scores, both at most and relative to the largest |total effect|.

AtP is measured as a whole: all heads and neurons of all layers, both runs of each prompt included,
beside one forward pass of the model on the same clean prompts, in seconds for each repeat. What a
call takes once however many prompts there are, such as reading the model's weights, is left out.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.attribution_patching import differentiate
from analysis.attribution.integrated_gradients import (
    STEPS,
    TOLERANCE,
    integrate_jointly,
    integrate_jointly_to,
)
from analysis.attribution.quadrature import quadrature
from analysis.bench.machine import timed
from analysis.bench.rivals import Hooked, captum
from analysis.choices import KINDS
from analysis.forward import SiteKey, forward_of
from analysis.forward.engine import Gradients
from analysis.sites import Part, Plan, Site
from analysis.tasks import PromptPairs

CAPTUM_STEPS = 50  # the default of Captum
SAMPLED, REPEATS = 4, 3  # layers, and how often AtP is timed
Rival = Callable[[Hooked, Site], Tensor]
RIVALS: dict[str, Rival] = {
    f"{STEPS} steps": lambda hooked, site: integrate_jointly(
        site, *quadrature("gauss-legendre", STEPS)
    ),
    f"Captum's {CAPTUM_STEPS} steps": lambda hooked, site: captum(
        hooked, CAPTUM_STEPS, "gausslegendre"
    ),
}


def time_to_tolerance(
    model: TransformerBridge, pairs: dict[str, PromptPairs], rival: str
) -> Iterator[dict[str, Any]]:
    """A row per task, kind and sampled layer; each task's pairs have one length."""
    forward = forward_of(model)
    sites = len(forward.sites())
    for task, some in pairs.items():
        parts, running = timed(partial(list, Plan(forward, some).parts()))
        scale, judging = timed(parts[0].scale)
        starts, differentiating = timed(lambda parts=parts: [part.gradients() for part in parts])
        # The engine's fixed steps need both runs as well; Captum's seconds are all that it takes.
        shared = {
            "theirs": 0.0 if rival.startswith("Captum") else running / sites,
            "ours": (running + judging + differentiating) / sites,
        }
        for kind in KINDS:
            for layer, standing_for in layers_standing_for(forward.layers).items():
                found = [
                    _beside(model, part, start, (kind, layer), scale, rival)
                    for part, start in zip(parts, starts, strict=True)
                ]
                about = {"task": task, "rival": rival, "kind": kind, "layer": layer}
                yield about | {"layers": standing_for} | _together(found, shared)


def _beside(
    model: TransformerBridge, part: Part, starts: Gradients, key: SiteKey, scale: float, rival: str
) -> dict[str, Any]:
    """Both sides on the prompts of a part, without what all sites share."""
    site, hooked = (
        part.site(key),
        (model, (part.base.tokens, part.source.tokens), part.readout, key),
    )
    ours = partial(integrate_jointly_to, site, TOLERANCE * scale, starts[key])
    found, our_seconds = timed(ours)
    expected, their_seconds = timed(partial(RIVALS[rival], hooked, site))
    assert found.effect is not None and found.nodes is not None
    return {
        "theirs": their_seconds,
        "ours": our_seconds,
        "nodes": found.nodes.tolist(),
        "gap": ((found.values.sum(dim=1) - found.effect).abs().max() / scale).item(),
        "difference": ((found.values - expected).abs().max() / scale).item(),
    }


def _together(parts: list[dict[str, Any]], shared: dict[str, float]) -> dict[str, float]:
    """Seconds of all parts, with the site's share of what all need, and the rest as it is kept."""
    sums = {side: sum(part[side] for part in parts) + of for side, of in shared.items()}
    nodes = [count for part in parts for count in part["nodes"]]
    largest = {name: max(part[name] for part in parts) for name in ("gap", "difference")}
    return sums | {"nodes": sum(nodes) / len(nodes)} | largest


def time_attribution(
    model: TransformerBridge, pairs: dict[str, PromptPairs]
) -> Iterator[dict[str, Any]]:
    """A row per task; each task's pairs have one length."""
    forward = forward_of(model)

    def score_all(some: PromptPairs) -> None:
        for part in Plan(forward, some).parts():
            score = differentiate(part)
            for site in part.sites():
                score(site)

    for task, some in pairs.items():
        run, tokens = torch.no_grad()(model), torch.stack(some.clean_tokens)
        sides = {"forward": partial(run, tokens), "ours": partial(score_all, some)}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(1 + REPEATS):
            for side, work in sides.items():
                taken = timed(work)[1]
                seconds[side] += [taken] if repeat else []  # first calls are slow
        yield {"task": task, "prompts": len(some)} | seconds


def layers_standing_for(layers: int) -> dict[int, float]:
    """The first two layers and an even sample of the others: how many layers each stands for."""
    first = min(2, layers)
    others = evenly(layers - first, SAMPLED - first)
    share = (layers - first) / max(1, len(others))
    return dict.fromkeys(range(first), 1.0) | {first + other: share for other in others}


def evenly(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread."""
    chosen = min(count, most)
    return [(2 * index + 1) * count // (2 * chosen) for index in range(chosen)]


def tolerance_ratios(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A row per model and task: summed seconds of all layers' heads and neurons, and their ratio.

    `nodes` is the mean over layers and prompts; `gap` and `difference` are the largest ones.
    """
    every = pl.DataFrame(rows, schema_overrides={"layers": pl.Float64})
    theirs, ours, nodes = (
        (pl.col(name) * pl.col("layers")).sum() for name in ("theirs", "ours", "nodes")
    )
    return every.group_by("model", "task", "rival", maintain_order=True).agg(
        theirs=theirs,
        ours=ours,
        ratio=theirs / ours,
        nodes=nodes / pl.col("layers").sum(),
        gap=pl.col("gap").max(),
        difference=pl.col("difference").max(),
    )


def attribution_ratios(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A row per model and task: how many forward passes AtP of everything takes.

    The median over repeats, with the lowest and the highest as `low` and `high`.
    """
    repeats = pl.DataFrame(rows).explode("forward", "ours")
    passes = pl.col("ours") / pl.col("forward")
    return repeats.group_by("model", "task", maintain_order=True).agg(
        passes=passes.median(), low=passes.min(), high=passes.max(), prompts=pl.first("prompts")
    )
