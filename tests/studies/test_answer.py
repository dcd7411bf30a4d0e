"""The front page's sentences and numbers, from studies whose every number is known."""

import polars as pl
import pytest

from analysis.studies.aligned_baselines import AlignedBaselines
from analysis.studies.answer import Answer
from analysis.studies.baselines import Baselines
from analysis.studies.consequences import ABLATED, KEPT, Consequences
from analysis.studies.facts import Facts

NONE = pl.DataFrame()


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "sd": 0.0, "low": mean - 0.01, "high": mean + 0.01}


def aligned(lowest: float) -> AlignedBaselines:
    """One task whose neurons, denoising, have the lowest r."""
    correlations = {
        ("noising", "heads"): 0.99,
        ("noising", "neurons"): 0.98,
        ("denoising", "heads"): 0.97,
        ("denoising", "neurons"): lowest,
    }
    agreement = [
        {"task": "ioi", "direction": direction, "kind": kind, "scope": "of the means"}
        | {"statistic": statistic, "k": k}
        | estimate(r - k / 100)
        for (direction, kind), r in correlations.items()
        for statistic, k in (("Pearson", 0), ("overlap", 10))
    ]
    metrics = [
        {"task": "ioi", "run": r, "metric": m} for r, m in (("clean", 3.0), ("corrupted", -1.0))
    ]
    score = {"task": "ioi", "kind": "heads", "layer": 0, "component": 1, "ap": -1.0, "ig": 2.0}
    scores = [score | {"direction": direction} for direction in ("noising", "denoising")]
    return AlignedBaselines(
        {"ioi": 7}, *map(pl.DataFrame, (metrics, scores, agreement)), NONE, NONE
    )


def answer(lowest: float) -> Answer:
    sets = [
        {"treatment": ABLATED, "set": name, "mean": mean, "low": 1.0, "high": 2.0}
        for name, means in {
            "IG only": [0.01, 0.03],
            "AP only": [0.05],
            "shared": [0.8],
            "matched": [0.004],
            "IG - AP": [0.0],
        }.items()
        for mean in means
    ]
    sets.append({"treatment": KEPT, "set": "IG - AP", "mean": 0.0, "low": 1.0, "high": 2.0})
    pair = {"task": "ioi", "kind": "neurons", "ig": "zero", "ap": "source"} | estimate(0.14)
    parts = {"layer": [0, 3], "IG - AP": [0.01, 0.02], "Shapley - AP": [0.0, 0.03]}
    return Answer(
        aligned(lowest),
        Baselines({"ioi": 7}, pl.DataFrame([pair])),
        Facts(4, NONE, pl.DataFrame(parts | {"IG - Shapley": [0.0, 0.05]})),
        Consequences(pl.DataFrame(sets)),
    )


@pytest.mark.parametrize(
    ("lowest", "words"), [(0.96, "agree closely"), (0.8, "largely agree"), (0.5, "agree in part")]
)
def test_the_lowest_correlation_decides_the_words(lowest, words):
    claim = answer(lowest).claim()
    assert f"**Asked the same question, they {words}.**" in claim
    assert "r = 0.97\N{NO-BREAK SPACE}[0.96,\N{NO-BREAK SPACE}0.98] or more for heads" in claim
    assert f"{lowest:.2f}\N{NO-BREAK SPACE}[" in claim
    assert "goes down to 0.14" in claim


def test_the_reasons_are_those_of_the_layer_that_differs_most():
    claim = answer(0.9).claim()
    assert "In layer 3," in claim
    assert "2.0% of the total effect" in claim and "(3.0%)" in claim and "(5.0%)" in claim


def test_what_one_method_names_stands_beside_what_both_name():
    """Medians over the cases of either method."""
    claim = answer(0.9).claim()
    assert "by 3.0% of the total effect (median over cases)" in claim
    assert "both name by 80.0%, others that change as much by 0.4%" in claim


def test_a_task_is_a_row():
    row = answer(0.9).table().row(0, named=True)
    assert (row["task"], row["prompts"]) == ("ioi", 7)
    assert row["clean"].startswith("3.00") and row["corrupted"].startswith("-1.00")
    assert row["r, heads"].startswith("0.99") and row["r, neurons"].startswith("0.98")
    assert row["same of top 10"].startswith("0.88")
    (labels,) = answer(0.9).labels().values()
    assert labels["heads"].startswith("r = 0.99") and labels["neurons"].startswith("r = 0.98")


def test_shares_are_scores_over_the_mean_total_effect():
    """The total effect is -4 here, so that a helping component's share is positive."""
    shares = aligned(0.9).shares()
    assert shares.select("ap", "ig").rows() == [(0.25, -0.5)]
