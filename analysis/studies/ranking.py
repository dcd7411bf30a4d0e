"""Components ranked on one half of the prompts, so that what they do can be seen on the other.

A set that is chosen and tested on the same prompts looks better than it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import activation_differences, multi_ablated_performance
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.parts import DIRECTIONS
from analysis.studies.cache import cached_scores
from analysis.tasks import PromptPairs, load_task


@dataclass(frozen=True)
class Ranking:
    """IG and AP of one task in one direction; every other prompt ranks, the others test."""

    model: TransformerBridge
    pairs: PromptPairs
    ap: Scores
    ig: Scores

    @property
    def place(self) -> dict[str, str]:
        """The columns that say what this is about."""
        return {"task": self.ap.task, "direction": self.ap.direction}

    @cached_property
    def tested(self) -> PromptPairs:
        """The prompts that play no part in the ranking."""
        return self.pairs.select(range(1, len(self.pairs), 2))

    @property
    def total(self) -> float:
        """The tested prompts' mean total effect."""
        return float(self.ap.total[1::2].mean())

    def ranked(self, kind: str) -> dict[str, Float[np.ndarray, "layer component"]]:
        """The ranking half's mean scores, and how much each activation differs, ‖Δa‖."""
        half = self.pairs.select(range(0, len(self.pairs), 2))
        return {
            "IG": self.ig.of(kind)[::2].mean(dim=0).numpy(),
            "AP": self.ap.of(kind)[::2].mean(dim=0).numpy(),
            "‖Δa‖": activation_differences(self.model, half, kind),
        }

    def metric(
        self, sets: np.ndarray, kind: str, baseline: str = "source", keep: bool = False
    ) -> Float[np.ndarray, "set prompt"]:
        """The tested prompts' metric when each set is ablated, or kept alone."""
        return multi_ablated_performance(
            self.model, self.tested, sets, kind, self.ap.direction, baseline, keep
        ).numpy()


def rankings(
    model: TransformerBridge, tasks: tuple[str, ...], n: int, seed: int, progress: bool | None
) -> Iterator[Ranking]:
    """Every task's, in both directions, from the scores of the aligned baselines."""
    for task in tasks:
        pairs = load_task(task, model, n=n, seed=seed)
        for direction in DIRECTIONS:
            ap, ig = (
                cached_scores(method, model, pairs, direction=direction, progress=progress)
                for method in (activation_patching, integrated_gradients)
            )
            yield Ranking(model, pairs, ap, ig)
