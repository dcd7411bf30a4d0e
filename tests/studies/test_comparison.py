"""Two methods' scores as frames: every number under its own name."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import kendalltau, linregress, pearsonr, spearmanr
from studies import made

from analysis.agreement import Estimate, split_halves
from analysis.studies import comparison

WHOLE, LARGE, EACH, HALVES = "of the means", "without negligible", "per prompt", "across halves"


def lin(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)


def shared(k: int, a: np.ndarray, b: np.ndarray) -> int:
    """How many of the k largest by |score| both have."""
    return len({*np.argsort(-abs(a))[:k]} & {*np.argsort(-abs(b))[:k]})


PAIRED = {
    "Pearson": lambda a, b: pearsonr(a, b).statistic,
    "Spearman": lambda a, b: spearmanr(a, b).statistic,
    "sign agreement": lambda a, b: np.mean(np.sign(a) == np.sign(b)),
    "slope": lambda a, b: linregress(a, b).slope,
    "concordance": lin,
}
SIZES = {"heads": (1, 2, 5, 10), "neurons": (1, 2, 5, 10, 20)}


def expected(ap: np.ndarray, ig: np.ndarray, negligible: float, sizes: tuple[int, ...]) -> dict:
    """Every statistic but those across halves, by scipy."""
    means = ap.mean(axis=0), ig.mean(axis=0)
    large = abs(means[0]) >= negligible
    prompts = list(zip(ap, ig, strict=True))
    tops = {k: [shared(k, *pair) / k for pair in prompts] for k in sizes}
    jaccard = {k: shared(k, *means) / (2 * k - shared(k, *means)) for k in sizes if k == 10}
    return (
        {(WHOLE, name, 0): of(*means) for name, of in PAIRED.items()}
        | {(WHOLE, "Kendall", 0): kendalltau(*means).statistic}
        | {(WHOLE, "overlap", k): shared(k, *means) / k for k in sizes}
        | {(WHOLE, "Jaccard", k): value for k, value in jaccard.items()}
        | {(LARGE, name, 0): of(means[0][large], means[1][large]) for name, of in PAIRED.items()}
        | {
            (EACH, name, 0): np.mean([PAIRED[name](*pair) for pair in prompts])
            for name in ("Pearson", "Spearman")
        }
        | {(EACH, "overlap", k): np.mean(values) for k, values in tops.items()}
    )


def test_every_statistic_is_scipys_of_the_same_name(monkeypatch):
    """AP is the first side: a slope is IG's on AP, and what is negligible is so by AP."""
    monkeypatch.setattr(comparison, "NEGLIGIBLE", 0.1)
    ap, ig = made.random_scores("AP", 0), made.random_scores("IG", 1)
    ig = replace(ig, heads=1.7 * ig.heads, neurons=0.6 * ig.neurons)
    found = comparison.agreement(ap, ig)
    assert found.select("task", "direction").unique().rows() == [("ioi", "noising")]
    for kind, sizes in SIZES.items():
        first, second = (of.of(kind).flatten(1).double().numpy() for of in (ap, ig))
        statistics = expected(first, second, 0.1 * abs(float(ap.total.mean())), sizes)
        rows = found.filter(pl.col("kind") == kind, pl.col("scope") != HALVES)
        means = {
            (s, name, k): m
            for s, name, k, m in rows.select("scope", "statistic", "k", "mean").rows()
        }
        assert means == pytest.approx(statistics, abs=1e-5)


def test_halves_are_of_the_method_that_they_are_said_to_be():
    """AP is the same on every prompt, IG noise alone for heads; for neurons the other way round."""
    exact, noise = made.random_scores("AP", 0, noise=0), made.random_scores("IG", 1, noise=1e3)
    ap, ig = replace(exact, neurons=noise.neurons), replace(noise, neurons=exact.neurons)
    found = comparison.agreement(ap, ig).filter(pl.col("scope") == HALVES)
    r = {(kind, name): m for kind, name, m in found.select("kind", "statistic", "mean").rows()}
    assert r["heads", "AP"] == pytest.approx(1) and r["neurons", "IG"] == pytest.approx(1)
    for kind, noisy in (("heads", "IG"), ("neurons", "AP")):
        assert r[kind, noisy] < 0.5 and abs(r[kind, "IG against AP"]) < 0.5


def test_halves_have_no_prompt_in_common():
    """A method beside itself agrees across halves as far as it is stable, not perfectly."""
    noise = made.random_scores("AP", 1, noise=9)
    found = comparison.agreement(noise, replace(noise, method="IG"))
    for kind in ("heads", "neurons"):
        halves = found.filter(pl.col("scope") == HALVES, pl.col("kind") == kind)
        assert halves["mean"].n_unique() == 1 and abs(halves["mean"][0]) < 0.5


def test_halves_are_means_over_the_splits():
    """The first half has one prompt of three, in a third of the splits the last."""
    scores = np.array([[0.0], [0.0], [9.0]])
    first = split_halves(lambda half, _: half[:, 0], scores, scores).first
    assert first.mean == pytest.approx(3, abs=0.8) and (first.low, first.high) == (0, 9)


def test_intervals_pair_the_prompts():
    """Noise that both methods share cancels; scores that are shuffled apart disagree more."""
    ap = made.random_scores("AP", 0, noise=3)
    shuffled = replace(ap, method="IG", heads=ap.heads.roll(5, dims=0))
    widths = [
        row["high"] - row["low"]
        for ig in (replace(ap, method="IG", heads=1.5 * ap.heads), shuffled)
        for row in comparison.agreement(ap, ig)
        .filter(pl.col("kind") == "heads", pl.col("scope") == WHOLE, pl.col("k") == 0)
        .filter(pl.col("statistic").is_in(["Pearson", "slope"]))
        .iter_rows(named=True)
    ]
    assert max(widths[:2]) < 1e-6 < 0.2 < min(widths[2:])


def scores(method: str, sign: int):
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
    found = comparison.mean_scores(scores("AP", 1), scores("IG", -10))
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


def test_other_frames_say_what_they_are_of():
    ap, ig = scores("AP", 1), scores("IG", 1)
    ig = replace(ig, heads=ig.heads**2, neurons=torch.stack([-ig.neurons[0], ig.neurons[1] ** 3]))
    assert made.table(comparison.metrics(replace(ap, direction="noising"))) == [
        ("task", "prompt", "run", "metric"),
        ("ioi", 3, "clean", 1),
        ("ioi", 4, "clean", 2),
        ("ioi", 3, "corrupted", 5),
        ("ioi", 4, "corrupted", -1),
    ]
    about = "ioi", "denoising"
    assert made.table(comparison.gaps(ig)) == [
        ("task", "direction", "kind", "gap"),
        (*about, "heads", pytest.approx(0.4 / 4)),
        (*about, "neurons", pytest.approx(0.8 / 4)),
    ]
    numbers = np.arange(4.0), np.arange(4.0, 8), np.arange(16.0, 22) ** 2
    r = [pearsonr(a, a**power).statistic for a, power in zip(numbers, (2, 2, 3), strict=True)]
    assert made.table(comparison.per_prompt(ap, ig)) == [
        ("task", "direction", "kind", "prompt", "r"),
        (*about, "heads", 3, pytest.approx(r[0], abs=1e-6)),
        (*about, "heads", 4, pytest.approx(r[1], abs=1e-6)),
        (*about, "neurons", 3, pytest.approx(-1, abs=1e-6)),
        (*about, "neurons", 4, pytest.approx(r[2], abs=1e-6)),
    ]


def test_estimates_stand_under_their_names_with_a_dash_where_there_is_none():
    rows = pl.DataFrame(
        [
            {"task": task, "set": name} | made.estimate(mean)
            for task, name, mean in (
                ("a", "x", 0.1),
                ("a", "y", 0.2),
                ("b", "y", 0.4),
                ("b", "z", 9),
            )
        ]
    )
    assert made.table(comparison.wide(rows, "set", ["task"], ["y", "x", "nowhere"])) == [
        ("task", "y", "x"),
        ("a", made.shown(0.2), made.shown(0.1)),
        ("b", made.shown(0.4), "–"),
    ]


def test_the_lowest_estimate_is_an_undefined_one_if_there_is_one():
    def lowest(*means: float) -> float:
        return comparison.lowest(Estimate(mean, 1.0, -9.0, 9.0) for mean in means).mean

    assert lowest(0.3, -0.2, 0.1) == -0.2
    assert np.isnan(lowest(0.3, np.nan, 0.1))
    assert np.isnan(lowest(np.nan, 0.3))


def test_an_interval_that_is_not_known_leaves_nothing_out():
    """One prompt has no interval."""
    rows = pl.DataFrame(
        [*made.signs("+-0"), {"mean": 0.5, "sd": 1.0} | dict.fromkeys(("low", "high"), np.nan)]
    )
    assert rows.select(above=comparison.ABOVE, below=comparison.BELOW).rows() == [
        (True, False),
        (False, True),
        (False, False),
        (None, None),
    ]
