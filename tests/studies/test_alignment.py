"""The baselines' and the steps' studies, on a tiny model and on frames made up by hand."""

from collections import Counter
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import pearsonr
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import correlation_of_means
from analysis.attribution.parts import BASELINES
from analysis.attribution.quadrature import RULES
from analysis.forward import KINDS
from analysis.studies import steps as stepping
from analysis.studies.baselines import Baselines, baselines, frequent_lengths
from analysis.studies.steps import Steps


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)


def test_every_pair_of_baselines_is_compared_on_the_same_prompts(tiny):
    study = baselines(tiny, n=8, tasks=("greater-than",))
    assert study.prompts == {"greater-than": 8}
    pairs = load_task("greater-than", tiny, n=8)
    ig, ap = (
        {baseline: method(tiny, pairs, baseline=baseline) for baseline in BASELINES}
        for method in (integrated_gradients, activation_patching)
    )
    rows = study.agreement.rows_by_key(["task", "kind", "ig", "ap"], named=True, unique=True)
    assert rows.keys() == set(product(["greater-than"], KINDS, BASELINES, BASELINES))
    for (_, kind, first, second), row in rows.items():
        expected = correlation_of_means(ig[first].of(kind), ap[second].of(kind))
        assert row == expected._asdict()


# IG's and AP's baselines; gender bias lies below IOI.
PAIRS = {
    "task": {"ioi": 2, "gender-bias": 1},
    "kind": {"heads": 10, "neurons": 20},
    "ig": {"source": 0.3, "mean": 0.2, "zero": 0.1},
    "ap": {"source": 0.03, "mean": 0.02, "zero": 0.01},
}


@pytest.fixture
def pairs_of_baselines() -> Baselines:
    return Baselines({"ioi": 8, "gender-bias": 16}, pl.DataFrame(made.every(PAIRS)))


def test_a_finding_names_the_lowest_r_of_each_pair_of_baselines(pairs_of_baselines):
    assert made.plain(pairs_of_baselines.finding()) == (
        "For heads, r of the prompt-averaged scores is at least 11.33 [11.30, 11.35] with the "
        "source as both baselines, 11.22 [11.19, 11.24] with the mean as both and 11.11 [11.08, "
        "11.13] with zero as both; of IG from zero, which libraries default to, and AP from the "
        "source it is as low as 11.13 [11.10, 11.15]. For neurons, r of the prompt-averaged scores "
        "is at least 21.33 [21.30, 21.35] with the source as both baselines, 21.22 [21.19, 21.24] "
        "with the mean as both and 21.11 [21.08, 21.13] with zero as both; of IG from zero, which "
        "libraries default to, and AP from the source it is as low as 21.13 [21.10, 21.15]."
    )


def test_what_is_lost_stands_under_igs_baseline(pairs_of_baselines):
    assert made.table(pairs_of_baselines.lost_table()) == [
        ("task", "kind", "prompts", "IG from source", "IG from mean", "IG from zero"),
        ("ioi", "heads", 8, *map(made.shown, (12.33, 12.23, 12.13))),
        ("ioi", "neurons", 8, *map(made.shown, (22.33, 22.23, 22.13))),
        ("gender-bias", "heads", 16, *map(made.shown, (11.33, 11.23, 11.13))),
        ("gender-bias", "neurons", 16, *map(made.shown, (21.33, 21.23, 21.13))),
    ]
    assert set(pairs_of_baselines.of("neurons")["kind"]) == {"neurons"}


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
    of = product(["gender-bias"], KINDS, range(3), RULES, stepping.STEPS)
    assert Counter(study.gaps.drop("gap", "r").rows()) == Counter(of)
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


def test_a_gap_is_relative_to_the_largest_total_effect():
    """Of two prompts and two layers, the larger in each; r is of the prompt-averaged scores."""
    heads = np.array([[[1.0, 2, 4], [1, 2, 3]], [[1, 4, 4], [3, 2, 1]]])
    both = {"base": [0.0, 1], "source": [2.0, -4], "prompts": torch.tensor([6, 8])}
    ap = made.scores("AP", heads, **both)
    other = [[[2.0, 3, 3], [3, 2, 1]], [[2, 3, 7], [1, 3, 5]]]
    ig = made.scores("IG", other, **both, heads_gap=torch.tensor([[0.5, -2.0], [-1.5, 1.0]]))
    found = stepping._by_layer(ap, ig, "heads", "left", 8)
    r = pearsonr([1, 3, 4], [2, 3, 5]).statistic
    assert made.table(found.drop("r")) == [
        ("task", "kind", "layer", "rule", "steps", "gap"),
        ("ioi", "heads", 0, "left", 8, pytest.approx(1.5 / 5)),
        ("ioi", "heads", 1, "left", 8, pytest.approx(2 / 5)),
    ]
    assert found["r"][0] == pytest.approx(r) and np.isnan(found["r"][1]), "AP is constant there"
    assert stepping._by_prompt(ig, "heads").select("layer", "prompt", "gap").rows() == [
        (layer, prompt, pytest.approx(gap / 5))
        for prompt, gaps in enumerate(((0.5, 2), (1.5, 1)))
        for layer, gap in enumerate(gaps)
    ]


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


# Gauss-Legendre's gap by number of steps, and two prompts' numbers. No head follows layer 1.
GAPS = {
    ("ioi", "heads", 0): {2: 0.5, 4: 1e-4, 8: 0.02, 16: 9e-4, 32: 1e-6},
    ("ioi", "heads", 1): {2: 0.4, 4: 8e-4, 8: 7e-4, 16: 6e-4, 32: 5e-4},
    ("ioi", "neurons", 0): {2: 0.3, 4: 0.03, 8: 0.012, 16: 0.013, 32: 1e-5},
    ("ioi", "neurons", 1): {2: 2e-4, 4: 3e-4, 8: 4e-4, 16: 1.5e-4, 32: 2.5e-4},
}
MOVED = {
    ("ioi", "heads", 0): (0.5, 0.25),
    ("ioi", "heads", 1): (0.0, 0.0),
    ("ioi", "neurons", 0): (0.75, 0.125),
    ("ioi", "neurons", 1): (0.0, 0.0),
}
FEW = {
    ("ioi", "heads", 0): (0.02, 0.001),
    ("ioi", "heads", 1): (0.9, 0.8),
    ("ioi", "neurons", 0): (0.003, 0.002),
    ("ioi", "neurons", 1): (0.7, 0.6),
}


def frame(columns: str, rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, columns.split(), orient="row")


def of_prompts(values: dict, name: str) -> pl.DataFrame:
    rows = [(*key, prompt, value) for key, of in values.items() for prompt, value in enumerate(of)]
    return frame(f"task kind layer prompt {name}", rows)


def stepped(gaps: dict) -> Steps:
    """Beside it a rule of order 2, one of order 1, and none of the others."""
    rows = [
        (*key, "gauss-legendre", steps, gap, 1 - gap - key[2] / 10)
        for key, of in gaps.items()
        for steps, gap in of.items()
    ]
    rows += [("ioi", "heads", 0, "midpoint", n, 6 / n**2, -1.0) for n in stepping.STEPS]
    rows += [("ioi", "heads", 1, "midpoint", n, 5 / n**2, -1.0) for n in stepping.STEPS]
    rows += [("ioi", "heads", 1, "left", n, 3 / n, -1.0) for n in stepping.STEPS]
    gaps = frame("task kind layer rule steps gap r", rows)
    return Steps(gaps, of_prompts(MOVED, "moved"), of_prompts(FEW, "gap"))


def test_enough_steps_stand_beside_how_far_attention_moves():
    assert made.table(stepped(GAPS).enough_table()) == [
        ("task", "kind", "layer 0", "layer 1"),
        ("ioi", "heads", "16 (0.38)", "4 (0.00)"),
        ("ioi", "neurons", "32 (0.44)", "2 (0.00)"),
    ]


def test_steps_have_the_worst_layers_numbers():
    study = stepped(GAPS)
    worst = {(rule, steps): gap for rule, steps, gap in study.worst().rows()}
    assert worst["gauss-legendre", 8] == 0.02 and worst["gauss-legendre", 16] == 0.013
    assert worst["midpoint", 4] == 6 / 16
    orders = dict(study.orders_table().rows())
    assert orders["midpoint"] == "2.0" and orders["left"] == "1.0"
    assert orders["trapezoid"] == "under 1e-05 after 8 steps", "where there is nothing to fit"
    r = {key: value for *key, value in study.agreement().rows() for key in [tuple(key)]}
    assert r["ioi", "heads", 2] == pytest.approx(1 - 0.5)
    assert r["ioi", "heads", 4] == pytest.approx(1 - 8e-4 - 0.1)
    assert r["ioi", "neurons", 16] == pytest.approx(1 - 1.5e-4 - 0.1)
    assert len(r) == 10


def test_a_finding_says_whether_so_many_steps_are_enough():
    """ρ is over the layers that a head follows, where the ranks are 4, 1, 3, 2 and 3, 2, 4, 1."""
    end = (
        " Layers need more steps where patching them turns later heads' attention from one token "
        "to another: along most of that path attention is saturated, and it changes on a short "
        "piece of it. With 8 steps Spearman's ρ between a prompt's gap at a layer and how far "
        "attention moves is 0.60 over 4 prompts and layers."
    )
    assert stepped(GAPS).finding() == (
        "Gauss-Legendre brings every layer of every task under a gap of 0.001 with 32 steps, on 2 "
        "prompts a task." + end
    )
    never = GAPS | {("ioi", "neurons", 0): dict.fromkeys(stepping.STEPS, 0.5)}
    assert stepped(never).finding() == (
        "Gauss-Legendre brings 3 of 4 layers under a gap of 0.001 with 32 steps, on 2 prompts a "
        "task." + end
    )
