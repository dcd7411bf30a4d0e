"""The baselines' and the steps' studies, on a tiny model."""

import polars as pl
import pytest

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import correlation_of_means
from analysis.attribution.quadrature import RULES
from analysis.studies import steps as stepping
from analysis.studies.baselines import baselines, frequent_lengths


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)


def test_every_pair_of_baselines_is_compared_on_the_same_prompts(tiny):
    study = baselines(tiny, n=8, tasks=("greater-than",))
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
    assert [len(group) for group in pairs.groups()] == [8]
    two = frequent_lengths(load_task("ioi", tiny, n=60), prompts=16, lengths=2)
    assert [len(group) for group in two.groups()] == [8, 8]
    with pytest.raises(ValueError, match="no length has 8 of the 5 prompts"):
        frequent_lengths(load_task("ioi", tiny, n=5))


def test_gaps_shrink_with_steps_and_the_better_rule_shrinks_faster(tiny, monkeypatch):
    monkeypatch.setattr(stepping, "STEPS", (2, 8, 16, 64))
    study = stepping.steps(tiny, n=2, tasks=("gender-bias",))
    assert study.gaps.height == len(RULES) * 4 * 2 * 3
    gap = {(rule, steps): value for rule, steps, value in study.worst().iter_rows()}
    for rule in RULES:
        assert gap[rule, 64] < gap[rule, 2]
    assert gap["gauss-legendre", 16] < gap["midpoint", 16] < gap["left", 16]
    orders = dict(study.orders_table().iter_rows())
    assert float(orders["left"]) == pytest.approx(1, abs=0.15)
    assert float(orders["trapezoid"]) == pytest.approx(2, abs=0.3)
    few = study.few.group_by("task", "kind", "layer", maintain_order=True).agg(pl.col("gap").max())
    by_rule = pl.col("rule") == "gauss-legendre", pl.col("steps") == 8
    assert few.equals(study.gaps.filter(*by_rule).select("task", "kind", "layer", "gap"))


def test_attention_moves_as_far_as_the_bridges_own_patterns_say(tiny):
    """By hand: the second layer's patterns in the run with the first layer's neurons patched."""
    pairs = load_task("gender-bias", tiny, n=1)
    clean, corrupted = pairs.clean_tokens[0][None], pairs.corrupted_tokens[0][None]
    _, cache = tiny.run_with_cache(corrupted)
    _, base = tiny.run_with_cache(clean)
    found = []
    hooks = [("blocks.1.mlp.hook_post", lambda act, hook: cache[hook.name])]
    hooks += [("blocks.2.attn.hook_pattern", lambda act, hook: found.append(act.clone()))]
    tiny.run_with_hooks(clean, fwd_hooks=hooks)
    expected = (found[0] - base["blocks.2.attn.hook_pattern"]).abs().sum(dim=-1).max() / 2
    moved = stepping.attention_moved(tiny, pairs).filter(pl.col("kind") == "neurons")["moved"]
    assert moved[1] == pytest.approx(expected.item(), abs=1e-6) and 0 < moved[1] <= 1
    assert moved[2] == 0


def test_enough_steps_are_the_fewest_from_which_on_the_gap_is_small():
    """A gap that is small by luck at 4 steps and large again at 8 does not count."""
    gaps = {2: 1.0, 4: 1e-4, 8: 1e-2, 16: 1e-5, 32: 1e-6}
    common = {"task": "ioi", "kind": "heads", "rule": "midpoint"}
    frame = pl.DataFrame(
        [common | {"layer": 0, "steps": steps, "gap": gap} for steps, gap in gaps.items()]
        + [common | {"layer": 1, "steps": steps, "gap": 1.0} for steps in gaps]
        + [common | {"layer": 2, "steps": steps, "gap": 0.0} for steps in gaps]
    )
    assert stepping.enough(frame)["steps"].to_list() == [16, None, 2]
