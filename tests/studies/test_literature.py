"""Published figures, where two of them must agree."""

import pytest

from analysis.studies.literature import literature
from analysis.tasks import TASKS


def test_metrics_and_correlations_are_of_every_task():
    for name in ("metrics", "correlations"):
        assert literature(name)["task"].to_list() == list(TASKS)


def test_a_metric_read_at_the_last_token_is_the_published_one():
    readings = literature("readings").join(literature("metrics"), on="task", how="left")
    assert readings["right"].to_list() == readings["clean"].to_list()
    assert (readings["wrong"] < readings["right"]).all()


@pytest.mark.parametrize("found", literature("correlations").to_dicts(), ids=list(TASKS))
def test_flipped_prompts_explain_the_published_correlations_of_heads(found):
    """If every prompt has the mean |r|, a share f of them with the wrong sign."""
    size, share = found["absolute"], found["flips"] / 100
    assert found["heads"] == pytest.approx(size * (1 - 2 * share), abs=0.002)
    spread = 2 * size * (share * (1 - share)) ** 0.5
    assert found["heads_sd"] == pytest.approx(spread, abs=0.005)


def test_repaired_correlations_are_those_beside_the_published_ones():
    repaired = literature("repaired").filter(direction="noising", statistic="|r|")
    aligned = repaired.filter(baseline="source")
    expected = literature("correlations")["absolute"].to_list()
    assert aligned["estimate"].to_list() == pytest.approx(expected, abs=0.0006)
    assert repaired["task"].unique(maintain_order=True).to_list() == list(TASKS)
    assert (repaired["low"] < repaired["estimate"]).all()
    assert (repaired["estimate"] < repaired["high"]).all()


def test_a_published_head_is_gpt2_smalls_and_has_one_role():
    heads = literature("heads")
    assert heads.select("task", "layer", "head").is_unique().all()
    assert heads.select("layer", "head").to_numpy().max() < 12
