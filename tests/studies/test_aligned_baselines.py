"""The aligned baselines' tables and sentences, of frames made up by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from studies import made

from analysis.studies.aligned_baselines import AlignedBaselines

WHOLE, LARGE, EACH, HALVES = "of the means", "without negligible", "per prompt", "across halves"
# Denoising and gender bias are lower, and neither is the first.
DIGITS = {
    "task": {"ioi": 2, "gender-bias": 1},
    "direction": {"noising": 0.2, "denoising": 0.1},
    "kind": {"heads": 0.01, "neurons": 0.02},
}
STATISTICS = {
    (WHOLE, "Pearson", 0): 10,
    (WHOLE, "Spearman", 0): 20,
    (WHOLE, "Kendall", 0): 30,
    (WHOLE, "sign agreement", 0): 40,
    (WHOLE, "slope", 0): 50,
    (WHOLE, "concordance", 0): 60,
    (WHOLE, "overlap", 10): 70,
    (WHOLE, "overlap", 50): 80,
    (WHOLE, "overlap", 200): 90,
    (WHOLE, "Jaccard", 10): 100,
    (WHOLE, "Jaccard", 50): 110,
    (LARGE, "Pearson", 0): 120,
    (LARGE, "Spearman", 0): 130,
    (EACH, "Pearson", 0): 140,
    (EACH, "Spearman", 0): 150,
    (EACH, "overlap", 10): 160,
    (HALVES, "IG", 0): 170,
    (HALVES, "AP", 0): 180,
    (HALVES, "IG against AP", 0): 190,
}
TABLES = {
    "correlation_table": {
        "r over prompts": (EACH, "Pearson", 0),
        "r of the means": (WHOLE, "Pearson", 0),
        "Spearman's ρ": (WHOLE, "Spearman", 0),
        "Kendall's τ": (WHOLE, "Kendall", 0),
    },
    "halves_table": {name: (HALVES, name, 0) for name in ("IG", "AP", "IG against AP")},
    "appendix_table": {
        "sign agreement": (WHOLE, "sign agreement", 0),
        "slope": (WHOLE, "slope", 0),
        "concordance": (WHOLE, "concordance", 0),
        "r": (LARGE, "Pearson", 0),
        "ρ": (LARGE, "Spearman", 0),
        "Jaccard, top 10": (WHOLE, "Jaccard", 10),
    },
}
COMPONENTS = {
    ("ioi", "heads"): 12,
    ("ioi", "neurons"): 60,
    ("gender-bias", "heads"): 9,
    ("gender-bias", "neurons"): 240,
}
# The strongest component by each method, as its place and its score; the total effects are -4, 5.
STRONGEST = {
    ("ioi", "noising", "heads"): {"ap": (3, -1.0), "ig": (7, 2.0)},
    ("ioi", "denoising", "heads"): {"ap": (1, 9.0), "ig": (2, -8.0)},
    ("ioi", "noising", "neurons"): {"ap": (4, 7.0), "ig": (4, 6.0)},
    ("gender-bias", "noising", "heads"): {"ap": (6, 3.0), "ig": (6, -3.5)},
}
METRICS = {
    ("ioi", "clean"): (3.0, 3.5),
    ("ioi", "corrupted"): (-1.0, -0.5),
    ("gender-bias", "clean"): (-2.25, -2.0, -1.75),
    ("gender-bias", "corrupted"): (2.5, 3.0, 3.5),
}


def scores() -> pl.DataFrame:
    rows = []
    for (task, kind), count in COMPONENTS.items():
        for direction in DIGITS["direction"]:
            values = {"ap": np.arange(count) / 1e4, "ig": np.arange(count) / -1e5}
            for method, (place, score) in STRONGEST.get((task, direction, kind), {}).items():
                values[method][place] = score
            rows += [
                {"task": task, "direction": direction, "kind": kind}
                | {"layer": place // 4, "component": place % 4}
                | {method: float(of[place]) for method, of in values.items()}
                for place in range(count)
            ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def study() -> AlignedBaselines:
    agreement = [
        dict(zip(("scope", "statistic", "k"), about, strict=True))
        | row
        | made.estimate(row["mean"] + tens)
        for about, tens in STATISTICS.items()
        for row in made.every(DIGITS)
    ]
    metrics = [
        {"task": task, "prompt": prompt, "run": run, "metric": value}
        for (task, run), values in METRICS.items()
        for prompt, value in enumerate(values)
    ]
    frames = map(pl.DataFrame, (metrics, scores(), agreement, [], []))
    return AlignedBaselines({"ioi": 2, "gender-bias": 3}, *frames)


@pytest.mark.parametrize("name", TABLES)
def test_a_cell_is_of_its_row_and_its_column(study, name):
    rows = [(row["task"], row["direction"], row["kind"]) for row in made.every(DIGITS)]
    expected = [
        (
            *row,
            *(made.shown(made.code(DIGITS, row) + STATISTICS[of]) for of in TABLES[name].values()),
        )
        for row in rows
    ]
    header = (*DIGITS, *TABLES[name])
    assert made.table(getattr(study, name)()) == [header, *expected]


def test_overlaps_stand_beside_their_chance(study):
    chances = {
        ("ioi", "heads"): ("0.83", "", ""),
        ("ioi", "neurons"): ("0.17", "0.83", ""),
        ("gender-bias", "heads"): ("", "", ""),
        ("gender-bias", "neurons"): ("0.04", "0.21", "0.83"),
    }
    found = study.overlap_table()
    assert found.columns == ["task", "direction", "kind", "top 10", "top 50", "top 200"]
    for task, direction, kind, *cells in found.iter_rows():
        code = made.code(DIGITS, (task, direction, kind))
        assert cells == [
            f"{made.shown(code + tens)}, chance {chance}" if chance else "–"
            for tens, chance in zip((70, 80, 90), chances[task, kind], strict=True)
        ]
    drawn = study.overlaps("denoising").filter(pl.col("kind") == "neurons")
    assert drawn.select("task", "k", "mean", "chance").rows() == [
        ("ioi", 10, pytest.approx(72.12), 10 / 60),
        ("gender-bias", 10, pytest.approx(71.12), 10 / 240),
        ("ioi", 50, pytest.approx(82.12), 50 / 60),
        ("gender-bias", 50, pytest.approx(81.12), 50 / 240),
        ("ioi", 200, pytest.approx(92.12), 200 / 60),
        ("gender-bias", 200, pytest.approx(91.12), 200 / 240),
    ]
    assert (drawn["low"] < drawn["mean"]).all() and (drawn["mean"] < drawn["high"]).all()


FINDINGS = {
    "ioi": "On 2 prompts the metric is 3.25 [3.00, 3.50] on clean and -0.75 [-1.00, -0.50] on "
    "corrupted prompts (means). AP finds head 0.3 the strongest (25% of the mean total effect), "
    "IG head 1.3 (-50%). The prompt-averaged scores of IG and AP correlate at 12.21 [12.18, 12.23] "
    "for heads and 12.22 [12.19, 12.24] for neurons.",
    "gender-bias": "On 3 prompts the metric is -2.00 [-2.25, -1.75] on clean and 3.00 [2.50, 3.50] "
    "on corrupted prompts (means). Both methods find head 1.2 the strongest, with 60% (AP) and "
    "-70% (IG) of the mean total effect. The prompt-averaged scores of IG and AP correlate at "
    "11.21 [11.18, 11.23] for heads and 11.22 [11.19, 11.24] for neurons.",
}


@pytest.mark.parametrize("task", FINDINGS)
def test_a_finding_is_of_its_task(study, task):
    assert made.plain(study.finding(task)) == FINDINGS[task]


def test_the_summary_has_the_lowest_correlations(study):
    """Those of gender bias, denoising."""
    assert made.plain(study.summary()) == (
        "Between the same two activations IG and AP give correlated scores on all 2 tasks, in both "
        "directions: Pearson's r of the prompt-averaged scores is at least 11.11 [11.08, 11.13] "
        "for heads and 11.12 [11.09, 11.14] for neurons (the lowest value with its interval)."
    )


def test_a_correlation_that_is_undefined_is_not_passed_over(study):
    place = pl.col("task") == "ioi", pl.col("direction") == "denoising"
    undefined = pl.when(*place).then(float("nan")).otherwise("mean")
    broken = replace(study, agreement=study.agreement.with_columns(mean=undefined))
    assert np.isnan(broken.lowest("heads").mean)


def test_charts_get_their_tasks_numbers(study):
    assert study.labels("ioi", "denoising") == {
        "heads": f"r = {made.shown(12.11)}",
        "neurons": f"r = {made.shown(12.12)}",
    }
    units = replace(study, prompts={"ioi": 2, "greater-than": 3}).units()
    assert units == {"ioi": "logits", "greater-than": "probability"}
    assert (study.total("ioi"), study.total("gender-bias")) == (-4.0, 5.0)
    heads = study.shares().filter(pl.col("kind") == "heads", pl.col("ap").abs() > 0.01)
    assert heads.select("task", "direction", "layer", "component", "ap", "ig").rows() == [
        ("ioi", "noising", 0, 3, 0.25, pytest.approx(-3e-5 / -4)),
        ("gender-bias", "noising", 1, 2, 0.6, -0.7),
    ]
