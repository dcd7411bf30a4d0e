"""The baselines' and the steps' studies, on a tiny model."""

import polars as pl
import pytest

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import correlation_of_means
from analysis.attribution.quadrature import RULES
from analysis.studies import steps as stepping
from analysis.studies.baselines import baselines, frequent_lengths
from analysis.tasks import TASKS


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)


def test_every_pair_of_baselines_is_compared_on_the_same_prompts(tiny, monkeypatch):
    one_task = {"greater-than": TASKS["greater-than"]}
    monkeypatch.setattr("analysis.studies.baselines.TASKS", one_task)
    study = baselines(tiny, n=9)
    assert study.prompts == {"greater-than": 8}
    assert study.agreement.height == 2 * 3 * 3
    pairs = load_task("greater-than", tiny, n=8)
    for first, second in [("source", "source"), ("zero", "mean"), ("mean", "zero")]:
        ig = integrated_gradients(tiny, pairs, baseline=first)
        ap = activation_patching(tiny, pairs, baseline=second)
        found = study.estimate("greater-than", "neurons", ig=first, ap=second)
        assert found == correlation_of_means(ig.neurons, ap.neurons)


def test_frequent_lengths_have_enough_prompts_for_a_mean(tiny):
    pairs = frequent_lengths(load_task("ioi", tiny, n=60))
    sizes = [len(group) for group in pairs.groups()]
    assert set(sizes) == {8} and 1 <= len(sizes) <= 3
    with pytest.raises(ValueError, match="no length has 8 of the 5 prompts"):
        frequent_lengths(load_task("ioi", tiny, n=5))


def test_gaps_shrink_with_steps_and_the_better_rule_shrinks_faster(tiny, monkeypatch):
    monkeypatch.setattr(stepping, "TASKS", {"gender-bias": TASKS["gender-bias"]})
    monkeypatch.setattr(stepping, "STEPS", (2, 16, 64))
    frame = stepping.steps(tiny, n=2)
    assert frame.height == len(RULES) * 3 * 2 * 3
    worst = frame.group_by("rule", "steps").agg(pl.col("gap").max())
    gap = {(rule, steps): value for rule, steps, value in worst.iter_rows()}
    for rule in RULES:
        assert gap[rule, 64] < gap[rule, 2]
    assert gap["gauss-legendre", 16] < gap["midpoint", 16] < gap["left", 16]


def test_enough_steps_are_the_fewest_from_which_on_the_gap_is_small():
    """A gap that is small by luck at 4 steps and large again at 8 does not count."""
    gaps = {2: 1.0, 4: 1e-4, 8: 1e-2, 16: 1e-5, 32: 1e-6, 64: 1e-6, 128: 1e-6}
    common = {"task": "ioi", "kind": "heads", "rule": "midpoint"}
    frame = pl.DataFrame(
        [common | {"layer": 0, "steps": steps, "gap": gap} for steps, gap in gaps.items()]
        + [common | {"layer": 1, "steps": steps, "gap": 1.0} for steps in gaps]
        + [common | {"layer": 2, "steps": steps, "gap": 0.0} for steps in gaps]
    )
    assert stepping.enough(frame)["steps"].to_list() == [16, None, 2]
