"""The headline on every model: each training seed, and an untrained network of the same shape."""

from dataclasses import dataclass

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import of_means, overlap_at, pearson, spearman
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.parts import DIRECTIONS
from analysis.forward import KINDS
from analysis.models import available_testbeds
from analysis.studies import UNTRAINED, is_testbed, loaded, model_name
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.comparison import wide
from analysis.tasks import TASKS, load_task

PROMPTS = 12
PEARSON, SPEARMAN, OVERLAP = "Pearson's r", "Spearman's ρ", "the overlap of the top 10"
STATISTICS = {PEARSON: pearson, SPEARMAN: spearman, OVERLAP: overlap_at(10)}


@dataclass(frozen=True)
class AcrossModels:
    """The headline for each model.

    Attributes:
        headline: columns model, task, direction, kind, statistic, and the estimate (mean, sd, low,
            high) of the prompt-averaged scores.
    """

    headline: pl.DataFrame

    def table(self, statistic: str) -> pl.DataFrame:
        """One statistic, a column a model."""
        rows = self.headline.filter(pl.col("statistic") == statistic)
        models = rows["model"].unique(maintain_order=True).to_list()
        return wide(rows, "model", ["task", "direction", "kind"], models)

    def finding(self, statistic: str) -> str:
        """The range over trained models beside the untrained one's, in a sentence."""
        rows = self.headline.filter(pl.col("statistic") == statistic)
        control = pl.col("model") == UNTRAINED
        trained, untrained = rows.filter(~control)["mean"], rows.filter(control)["mean"]
        models = rows.filter(~control)["model"].n_unique()
        found = f"{_between(trained)} on {models} trained model{'s' if models > 1 else ''}"
        if len(untrained):
            found += f", and {_between(untrained)} on an untrained network of the same shape"
        return f"{statistic[0].upper()}{statistic[1:]} lies {found}."


def models_compared() -> list[str]:
    """Every testbed if the report is about one, else the model of record; and the control."""
    name = model_name()
    return [*(available_testbeds() if is_testbed(name) else [name]), UNTRAINED]


def across_models(
    names: list[str] | None = None,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> AcrossModels:
    """The headline on the same prompts for each model; the control has the record's shape."""
    frames = []
    for name in models_compared() if names is None else names:
        model = loaded(name)
        frames += [
            _headline(model, task, direction, n, seed, progress).select(
                pl.lit(name).alias("model"), pl.all()
            )
            for task in tasks
            for direction in DIRECTIONS
        ]
    return AcrossModels(pl.concat(frames))


def _headline(
    model: TransformerBridge,
    task: str,
    direction: str,
    n: int,
    seed: int,
    progress: bool | None,
) -> pl.DataFrame:
    pairs = load_task(task, model, n=n, seed=seed)
    ap, ig = (
        cached_scores(method, model, pairs, direction=direction, progress=progress)
        for method in (activation_patching, integrated_gradients)
    )
    name = f"headline-{task}-{direction}"
    return cached_frame(name, lambda: _compare(ap, ig, seed), ap, ig, seed)


def _compare(ap: Scores, ig: Scores, seed: int) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"task": ap.task, "direction": ap.direction, "kind": kind, "statistic": statistic}
            | estimate._asdict()
            for kind in KINDS
            for statistic, estimate in of_means(STATISTICS, ap.of(kind), ig.of(kind), seed).items()
        ]
    )


def _between(values: pl.Series) -> str:
    return f"between {values.min():.2f} and {values.max():.2f}"
