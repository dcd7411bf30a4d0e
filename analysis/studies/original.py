"""The original, repaired: each of its faults on the model of record, beside the right number.

`analysis.studies.faults` makes the faults, `analysis.studies.record` has what was published.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution import activation_patching, integrated_gradients
from analysis.studies import faults
from analysis.studies.aligned_baselines import PROMPTS
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.faults import Run
from analysis.tasks import TASKS, load_task

LAST_TOKEN, END_OF_PADDING = "last token", "end of the padding"
# Both methods are run once more on padded prompts: on so many, in the design's first step count.
PADDED_PROMPTS, PADDED_STEPS = 40, 16


@dataclass(frozen=True)
class Original:
    """A frame a fault; the functions of `analysis.studies.faults` have their columns."""

    padding: pl.DataFrame
    denominators: pl.DataFrame
    completeness: pl.DataFrame
    wrong_data: pl.DataFrame
    indexing: pl.DataFrame
    stale_name: pl.DataFrame
    endings: pl.DataFrame
    signs: pl.DataFrame
    late_binding: pl.DataFrame
    quantiles: pl.DataFrame
    borrowed: pl.DataFrame


def original(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> Original:
    """Every fault on n prompts a task; the scores are those of the aligned baselines."""
    runs = [_run(model, task, n, seed, progress) for task in TASKS]
    by_task = {run.pairs.task: run for run in runs}
    ioi = by_task["ioi"]

    def over_tasks(fault: Callable[[TransformerBridge, Run], pl.DataFrame]) -> pl.DataFrame:
        name = fault.__name__.replace("_", "-")
        return pl.concat(
            cached_frame(
                f"{name}-{run.pairs.task}",
                lambda run=run: fault(model, run),
                *(model, run.pairs, run.ap, run.ig),
            )
            for run in runs
        )

    def borrowed(model: TransformerBridge, run: Run) -> pl.DataFrame:
        return faults.borrowed(model, run, ioi)

    def signs(model: TransformerBridge, run: Run) -> pl.DataFrame:
        denoising = cached_scores(
            integrated_gradients, model, run.pairs, direction="denoising", progress=progress
        )
        return faults.signs(model, run, denoising)

    return Original(
        padding=over_tasks(faults.padding),
        denominators=pl.concat(
            [
                *(faults.denominators(run.ap, run.ig, LAST_TOKEN) for run in runs),
                *(_padded_denominators(model, run, progress) for run in runs),
            ]
        ),
        completeness=pl.concat(faults.completeness(run, model.cfg.d_model) for run in runs),
        wrong_data=faults.wrong_data(model, by_task["greater-than"], by_task["gender-bias"]),
        indexing=faults.indexing(model),
        stale_name=faults.stale_name(model),
        endings=faults.endings(model),
        signs=over_tasks(signs),
        late_binding=over_tasks(faults.late_binding),
        quantiles=pl.concat(faults.quantiles(run) for run in runs),
        borrowed=over_tasks(borrowed),
    )


def _run(model: TransformerBridge, task: str, n: int, seed: int, progress: bool | None) -> Run:
    pairs = load_task(task, model, n=n, seed=seed)
    ap, ig = (
        cached_scores(method, model, pairs, direction="noising", progress=progress)
        for method in (activation_patching, integrated_gradients)
    )
    return Run(pairs, ap, ig)


def _padded_denominators(model: TransformerBridge, run: Run, progress: bool | None) -> pl.DataFrame:
    """The first prompts alone, in the lengths that the whole batch pads them to."""
    padded = faults.right_padded(model, run.pairs)
    pairs = padded.select(range(min(PADDED_PROMPTS, len(padded))))
    heads = {"kinds": ("heads",), "progress": progress}
    ap = cached_scores(activation_patching, model, pairs, **heads)
    ig = cached_scores(integrated_gradients, model, pairs, steps=PADDED_STEPS, **heads)
    return faults.denominators(ap, ig, END_OF_PADDING)
