"""Aligned baselines: IG and AP between the same two activations, on every task."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis import agreement
from analysis.agreement import Estimate, of_means
from analysis.attribution import Scores
from analysis.choices import KINDS, Kind
from analysis.studies import PROMPTS, both_methods, store, tidy
from analysis.tasks import TASKS, PromptPairs

# What a statistic is of: prompt-averaged scores, all or without the negligible ones, each prompt's
# scores, or the averages over two halves of the prompts.
OF_MEANS, NOT_NEGLIGIBLE = "of the means", "without negligible"
PER_PROMPT, HALVES = "per prompt", "across halves"
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the compared top sets
TOP = (10, 50, 200)  # of them, those that tables show
NEGLIGIBLE = 1e-5  # of the mean total effect
STATISTICS = {
    "Spearman": agreement.spearman,
    "sign agreement": agreement.sign_agreement,
    "slope": agreement.slope,
    "concordance": agreement.concordance,
}
KENDALL_RESAMPLES = 200  # one takes as long as one of all the others together


def aligned_baselines(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """How far IG and AP of all heads and neurons agree, with `baseline="source"`.

    Columns: task, direction, kind, scope, statistic, k, estimate, low, high, n; the statistics are
    those of `compare`. n prompts per task are drawn with the seed.
    """

    def compared(_: PromptPairs, ap: Scores, ig: Scores) -> pl.DataFrame:
        name = f"agreement-{ap.task}-{ap.direction}"
        return store.frame(name, lambda: compare(ap, ig, seed), ap, ig, seed)

    return pl.concat(compared(*of) for of in both_methods(model, n, seed, progress, tasks))


def compare(ap: Scores, ig: Scores, seed: int = 0) -> pl.DataFrame:
    """Every statistic of two methods' scores, with the columns of `aligned_baselines`.

    `k` is the size of the compared top sets, null for other statistics. Slopes are of IG on AP: 1.1
    says that IG is a tenth larger. A component is negligible by its AP. "largest gap" is IG's
    |completeness gap|, relative to the largest |total effect|. Without a kind: the mean metric of
    the "clean" and the "corrupted" run, and the mean "total effect".
    """
    found: list[tuple] = [(kind, *of) for kind in KINDS for of in _estimates(ap, ig, kind, seed)]
    runs = ("clean", "corrupted") if ap.direction == "noising" else ("corrupted", "clean")
    for name, values in zip((*runs, "total effect"), (ap.base, ap.source, ap.total), strict=True):
        found.append((None, PER_PROMPT, name, None, agreement.mean_over_prompts(values, seed)))
    about = {"task": ap.task, "direction": ap.direction}
    names = ("kind", "scope", "statistic", "k", "estimate")
    return tidy(about | dict(zip(names, of, strict=True)) | {"n": len(ap.prompts)} for of in found)


def _estimates(
    ap: Scores, ig: Scores, kind: Kind, seed: int
) -> Iterator[tuple[str, str, int | None, Estimate | float]]:
    """Scope, statistic, k and estimate of one kind."""
    a, b = (scores.of(kind).flatten(1).numpy() for scores in (ap, ig))
    matter = np.abs(a.mean(axis=0)) >= NEGLIGIBLE * abs(float(ap.total.mean()))
    for scope, one, other in ((OF_MEANS, a, b), (NOT_NEGLIGIBLE, a[:, matter], b[:, matter])):
        yield scope, "Pearson", None, agreement.correlation_of_means(one, other, kind, seed)
        for name, found in of_means(STATISTICS, one, other, seed).items():
            yield scope, name, None, found
    tau = of_means({"τ": agreement.kendall}, a, b, seed, KENDALL_RESAMPLES)["τ"]
    yield OF_MEANS, "Kendall", None, tau
    sizes = [k for k in SIZES if k < a.shape[1]]
    tops = {("overlap", k): agreement.overlap_at(k) for k in sizes}
    tops |= {("Jaccard", k): agreement.jaccard_at(k) for k in sizes if k in TOP}
    for (name, k), found in of_means(tops, a, b, seed).items():
        yield OF_MEANS, name, k, found
    for k in sizes:
        yield PER_PROMPT, "overlap", k, agreement.average(tops["overlap", k], a, b, seed)
    for name, statistic in (("Pearson", agreement.pearson), ("Spearman", agreement.spearman)):
        found = agreement.average(statistic, a, b, seed)
        yield PER_PROMPT, name, None, found
        yield PER_PROMPT, f"sd of {name}", None, found.sd
    if len(a) > 1:
        halves = agreement.split_halves(agreement.pearson, b, a, seed=seed)
        for name, found in zip(("IG", "AP", "IG against AP"), halves, strict=True):
            yield HALVES, name, None, found
    gaps = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}[kind]
    yield PER_PROMPT, "largest gap", None, float(gaps.abs().max() / ig.total.abs().max())


def mean_scores(ap: Scores, ig: Scores) -> pl.DataFrame:
    """Means over prompts: task, direction, kind, layer, component, ap, ig (in metric units)."""
    frames = []
    for kind in KINDS:
        one, other = (scores.of(kind).mean(dim=0).numpy() for scores in (ap, ig))
        layers, components = np.indices(one.shape)
        columns = {"layer": layers, "component": components, "ap": one, "ig": other}
        about = {"task": ap.task, "direction": ap.direction, "kind": kind}
        frames.append(pl.DataFrame(about | {name: of.ravel() for name, of in columns.items()}))
    return pl.concat(frames)
