"""The aligned baselines: every number under its own name, on made-up scores and a tiny model."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import kendalltau, linregress, pearsonr, spearmanr
from studies import made

from analysis import Scores, activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import average_correlation, correlation_of_means
from analysis.choices import DIRECTIONS, KINDS
from analysis.studies import aligned_baselines as study
from analysis.studies import both_methods, one
from analysis.studies.aligned_baselines import HALVES, OF_MEANS, PER_PROMPT
from analysis.tasks import TASKS

LARGE = study.NOT_NEGLIGIBLE


def lin(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)


def shared(k: int, a: np.ndarray, b: np.ndarray) -> int:
    """How many of the k largest by |score| both have."""
    return len({*np.argsort(-abs(a))[:k]} & {*np.argsort(-abs(b))[:k]})


PAIRED = {
    "Spearman": lambda a, b: spearmanr(a, b).statistic,
    "sign agreement": lambda a, b: np.mean(np.sign(a) == np.sign(b)),
    "slope": lambda a, b: linregress(a, b).slope,
    "concordance": lin,
}
EACH = {"Pearson": lambda a, b: pearsonr(a, b).statistic, "Spearman": PAIRED["Spearman"]}
SIZES = {"heads": (1, 2, 5, 10), "neurons": (1, 2, 5, 10, 20)}


def expected(ap: np.ndarray, ig: np.ndarray, kind: str, negligible: float) -> dict:
    """Every statistic of the means and of each prompt, by scipy."""
    means = ap.mean(axis=0), ig.mean(axis=0)
    large = abs(means[0]) >= negligible
    prompts = list(zip(ap, ig, strict=True))
    each = {name: [of(*pair) for pair in prompts] for name, of in EACH.items()}
    sizes = SIZES[kind]
    tops = {k: [shared(k, *pair) / k for pair in prompts] for k in sizes}
    r = {
        (OF_MEANS, "Pearson", None): correlation_of_means(ap, ig, kind).mean,
        (LARGE, "Pearson", None): correlation_of_means(ap[:, large], ig[:, large], kind).mean,
    }
    return (
        r
        | {(OF_MEANS, name, None): of(*means) for name, of in PAIRED.items()}
        | {(OF_MEANS, "Kendall", None): kendalltau(*means).statistic}
        | {(OF_MEANS, "overlap", k): shared(k, *means) / k for k in sizes}
        | {(OF_MEANS, "Jaccard", 10): shared(10, *means) / (20 - shared(10, *means))}
        | {(LARGE, n, None): of(means[0][large], means[1][large]) for n, of in PAIRED.items()}
        | {(PER_PROMPT, name, None): np.mean(values) for name, values in each.items()}
        | {(PER_PROMPT, f"sd of {n}", None): np.std(v, ddof=1) for n, v in each.items()}
        | {(PER_PROMPT, "overlap", k): np.mean(values) for k, values in tops.items()}
    )


def test_every_statistic_is_scipys_of_the_same_name(monkeypatch):
    """A slope is IG's on AP, and what is negligible is so by AP."""
    monkeypatch.setattr(study, "NEGLIGIBLE", 0.1)
    ap, ig = made.random_scores("AP", 0), made.random_scores("IG", 1)
    ig = replace(ig, heads=1.7 * ig.heads, neurons=0.6 * ig.neurons)
    found = study.compare(ap, ig)
    assert found.select("task", "direction", "n").unique().rows() == [("ioi", "noising", 12)]
    for kind in KINDS:
        a, b = (of.of(kind).flatten(1).double().numpy() for of in (ap, ig))
        statistics = expected(a, b, kind, 0.1 * abs(float(ap.total.mean())))
        rows = found.filter(pl.col("kind") == kind, pl.col("scope") != HALVES)
        rows = rows.filter(pl.col("statistic") != "largest gap")
        keys = rows.select("scope", "statistic", "k").rows()
        assert dict(zip(keys, rows["estimate"], strict=True)) == pytest.approx(statistics, abs=1e-5)


def test_halves_are_of_the_method_that_they_are_said_to_be():
    """AP is the same on every prompt, IG noise alone for heads; for neurons the other way round."""
    exact, noise = made.random_scores("AP", 0, noise=0), made.random_scores("IG", 1, noise=1e3)
    ap, ig = replace(exact, neurons=noise.neurons), replace(noise, neurons=exact.neurons)
    found = study.compare(ap, ig).filter(scope=HALVES)
    r = {(kind, name): m for kind, name, m in found.select("kind", "statistic", "estimate").rows()}
    assert r["heads", "AP"] == pytest.approx(1) and r["neurons", "IG"] == pytest.approx(1)
    for kind, noisy in (("heads", "IG"), ("neurons", "AP")):
        assert r[kind, noisy] < 0.5 and abs(r[kind, "IG against AP"]) < 0.5


def test_intervals_pair_the_prompts():
    """Noise that both methods share cancels; scores that are shuffled apart disagree more."""
    ap = made.random_scores("AP", 0, noise=3)
    paired = replace(ap, heads=1.5 * ap.heads)
    shuffled = replace(ap, heads=ap.heads.roll(5, dims=0))
    widths = [
        interval.high - interval.low
        for ig in (paired, shuffled)
        for found in [study.compare(ap, ig).filter(kind="heads", scope=OF_MEANS)]
        for interval in [one(found, statistic=name) for name in ("Pearson", "slope")]
    ]
    assert max(widths[:2]) < 1e-6 < 0.2 < min(widths[2:])


def scores(method: str, sign: int) -> Scores:
    """Two prompts, two layers of two heads and of three neurons."""
    return made.scores(
        method,
        heads=sign * np.arange(8.0).reshape(2, 2, 2),
        neurons=sign * np.arange(10.0, 22).reshape(2, 2, 3) ** 2,
        base=[1.0, 2.0],
        source=[5.0, -1.0],
        direction="denoising",
        prompts=torch.tensor([3, 4]),
        heads_gap=torch.tensor([[0.1, -0.4], [0.2, 0.3]]),
        neurons_gap=torch.tensor([[0.5, 0.7], [-0.8, 0.6]]),
    )


def test_mean_scores_stand_by_their_method_and_component():
    found = study.mean_scores(scores("AP", 1), scores("IG", -10))
    about = "ioi", "denoising"
    assert made.table(found)[:5] == [
        ("task", "direction", "kind", "layer", "component", "ap", "ig"),
        (*about, "heads", 0, 0, 2, -20),
        (*about, "heads", 0, 1, 3, -30),
        (*about, "heads", 1, 0, 4, -40),
        (*about, "heads", 1, 1, 5, -50),
    ]
    neurons = found.filter(pl.col("kind") == "neurons")
    assert neurons.row(-2) == (*about, "neurons", 1, 1, (14**2 + 20**2) / 2, -5 * (14**2 + 20**2))
    assert neurons.height == 6


def test_numbers_of_each_prompt_are_its_own():
    """Of the prompts that the page shows, r over components and the metric of both runs."""
    ap, ig = (replace(scores(method, 1), direction="noising") for method in ("AP", "IG"))
    ig = replace(ig, heads=ig.heads**2, neurons=torch.stack([-ig.neurons[0], ig.neurons[1] ** 3]))
    other = replace(ap, direction="denoising"), replace(ap, direction="denoising")
    numbers = np.arange(4.0), np.arange(4.0, 8), np.arange(16.0, 22) ** 2
    r = [pearsonr(a, a**power).statistic for a, power in zip(numbers, (2, 2, 3), strict=True)]
    found = made.cell("aligned-baselines", "each_prompt = ", scored=[(ap, ig), other])
    assert made.table(found["each_prompt"]) == [
        ("task", "kind", "r"),
        ("ioi", "heads", pytest.approx(r[0], abs=1e-6)),
        ("ioi", "heads", pytest.approx(r[1], abs=1e-6)),
        ("ioi", "neurons", pytest.approx(-1, abs=1e-6)),
        ("ioi", "neurons", pytest.approx(r[2], abs=1e-6)),
    ]
    noising = study.compare(ap, ig)
    found = made.cell("aligned-baselines", "runs = ", scored=[(ap, ig), other], noising=noising)
    assert made.table(found["runs"]) == [
        ("task", "run", "value"),
        ("ioi", "clean", 1),
        ("ioi", "clean", 2),
        ("ioi", "corrupted", 5),
        ("ioi", "corrupted", -1),
    ]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gaps_and_metrics_are_ig_s_and_the_runs(direction):
    ap, ig = (replace(scores(method, 1), direction=direction) for method in ("AP", "IG"))
    found = study.compare(replace(ap, heads_gap=ig.heads_gap + 9), ig)
    assert one(found, kind="heads", statistic="largest gap").mean == pytest.approx(0.4 / 4)
    assert one(found, kind="neurons", statistic="largest gap").mean == pytest.approx(0.8 / 4)
    runs = ("clean", "corrupted") if direction == "noising" else ("corrupted", "clean")
    for name, mean in zip((*runs, "total effect"), (1.5, 2.0, 0.5), strict=True):
        assert one(found, statistic=name).mean == mean


def test_one_prompt_has_numbers_without_intervals():
    sides = ("AP", 0), ("IG", 1)
    ap, ig = (made.random_scores(method, seed, prompts=1) for method, seed in sides)
    found = study.compare(ap, ig)
    assert found["low"].null_count() == found["high"].null_count() == len(found)
    neurons = found.filter(kind="neurons", scope=OF_MEANS)
    assert neurons.filter(pl.col("estimate").is_null())["statistic"].to_list() == ["Pearson"]
    assert HALVES not in found["scope"]


def test_the_study_is_of_the_methods_scores(tiny, tmp_path, monkeypatch):
    """Every task, direction and kind, and one task against the methods and the agreement."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    tasks = ("greater-than", "gender-bias")
    found = study.aligned_baselines(tiny, n=5, tasks=tasks)
    keys = found.filter(statistic="Kendall").select("task", "direction", "kind").rows()
    assert Counter(keys) == Counter(product(tasks, DIRECTIONS, KINDS))
    pairs = load_task("greater-than", tiny, n=5)
    both = list(both_methods(tiny, 5, tasks=tasks[:1]))
    for direction, (_, *scores) in zip(DIRECTIONS, both, strict=True):
        methods = activation_patching, integrated_gradients
        ap, ig = (method(tiny, pairs, direction=direction) for method in methods)
        rows = found.filter(task="greater-than", direction=direction, statistic="Pearson")
        for kind in KINDS:
            sides, of = (ap.of(kind), ig.of(kind)), rows.filter(kind=kind)
            r = correlation_of_means(*sides, kind)
            assert one(of, scope=OF_MEANS)[2:] == pytest.approx(r[2:], abs=1e-5)
            each = average_correlation(*sides)
            assert one(of, scope=PER_PROMPT).mean == pytest.approx(each.mean, abs=1e-5)
        row = study.mean_scores(*scores).filter(kind="neurons", layer=1, component=17)
        assert row["ap"].item() == pytest.approx(ap.neurons[:, 1, 17].mean().item(), abs=1e-7)
        assert row["ig"].item() == pytest.approx(ig.neurons[:, 1, 17].mean().item(), abs=1e-7)


def test_each_task_has_its_first_pair_with_the_answers_that_are_scored(tiny):
    """Of many answers, three and how many more."""
    rows = made.cell("aligned-baselines", "plain = ", model=tiny)["rows"]
    assert [row["task"] for row in rows] == list(TASKS)
    for row in rows:
        pairs = load_task(row["task"], tiny, n=1)
        assert (row["clean"], row["corrupted"]) == (pairs.clean[0], pairs.corrupted[0])
        tokens, signs = pairs.labels.tokens[0], pairs.labels.signs[0]
        for side, sign in (("right", 1), ("wrong", -1)):
            count = int((signs == sign).sum())
            first = tiny.tokenizer.decode([int(tokens[torch.argmax((signs == sign).float())])])
            assert row[side].startswith(repr(first))
            assert row[side].endswith(f" and {count - 3} more") == (count > 3)
