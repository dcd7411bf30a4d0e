"""The original study's denominator: r of the heads' IG and AP, AP divided by each prompt's effect.

m(clean) - m(corrupted) can be negative on a prompt, above all where the metric is read at the end
of padding, as it was. All of the prompt's AP then has the wrong sign, and so has its r. The other
faults are a few lines each, which run on the page; this one takes both methods on padded prompts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import average_correlation, correlations
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.studies import PROMPTS, both_methods, store, tidy
from analysis.tasks import TASKS, PromptPairs

LAST_TOKEN, END_OF_PADDING = "last token", "end of the padding"
# Both methods run once more on padded prompts: on so many, with so many steps.
PADDED_PROMPTS, PADDED_STEPS = 40, 16


def original(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: Sequence[str] = tuple(TASKS),
) -> pl.DataFrame:
    """How each prompt's denominator changes r of the heads' IG and AP over prompts, noising.

    Columns: task, reading (where the metric is read), version (`wrong`: AP divided by the prompt's
    m(clean) - m(corrupted); `right`: not divided) and statistic: `r` as a mean over prompts,
    its standard deviation `sd`, the mean `|r|`, and `flips`, on how many prompts the denominator is
    negative. The padded prompts are the first 40 of each task.
    """
    rows = []
    for pairs, *whole in both_methods(model, n, seed, progress, tasks, ("noising",)):
        few = right_padded(model, pairs).select(range(min(PADDED_PROMPTS, len(pairs))))
        heads: dict[str, Any] = {"kinds": ("heads",), "progress": progress}
        padded = (
            store.scores(activation_patching, model, few, **heads),
            store.scores(integrated_gradients, model, few, **heads, steps=PADDED_STEPS),
        )
        for reading, scores in ((LAST_TOKEN, whole), (END_OF_PADDING, padded)):
            about = {"task": pairs.task, "reading": reading}
            rows += [about | row for row in denominators(*scores)]
    return tidy(rows)


def right_padded(model: TransformerBridge, pairs: PromptPairs) -> PromptPairs:
    """The pairs as `to_tokens` pads a list of them: of one length, read at its end.

    Without texts, because no text has these tokens.
    """
    clean, corrupted = (model.to_tokens(side).cpu() for side in (pairs.clean, pairs.corrupted))
    tokens = {"clean_tokens": list(clean), "corrupted_tokens": list(corrupted)}
    return replace(pairs, clean=[""] * len(pairs), corrupted=[""] * len(pairs), **tokens)


def denominators(ap: Scores, ig: Scores) -> Iterator[dict[str, Any]]:
    """The statistics of one task and reading, as rows; both scores are noising."""
    effect = -ap.total
    divided = average_correlation(ap.heads / effect[:, None, None], ig.heads)
    found = {
        ("wrong", "r"): divided,
        ("wrong", "sd"): divided.sd,
        ("wrong", "|r|"): float(np.nanmean(np.abs(correlations(ap.heads, ig.heads)))),
        ("wrong", "flips"): int((effect < 0).sum()),
        ("right", "r"): average_correlation(ap.heads, ig.heads),
    }
    for (version, statistic), estimate in found.items():
        row = {"version": version, "statistic": statistic, "estimate": estimate}
        yield row | {"n": len(effect)}
