"""The headline on every model: each training seed, and an untrained network of the same shape."""

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import of_means, overlap_at, pearson, spearman
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.forward import KINDS
from analysis.models import load_model, load_untrained
from analysis.studies.cache import cached_frame, cached_scores
from analysis.tasks import TASKS, load_task

PROMPTS = 24
STATISTICS = {"Pearson": pearson, "Spearman": spearman, "overlap of the top 10": overlap_at(10)}
UNTRAINED = "untrained"


def across_models(
    names: list[str], n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> pl.DataFrame:
    """Columns: model, task, kind, statistic, mean, sd, low, high; noising, of the means.

    The untrained control has the shape of the first model.
    """
    frames = []
    for name in [*names, UNTRAINED]:
        model = load_untrained(names[0]) if name == UNTRAINED else load_model(name)
        frames += [_one_task(name, model, task, n, seed, progress) for task in TASKS]
    return pl.concat(frames)


def _one_task(
    name: str, model: TransformerBridge, task: str, n: int, seed: int, progress: bool | None
) -> pl.DataFrame:
    pairs = load_task(task, model, n=n, seed=seed)
    ap, ig = (
        cached_scores(method, model, pairs, progress=progress)
        for method in (activation_patching, integrated_gradients)
    )
    frame = cached_frame(f"headline-{task}", lambda: _compare(ap, ig, seed), ap, ig, seed)
    return frame.select(pl.lit(name).alias("model"), pl.all())


def _compare(ap: Scores, ig: Scores, seed: int) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"task": ap.task, "kind": kind, "statistic": statistic} | estimate._asdict()
            for kind in KINDS
            for statistic, estimate in of_means(STATISTICS, ap.of(kind), ig.of(kind), seed).items()
        ]
    )
