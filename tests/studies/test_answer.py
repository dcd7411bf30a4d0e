"""The front page's sentences and numbers, from studies whose every number is known."""

import polars as pl
import pytest
from studies import made

from analysis.studies.aligned_baselines import AlignedBaselines
from analysis.studies.answer import Answer
from analysis.studies.baselines import Baselines
from analysis.studies.consequences import ABLATED, KEPT, Consequences
from analysis.studies.facts import Facts

NONE = pl.DataFrame()
CORRELATIONS = {
    ("ioi", "noising", "heads"): 0.99,
    ("ioi", "noising", "neurons"): 0.98,
    ("ioi", "denoising", "heads"): 0.975,
    ("gender-bias", "noising", "heads"): 0.985,
    ("gender-bias", "noising", "neurons"): 0.972,
    ("gender-bias", "denoising", "heads"): 0.97,
    ("gender-bias", "denoising", "neurons"): 0.978,
}
METRICS = {
    ("ioi", "clean"): (3.0, 3.5),
    ("ioi", "corrupted"): (-1.0, -0.5),
    ("gender-bias", "clean"): (2.0, 2.5),
    ("gender-bias", "corrupted"): (-2.5, -1.5),
}
CHANGES = {
    (ABLATED, "IG only"): (0.01, 0.03),
    (ABLATED, "AP only"): (0.05,),
    (ABLATED, "shared"): (0.8,),
    (ABLATED, "matched"): (0.004,),
    (ABLATED, "random"): (0.002,),
    (ABLATED, "IG"): (0.7,),
    (KEPT, "IG only"): (0.91,),
    (KEPT, "AP only"): (0.92,),
    (KEPT, "shared"): (0.13,),
}
# IG's and AP's baselines; gender bias lies below IOI.
PAIRS = {
    "task": {"ioi": 0.3, "gender-bias": 0.1},
    "kind": {"heads": 0.01, "neurons": 0.02},
    "ig": {"source": 0.004, "zero": 0.5, "mean": 0.3},
    "ap": {"source": 0.04, "zero": 0.06, "mean": 0.001},
}


def aligned(lowest: float) -> AlignedBaselines:
    """IOI's neurons, denoising, have the lowest r."""
    correlations = CORRELATIONS | {("ioi", "denoising", "neurons"): lowest}
    agreement = [
        {"task": task, "direction": direction, "kind": kind, "scope": "of the means"}
        | {"statistic": statistic, "k": k}
        | made.estimate(r - k / 100)
        for (task, direction, kind), r in correlations.items()
        for statistic, k in (("Pearson", 0), ("overlap", 10), ("overlap", 50), ("Jaccard", 11))
    ]
    metrics = [
        {"task": task, "run": run, "metric": metric}
        for (task, run), values in METRICS.items()
        for metric in values
    ]
    frames = map(pl.DataFrame, (metrics, [], agreement, [], []))
    return AlignedBaselines({"ioi": 7, "gender-bias": 9}, *frames)


def answer(lowest: float) -> Answer:
    sets = [
        {"treatment": treatment, "set": name} | made.estimate(mean)
        for (treatment, name), means in CHANGES.items()
        for mean in means
    ]
    parts = {
        "layer": [0, 3, 5],
        "IG - AP": [0.01, 0.02, 0.005],
        "Shapley - AP": [0.04, 0.03, 0.035],
        "IG - Shapley": [0.06, 0.05, 0.07],
    }
    return Answer(
        aligned(lowest),
        Baselines({"ioi": 7, "gender-bias": 9}, pl.DataFrame(made.every(PAIRS))),
        Facts(4, NONE, pl.DataFrame(parts)),
        Consequences(pl.DataFrame(sets)),
    )


def test_the_claim_says_when_why_and_whether():
    when, why, whether = made.plain(answer(0.961).claim()).split("\n\n")
    assert when == (
        "**Asked the same question, they agree closely.** Between the same two activations the "
        "scores of the two methods correlate at r = 0.97 [0.94, 0.99] or more for heads and 0.96 "
        "[0.93, 0.98] or more for neurons, on 2 tasks and in both directions. Asked different "
        "questions they need not: IG from zero, the usual default, against patching from the other "
        "prompt goes down to 0.66 [0.63, 0.68] for neurons."
    )
    assert why == (
        "**They differ by company.** IG moves a whole layer together, patching one component "
        "alone. In layer 3, where heads differ most on IOI, the difference is 2.0% of the total "
        "effect a head: what heads do to one another (3.0%) and what only the path between sees "
        "(5.0%)."
    )
    assert whether == (
        "**What only one of them names does little, but not nothing.** Such components together "
        "move the metric by 3.0% of the total effect (median over cases), those that both name by "
        "80.0%, others that change as much by 0.4%."
    )


@pytest.mark.parametrize(
    ("lowest", "words"),
    [
        (0.95, "agree closely"),
        (0.949, "largely agree"),
        (0.7, "largely agree"),
        (0.699, "agree in part"),
        (float("nan"), "cannot be compared everywhere"),
    ],
)
def test_the_lowest_correlation_decides_the_words(lowest, words):
    assert answer(lowest).claim().startswith(f"**Asked the same question, they {words}.**")


def test_a_task_is_a_row():
    header = ("task", "prompts", "clean", "corrupted", "r, heads", "r, neurons", "same of top 10")
    r = {"ioi": (0.99, 0.98, 0.88), "gender-bias": (0.985, 0.972, 0.872)}
    found = answer(0.5)
    table = [tuple(made.plain(str(cell)) for cell in row) for row in made.table(found.table())]
    shown = {task: tuple(made.plain(made.shown(value)) for value in of) for task, of in r.items()}
    assert table == [
        header,
        ("ioi", "7", "3.25 [3.00, 3.50]", "-0.75 [-1.00, -0.50]", *shown["ioi"]),
        ("gender-bias", "9", "2.25 [2.00, 2.50]", "-2.00 [-2.50, -1.50]", *shown["gender-bias"]),
    ]
    assert found.labels() == {
        task: {"heads": f"r = {made.shown(heads)}", "neurons": f"r = {made.shown(neurons)}"}
        for task, (heads, neurons, _) in r.items()
    }
