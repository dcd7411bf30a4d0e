"""The headline on several models, of frames made up by hand."""

import polars as pl
import pytest
from studies import made

from analysis.agreement import of_means, overlap_at, pearson, spearman
from analysis.studies.across_models import OVERLAP, PEARSON, SPEARMAN, AcrossModels, _compare

# The untrained network lies between the trained ones.
DIGITS = {
    "model": {"testbed": 3, "testbed-2": 1, "untrained": 2},
    "task": {"ioi": 0.2, "gender-bias": 0.1},
    "direction": {"noising": 0.01, "denoising": 0.03},
    "kind": {"heads": 0.05, "neurons": 0.02},
    "statistic": {PEARSON: 10, SPEARMAN: 20, OVERLAP: 30},
}
FINDINGS = {
    PEARSON: "Pearson's r lies between 11.13 and 13.28 on 2 trained models, and between 12.13 and "
    "12.28 on an untrained network of the same shape.",
    SPEARMAN: "Spearman's ρ lies between 21.13 and 23.28 on 2 trained models, and between 22.13 "
    "and 22.28 on an untrained network of the same shape.",
    OVERLAP: "The overlap of the top 10 lies between 31.13 and 33.28 on 2 trained models, and "
    "between 32.13 and 32.28 on an untrained network of the same shape.",
}


@pytest.fixture
def study() -> AcrossModels:
    return AcrossModels(pl.DataFrame(made.every(DIGITS)))


@pytest.mark.parametrize("statistic", FINDINGS)
def test_a_finding_parts_the_trained_from_the_untrained(study, statistic):
    assert study.finding(statistic) == FINDINGS[statistic]


@pytest.mark.parametrize(
    ("models", "text"),
    [
        (["testbed"], "Pearson's r lies between 13.13 and 13.28 on 1 trained model."),
        (
            ["testbed", "untrained"],
            "Pearson's r lies between 13.13 and 13.28 on 1 trained model, and between 12.13 and "
            "12.28 on an untrained network of the same shape.",
        ),
    ],
)
def test_a_finding_is_of_the_models_that_there_are(study, models, text):
    kept = study.headline.filter(pl.col("model").is_in(models))
    assert AcrossModels(kept).finding(PEARSON) == text


@pytest.mark.parametrize("statistic", FINDINGS)
def test_a_column_is_of_its_model(study, statistic):
    rows = {name: list(DIGITS[name]) for name in ("task", "direction", "kind")}
    expected = [
        (
            *(task, direction, kind),
            *(
                made.shown(made.code(DIGITS, (model, task, direction, kind, statistic)))
                for model in DIGITS["model"]
            ),
        )
        for task in rows["task"]
        for direction in rows["direction"]
        for kind in rows["kind"]
    ]
    assert made.table(study.table(statistic)) == [(*rows, *DIGITS["model"]), *expected]


def test_the_headline_is_of_both_methods_prompt_averaged_scores():
    ap, ig = made.random_scores("AP", 0), made.random_scores("IG", 1)
    statistics = {PEARSON: pearson, SPEARMAN: spearman, OVERLAP: overlap_at(10)}
    rows = _compare(ap, ig, seed=2).rows_by_key(["kind", "statistic"], named=True, unique=True)
    for kind in ("heads", "neurons"):
        for name, estimate in of_means(statistics, ap.of(kind), ig.of(kind), seed=2).items():
            about = {"task": "ioi", "direction": "noising"}
            assert rows[kind, name] == about | estimate._asdict()
    assert len(rows) == 6
