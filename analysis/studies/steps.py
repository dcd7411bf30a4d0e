"""How many steps are enough, and what makes a layer need more of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import pearson, spearman
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.quadrature import RULES
from analysis.forward import KINDS
from analysis.studies.cache import cached_frame, cached_scores
from analysis.tasks import TASKS, PromptPairs, load_task

PROMPTS = 8
STEPS = (2, 4, 8, 16, 32)
ENOUGH = 1e-3
# So few that the gap still tells layers apart, for Gauss-Legendre's nodes.
FEW = 8
# What float32 leaves of a gap that is 0.
ROUNDING = 1e-5
_RULE = pl.col("rule") == "gauss-legendre"
NOTHING = ("nothing", 0)
_HOOKS = {"heads": "blocks.{}.attn.hook_z", "neurons": "blocks.{}.mlp.hook_post"}


@dataclass(frozen=True)
class Steps:
    """How exact IG is with few steps, and what moves where it is not.

    Attributes:
        gaps: columns task, kind, layer, rule, steps, gap (the largest |completeness gap| of any
            prompt, relative to the largest |total effect|), and r (Pearson's r with AP of the
            layer's prompt-averaged scores).
        attention: columns task, kind, layer, prompt, moved: how far the attention of the later
            heads moves when the whole layer is patched, the largest total variation of any of them
            at any position.
        few: columns task, kind, layer, prompt, gap with `FEW` Gauss-Legendre steps.
    """

    gaps: pl.DataFrame
    attention: pl.DataFrame
    few: pl.DataFrame

    def worst(self) -> pl.DataFrame:
        """The largest gap of any task, kind and layer: columns rule, steps, gap."""
        return self.gaps.group_by("rule", "steps", maintain_order=True).agg(pl.col("gap").max())

    def orders_table(self) -> pl.DataFrame:
        """The order of each rule: minus the slope of log gap on log steps, where there is one."""
        falling = self.worst().filter(pl.col("steps") >= FEW, pl.col("gap") > ROUNDING)
        return pl.DataFrame(
            [
                {"rule": rule, "order": _order(falling.filter(pl.col("rule") == rule))}
                for rule in RULES
            ]
        )

    def agreement(self) -> pl.DataFrame:
        """The lowest r of any layer by Gauss-Legendre's steps: columns task, kind, steps, r."""
        keys = ["task", "kind", "steps"]
        return self.gaps.filter(_RULE).group_by(keys, maintain_order=True).agg(pl.col("r").min())

    def enough_table(self) -> pl.DataFrame:
        """Gauss-Legendre's fewest steps by layer, and how far attention moves there."""
        moved = self.attention.group_by("task", "kind", "layer").agg(pl.col("moved").mean())
        fewest = enough(self.gaps.filter(_RULE)).join(
            moved, on=["task", "kind", "layer"], maintain_order="left"
        )
        text = pl.format(
            "{} ({})",
            pl.col("steps").cast(pl.String).fill_null(f"over {STEPS[-1]}"),
            pl.col("moved").map_elements("{:.2f}".format, return_dtype=pl.String),
        )
        return fewest.select(
            "task", "kind", pl.format("layer {}", "layer").alias("layer"), text=text
        ).pivot("layer", index=["task", "kind"], values="text", maintain_order=True)

    def finding(self) -> str:
        """How many steps are enough, and where many are needed, in Markdown."""
        fewest = enough(self.gaps.filter(_RULE))["steps"]
        layers = "every layer of every task"
        if fewest.null_count():
            layers = f"{fewest.count()} of {len(fewest)} layers"
        most = STEPS[-1] if fewest.null_count() else fewest.max()
        prompts = self.few["prompt"].n_unique()
        both = self.few.join(self.attention, on=["task", "kind", "layer", "prompt"]).filter(
            pl.col("layer") < pl.col("layer").max()  # no head follows the last layer
        )
        (rho,) = spearman(both["gap"].to_numpy()[None], both["moved"].to_numpy()[None])
        return (
            f"Gauss-Legendre brings {layers} under a gap of {ENOUGH:g} with {most} steps, on "
            f"{prompts} prompts a task. Layers need more steps where patching them turns later "
            "heads' attention from one token to another: along most of that path attention is "
            "saturated, and it changes on a short piece of it. With "
            f"{FEW} steps Spearman's ρ between a prompt's gap at a layer and how far attention "
            f"moves is {rho:.2f} over {len(both)} prompts and layers."
        )


def steps(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> Steps:
    """Every rule and number of steps on every task, noising."""
    gaps, attention, few = [], [], []
    for task in tasks:
        pairs = load_task(task, model, n=n, seed=seed)
        ap = cached_scores(activation_patching, model, pairs, progress=progress)
        for rule in RULES:
            for count in STEPS:
                ig = cached_scores(
                    integrated_gradients, model, pairs, steps=count, rule=rule, progress=progress
                )
                gaps += [_by_layer(ap, ig, kind, rule, count) for kind in KINDS]
                if rule == "gauss-legendre" and count == FEW:
                    few += [_by_prompt(ig, kind) for kind in KINDS]
        attention.append(
            cached_frame(
                f"attention-{task}",
                lambda pairs=pairs: attention_moved(model, pairs),
                *(model, pairs),
            )
        )
    return Steps(pl.concat(gaps), pl.concat(attention), pl.concat(few))


def enough(gaps: pl.DataFrame, gap: float = ENOUGH) -> pl.DataFrame:
    """The fewest steps from which on the gap is small, by task, kind and layer, for one rule each.

    Columns: task, kind, layer, rule, steps; steps is null where the most are not enough.
    """
    keys = ["task", "kind", "layer", "rule"]
    too_few = gaps.filter(pl.col("gap") > gap).group_by(keys).agg(pl.col("steps").max())
    following = dict(zip((0, *STEPS), (*STEPS, None), strict=True))
    return (
        gaps.select(keys)
        .unique(maintain_order=True)
        .join(too_few, on=keys, how="left", maintain_order="left")
        .with_columns(
            pl.col("steps")
            .fill_null(0)
            .map_elements(following.get, return_dtype=pl.Int64, skip_nulls=False)
        )
    )


@torch.no_grad()
def attention_moved(model: TransformerBridge, pairs: PromptPairs) -> pl.DataFrame:
    """Columns task, kind, layer, prompt, moved, as `Steps.attention`, through the bridge's hooks.

    Half the summed difference of two attention patterns, 0 for the same and 1 for patterns that
    share no position; 0 for the last layer, which no head follows.
    """
    rows = []
    for prompt, (clean, corrupted) in enumerate(
        zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)
    ):
        patterns = dict(_patterns(model, clean[None], corrupted[None]))
        before = patterns.pop(NOTHING)
        for (kind, layer), after in patterns.items():
            moved = (after - before).abs().sum(dim=-1) / 2
            largest = float(moved[layer + 1 :].max()) if layer + 1 < len(moved) else 0.0
            rows.append({"kind": kind, "layer": layer, "prompt": prompt, "moved": largest})
    return pl.DataFrame(rows).select(pl.lit(pairs.task).alias("task"), pl.all())


def _patterns(
    model: TransformerBridge, base: Tensor, source: Tensor
) -> Iterator[tuple[tuple[str, int], Float[Tensor, "layer prompt head to from"]]]:
    """Every head's attention, in the base run and with each whole layer patched."""
    layers = range(model.cfg.n_layers)
    sites = {(kind, layer): _HOOKS[kind].format(layer) for kind in KINDS for layer in layers}
    _, cache = model.run_with_cache(source, names_filter=list(sites.values()))
    found: dict[str, Tensor] = {}

    def keep(pattern: Tensor, hook: HookPoint) -> None:
        found[str(hook.name)] = pattern.clone()

    def patch(_: Tensor, hook: HookPoint) -> Tensor:
        return cache[str(hook.name)]

    keepers = [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in layers]
    for site in (NOTHING, *sites):
        patches = [] if site == NOTHING else [(sites[site], patch)]
        model.run_with_hooks(base, fwd_hooks=[*patches, *keepers])
        yield site, torch.stack([found[name] for name, _ in keepers])


def _order(falling: pl.DataFrame) -> str:
    if falling.height < 2:
        return f"under {ROUNDING:g} after {FEW} steps"
    slope, _ = np.polyfit(falling["steps"].log(), falling["gap"].log(), 1)
    return f"{-slope:.1f}"


def _by_layer(ap: Scores, ig: Scores, kind: str, rule: str, count: int) -> pl.DataFrame:
    means = (scores.of(kind).mean(dim=0).double().numpy() for scores in (ig, ap))
    gaps = _relative_gaps(ig, kind).max(axis=0)
    values = {"layer": np.arange(len(gaps)), "gap": gaps, "r": pearson(*means)}
    return pl.DataFrame(values).select(
        pl.lit(ap.task).alias("task"),
        pl.lit(kind).alias("kind"),
        "layer",
        pl.lit(rule).alias("rule"),
        pl.lit(count).alias("steps"),
        "gap",
        "r",
    )


def _by_prompt(ig: Scores, kind: str) -> pl.DataFrame:
    gaps = _relative_gaps(ig, kind)
    prompts, layers = np.indices(gaps.shape)
    values = {"layer": layers.ravel(), "prompt": prompts.ravel(), "gap": gaps.ravel()}
    return pl.DataFrame(values).select(
        pl.lit(ig.task).alias("task"), pl.lit(kind).alias("kind"), pl.all()
    )


def _relative_gaps(ig: Scores, kind: str) -> Float[np.ndarray, "prompt layer"]:
    gaps = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}[kind]
    return (gaps.abs() / ig.total.abs().max()).numpy().astype(float)
