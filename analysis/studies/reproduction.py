"""What others published of GPT-2 small, beside what the model of record gives.

`analysis.studies.record` has the published figures.
"""

from dataclasses import dataclass

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import mean_over_prompts
from analysis.attribution import Scores, activation_patching
from analysis.forward import KINDS
from analysis.studies import record
from analysis.studies.aligned_baselines import PROMPTS, AlignedBaselines, aligned_baselines
from analysis.studies.cache import cached_scores
from analysis.studies.comparison import PER_PROMPT
from analysis.tasks import load_task

NOT_THERE = "–"
# The task whose published corrupted prompts are of another kind than this report's.
OTHER_CORRUPTION = "ioi", "abc"


@dataclass(frozen=True)
class Reproduction:
    """Published figures of GPT-2 small beside the model's own, as tables.

    Attributes:
        metrics: task, prompts (which run), published, here (the mean with its interval).
        correlations: task, kind, reported (the original's r over prompts, with its standard
            deviation), recomputed (its mean |r|, heads only), here (r over prompts with its
            interval), all noising.
        heads: task, role, published (heads of GPT-2 small's circuit), ranks here (of these heads
            by |mean AP|, where the model has them), strongest here (as many, by the same).
    """

    metrics: pl.DataFrame
    correlations: pl.DataFrame
    heads: pl.DataFrame


def reproduction(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> Reproduction:
    """On the scores of the aligned baselines, and IOI's published kind of corrupted prompts."""
    study = aligned_baselines(model, n=n, seed=seed, progress=progress)
    task, corruption = OTHER_CORRUPTION
    pairs = load_task(task, model, n=n, seed=seed, corruption=corruption)
    other = cached_scores(activation_patching, model, pairs, kinds=(), progress=progress)
    return Reproduction(_metrics(study, other), _correlations(study), _heads(study))


def _metrics(study: AlignedBaselines, other: Scores) -> pl.DataFrame:
    rows = []
    for published in record.METRICS.iter_rows(named=True):
        task = published["task"]
        for run in ("clean", "corrupted"):
            apart = task == other.task and run == "corrupted"
            metric = mean_over_prompts(other.source) if apart else study.mean_metric(task, run)
            about = f"{run}, a third name" if apart else run
            rows.append((task, about, f"{published[run]:.3f}", str(metric)))
    return pl.DataFrame(rows, schema=["task", "prompts", "published", "here"], orient="row")


def _correlations(study: AlignedBaselines) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "task": row["task"],
                "kind": kind,
                "reported": f"{row[kind]:.3f} ({row[f'{kind}_sd']:.2g})",
                "recomputed": f"{row['absolute']:.3f}" if kind == "heads" else NOT_THERE,
                "here": str(study.estimate(row["task"], kind, scope=PER_PROMPT)),
            }
            for row in record.CORRELATIONS.iter_rows(named=True)
            for kind in KINDS
        ]
    )


def _heads(study: AlignedBaselines) -> pl.DataFrame:
    rows = []
    for (task, role), heads in record.HEADS.items():
        ranked = _ranked_heads(study, task)
        there = all(head in ranked for head in heads)
        ranks = _listed([str(ranked.index(head) + 1) for head in heads] if there else [NOT_THERE])
        named = (_listed(map(_name, chosen)) for chosen in (heads, ranked[: len(heads)]))
        published, strongest = named
        rows.append((task, role, published, ranks, strongest))
    columns = ["task", "role", "published", "ranks here", "strongest here"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _ranked_heads(study: AlignedBaselines, task: str) -> list[tuple[int, int]]:
    """Every head as (layer, head), the largest |mean AP| first."""
    heads = study.scores_of(task).filter(pl.col("kind") == "heads")
    ranked = heads.sort(pl.col("ap").abs(), descending=True, maintain_order=True)
    return list(ranked.select("layer", "component").iter_rows())


def _name(head: tuple[int, int]) -> str:
    return "{}.{}".format(*head)


def _listed(names) -> str:
    return ", ".join(names)
