"""How many steps are enough: the completeness gap and the agreement with AP by rule and steps."""

import numpy as np
import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import pearson
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.quadrature import RULES
from analysis.forward import KINDS
from analysis.studies.cache import cached_scores
from analysis.tasks import TASKS, load_task

PROMPTS = 8
STEPS = (2, 4, 8, 16, 32, 64, 128)
ENOUGH = 1e-3


def steps(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> pl.DataFrame:
    """Columns: task, kind, layer, rule, steps, gap, r.

    `gap` is the largest |completeness gap| of any prompt, relative to the largest |total effect|;
    `r` is Pearson's r with AP of the layer's prompt-averaged scores.
    """
    frames = []
    for task in TASKS:
        pairs = load_task(task, model, n=n, seed=seed)
        ap = cached_scores(activation_patching, model, pairs, progress=progress)
        for rule in RULES:
            for count in STEPS:
                ig = cached_scores(
                    integrated_gradients, model, pairs, steps=count, rule=rule, progress=progress
                )
                frames += [_by_layer(ap, ig, kind, rule, count) for kind in KINDS]
    return pl.concat(frames)


def enough(frame: pl.DataFrame, gap: float = ENOUGH) -> pl.DataFrame:
    """The fewest steps from which on the gap is small, by task, kind and layer, for one rule each.

    Columns: task, kind, layer, rule, steps; steps is null where the most are not enough.
    """
    keys = ["task", "kind", "layer", "rule"]
    too_few = frame.filter(pl.col("gap") > gap).group_by(keys).agg(pl.col("steps").max())
    following = dict(zip((0, *STEPS), (*STEPS, None), strict=True))
    return (
        frame.select(keys)
        .unique(maintain_order=True)
        .join(too_few, on=keys, how="left", maintain_order="left")
        .with_columns(
            pl.col("steps")
            .fill_null(0)
            .map_elements(following.get, return_dtype=pl.Int64, skip_nulls=False)
        )
    )


def _by_layer(ap: Scores, ig: Scores, kind: str, rule: str, count: int) -> pl.DataFrame:
    gaps = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}[kind]
    relative = (gaps.abs().amax(dim=0) / ig.total.abs().max()).numpy()
    means = (scores.of(kind).mean(dim=0).double().numpy() for scores in (ig, ap))
    layers = np.arange(len(relative))
    return pl.DataFrame(
        {"layer": layers, "gap": relative.astype(float), "r": pearson(*means)}
    ).select(
        pl.lit(ap.task).alias("task"),
        pl.lit(kind).alias("kind"),
        "layer",
        pl.lit(rule).alias("rule"),
        pl.lit(count).alias("steps"),
        "gap",
        "r",
    )
