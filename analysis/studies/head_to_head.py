"""Which heads change which: on the notebooks' worked example, then on every task's prompts."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.mediation import MEASURES, REACHED, dense_effects
from analysis.metrics import logit_diff
from analysis.studies import faults
from analysis.studies.cache import cached_frame
from analysis.studies.faults import ANSWERS, EXAMPLE
from analysis.tasks import TASKS, Example, PromptPairs, load_task
from analysis.tasks.pairs import build_pairs

PROMPTS = 12
_SOURCE = ["layer", "component"]
_PAIR = [*_SOURCE, "later_layer", "later_component"]


@dataclass(frozen=True)
class HeadToHead:
    """Which heads change which: frames of `head_changes`, noising.

    Attributes:
        example: the worked example alone.
        tasks: each task's prompts, with a column task in front.
        wrong: what the notebook's own index changes, see `analysis.studies.faults.indexing`.
    """

    example: pl.DataFrame
    tasks: pl.DataFrame
    wrong: pl.DataFrame

    def reached(self) -> pl.DataFrame:
        """What each of the example's heads changes, a row a head that has later ones.

        Columns layer, component, later (how many heads), changed (at all), reached (by more than
        5 % of their own difference), and the strongest relative change with the head it is on.
        """
        strongest = pl.col("relative").arg_max()
        return self.example.group_by(_SOURCE, maintain_order=True).agg(
            later=pl.len(),
            changed=(pl.col("norm") > 0).sum(),
            reached=(pl.col("relative") > REACHED).sum(),
            relative=pl.col("relative").max(),
            strongest_layer=pl.col("later_layer").get(strongest),
            strongest_component=pl.col("later_component").get(strongest),
        )

    def drawn_from(self, edges: int = 40) -> float:
        """The relative change, rounded to a hundredth, above which about so many pairs are."""
        ordered = self.example["relative"].drop_nulls().sort(descending=True)
        return round(float(ordered[min(edges, len(ordered)) - 1]), 2)

    def layers(self) -> pl.DataFrame:
        """The mean relative change over the pairs of two layers, a column a later layer."""
        rows = self.tasks.group_by("task", "layer", "later_layer", maintain_order=True).agg(
            pl.col("relative").mean()
        )
        return (
            rows.select(
                "task",
                "layer",
                later=pl.format("on layer {}", "later_layer"),
                text=pl.col("relative").map_elements("{:.0%}".format, return_dtype=pl.String),
            )
            .pivot("later", index=["task", "layer"], values="text", maintain_order=True)
            .fill_null("–")
        )

    def finding(self) -> str:
        """What the example shows, in Markdown."""
        reached = self.reached()
        later, changed, far = (int(reached[name].sum()) for name in ("later", "changed", "reached"))
        most = reached.sort("relative", descending=True, nulls_last=True).row(0, named=True)
        return (
            f"Of the {later:,} pairs of a head and a later one, patching the first changes the "
            f"second in {changed:,} at all, and in {far:,} by more than {REACHED:.0%} of what "
            f"differs between the two prompts there. The largest change is that of head "
            f"{most['layer']}.{most['component']} on head "
            f"{most['strongest_layer']}.{most['strongest_component']}, {most['relative']:.0%}."
        )


def head_to_head(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> HeadToHead:
    """The worked example, and n prompts of each task."""

    def changes(pairs: PromptPairs) -> pl.DataFrame:
        return cached_frame(
            f"heads-{pairs.task}",
            lambda: head_changes(model, pairs, progress),
            *(model, pairs),
        )

    return HeadToHead(
        example=changes(example_pairs(model)),
        tasks=pl.concat(
            changes(load_task(task, model, n=n, seed=seed)).select(
                pl.lit(task).alias("task"), pl.all()
            )
            for task in tasks
        ),
        wrong=faults.indexing(model),
    )


def example_pairs(model: TransformerBridge) -> PromptPairs:
    """The notebooks' example without its trailing space, its labels with theirs."""
    right, wrong = ((f" {name}",) for name in ANSWERS)
    return build_pairs("example", logit_diff, [[Example(*EXAMPLE, right, wrong)]], model)


def head_changes(
    model: TransformerBridge, pairs: PromptPairs, progress: bool | None = None
) -> pl.DataFrame:
    """What each head, patched alone, changes in each later head: means over prompts, noising.

    Columns layer, component, later_layer, later_component, norm, relative, projection (see
    `analysis.mediation.targets`), and reach, the share of prompts on which the relative change is
    over 5 %. A prompt on which a relative change is undefined is left out of the mean; null where
    it is undefined on all.
    """
    means = dense_effects(model, pairs, "heads", "heads", progress=progress).nanmean(dim=1)
    places = np.indices(means.shape[1:])
    columns = dict(zip(_PAIR, places, strict=True)) | dict(
        zip(MEASURES, means.numpy(), strict=True)
    )
    frame = pl.DataFrame({name: values.ravel() for name, values in columns.items()})
    return frame.filter(pl.col("later_layer") > pl.col("layer")).fill_nan(None)
