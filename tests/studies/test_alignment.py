"""The baselines' and the steps' studies, on a tiny model and on scores made up by hand."""

from collections import Counter
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import correlation_of_means
from analysis.choices import BASELINES, KINDS
from analysis.studies import alignment, one
from analysis.studies.alignment import commonest_length


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)


def test_every_pair_of_baselines_is_compared_on_the_same_prompts(tiny):
    found = alignment.baselines(tiny, n=8, tasks=("greater-than",))
    pairs = load_task("greater-than", tiny, n=8)
    ig, ap = (
        {baseline: method(tiny, pairs, baseline=baseline) for baseline in BASELINES}
        for method in (integrated_gradients, activation_patching)
    )
    assert len(found) == 18 and set(found["n"]) == {8}
    for kind, first, second in product(KINDS, BASELINES, BASELINES):
        expected = correlation_of_means(ig[first].of(kind), ap[second].of(kind), kind)
        row = one(found, task="greater-than", kind=kind, ig=first, ap=second, statistic="Pearson")
        assert (row.mean, *row[2:]) == pytest.approx((expected.mean, *expected[2:]), nan_ok=True)


def test_the_commonest_length_has_enough_prompts_for_a_mean(tiny):
    pairs = load_task("ioi", tiny, n=60)
    chosen = commonest_length(pairs)
    (length,) = {len(tokens) for tokens in chosen.clean_tokens}
    lengths = Counter(len(tokens) for tokens in pairs.clean_tokens)
    assert lengths[length] == max(lengths.values())
    assert (
        chosen.clean
        == [
            text
            for text, tokens in zip(pairs.clean, pairs.clean_tokens, strict=True)
            if len(tokens) == length
        ][:8]
    )
    with pytest.raises(ValueError, match="no length has 8 of the 5 prompts"):
        commonest_length(load_task("ioi", tiny, n=5))


def test_gaps_shrink_with_steps_and_the_better_rule_shrinks_faster(tiny, monkeypatch):
    monkeypatch.setattr(alignment, "STEPS", (2, 8, 16, 64))
    found = alignment.steps(tiny, n=2, tasks=("gender-bias",))
    gaps = found.filter(statistic="gap")
    of = product(["gender-bias"], KINDS, range(3), alignment.RULES, alignment.STEPS)
    keys = ["task", "kind", "layer", "rule", "steps"]
    assert Counter(gaps.select(keys).rows()) == Counter(of)
    gap = {
        (rule, steps): of["estimate"].max() for (rule, steps), of in gaps.group_by("rule", "steps")
    }
    for rule in alignment.RULES:
        assert gap[rule, 64] < gap[rule, 2]
    assert gap["gauss-legendre", 16] < gap["midpoint", 16] < gap["left", 16]
    order = summary_of(found)["order"]
    assert order["left"] == pytest.approx(1, abs=0.15)
    assert order["trapezoid"] == pytest.approx(2, abs=0.3)
    each = found.filter(statistic="prompt's gap").group_by(keys[:3], maintain_order=True)
    largest = each.agg(pl.col("estimate").max()).sort(keys[:3])
    eight = gaps.filter(rule="gauss-legendre", steps=8).sort(keys[:3])
    assert largest["estimate"].to_list() == eight["estimate"].to_list()


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
    moved = alignment.attention_moved(tiny, pairs).filter(kind="neurons")["estimate"]
    assert moved[1] == pytest.approx(expected.item(), abs=1e-6) and 0 < moved[1] <= 1
    assert moved[2] == 0


def test_a_gap_is_relative_to_the_largest_total_effect():
    """Of two prompts and two layers, the larger in each; r is of the prompt-averaged scores."""
    heads = np.array([[[1.0, 2, 4], [1, 2, 3]], [[1, 4, 4], [3, 2, 1]]])
    both = {"base": [0.0, 1], "source": [2.0, -4], "prompts": torch.tensor([6, 8])}
    ap = made.scores("AP", heads, **both)
    other = [[[2.0, 3, 3], [3, 2, 1]], [[2, 3, 7], [1, 3, 5]]]
    ig = made.scores("IG", other, **both, heads_gap=torch.tensor([[0.5, -2.0], [-1.5, 1.0]]))
    found = alignment._frame(alignment._of_kind(ap, ig, "heads", "gauss-legendre", 8))
    assert set(found["task"]) == {"ioi"} and set(found["kind"]) == {"heads"}
    gaps = found.filter(statistic="gap").select("layer", "rule", "steps", "prompt", "estimate", "n")
    assert gaps.rows() == [
        (0, "gauss-legendre", 8, None, pytest.approx(1.5 / 5), 2),
        (1, "gauss-legendre", 8, None, pytest.approx(2 / 5), 2),
    ]
    r = pearsonr([1, 3, 4], [2, 3, 5]).statistic
    assert found.filter(statistic="Pearson")["estimate"].to_list() == [pytest.approx(r), None], (
        "AP is constant in the second layer"
    )
    each = found.filter(statistic="prompt's gap").select("layer", "prompt", "estimate")
    assert each.rows() == [
        (layer, prompt, pytest.approx(gap / 5))
        for prompt, gaps in enumerate(((0.5, 2), (1.5, 1)))
        for layer, gap in enumerate(gaps)
    ]
    fewer = alignment._frame(alignment._of_kind(ap, ig, "heads", "left", 8))
    assert "prompt's gap" not in fewer["statistic"]


# Gauss-Legendre's gap by number of steps: small by luck at 4 steps and large again at 8 does not
# count. Two prompts' gaps and attention; no head follows layer 1.
GAPS = {
    ("ioi", "heads", 0): {2: 0.5, 4: 1e-4, 8: 0.02, 16: 9e-4, 32: 1e-6},
    ("ioi", "heads", 1): {2: 0.4, 4: 1.5e-3, 8: 7e-4, 16: 6e-4, 32: 5e-4},
    ("ioi", "neurons", 0): {2: 0.3, 4: 0.03, 8: 0.012, 16: 0.013, 32: 1.0},
    ("ioi", "neurons", 1): {2: 2e-4, 4: 3e-4, 8: 4e-4, 16: 1.5e-4, 32: 2.5e-4},
}
FEW = {
    ("ioi", "heads", 0): (0.02, 0.001),
    ("ioi", "heads", 1): (0.9, 0.8),
    ("ioi", "neurons", 0): (0.003, 0.002),
    ("ioi", "neurons", 1): (0.7, 0.6),
}
MOVED = {
    ("ioi", "heads", 0): (0.5, 0.25),
    ("ioi", "heads", 1): (0.0, 0.0),
    ("ioi", "neurons", 0): (0.75, 0.125),
    ("ioi", "neurons", 1): (0.0, 0.0),
}


def rows(statistic: str, values: dict) -> list[dict]:
    return [
        dict(zip(("task", "kind", "layer"), key, strict=True))
        | {"statistic": statistic, "prompt": prompt, "estimate": value, "n": 1}
        for key, of in values.items()
        for prompt, value in enumerate(of)
    ]


def by_rule(rule: str, key: tuple, gaps: dict[int, float]) -> list[dict]:
    about = dict(zip(("task", "kind", "layer"), key, strict=True)) | {"rule": rule, "n": 2}
    return [about | {"statistic": "gap", "steps": n, "estimate": gap} for n, gap in gaps.items()]


def summary_of(exactness: pl.DataFrame) -> dict:
    """What the page's cells make of the study's frame."""
    above = made.cell("alignment", "ENOUGH = ", exactness=exactness, STEPS=alignment.STEPS)
    largest = above["gaps"].group_by("rule", "steps", maintain_order=True)
    largest = largest.agg(pl.col("estimate").max())
    return above | made.cell("alignment", "ROUNDING = ", largest=largest)


@pytest.fixture
def summary() -> dict:
    """Beside it a rule of order 2, one of order 1, and none of the others."""
    measured = [row for key, gaps in GAPS.items() for row in by_rule("gauss-legendre", key, gaps)]
    for rule, layer, size, power in (
        ("midpoint", 0, 6, 2),
        ("midpoint", 1, 5, 2),
        ("left", 1, 3, 1),
    ):
        gaps = {n: size / n**power for n in alignment.STEPS}
        measured += by_rule(rule, ("ioi", "heads", layer), gaps)
    measured += rows("prompt's gap", FEW) + rows("attention moved", MOVED)
    return summary_of(alignment._frame(measured))


def test_the_fewest_steps_are_those_from_which_on_the_gap_is_small(summary):
    assert summary["fewest"].select("kind", "layer", "estimate").rows() == [
        ("heads", 0, 16),
        ("heads", 1, 8),
        ("neurons", 0, None),
        ("neurons", 1, 2),
    ]


def test_an_order_is_that_of_the_worst_layer(summary):
    order = summary["order"]
    assert order["midpoint"] == pytest.approx(2) and order["left"] == pytest.approx(1)
    assert order["trapezoid"] is None, "where there is nothing to fit"


def test_gaps_are_correlated_with_attention_where_a_head_follows(summary):
    keys = [("ioi", "heads", 0), ("ioi", "neurons", 0)]
    gaps, moved = ([value for key in keys for value in of[key]] for of in (FEW, MOVED))
    assert summary["spearman"] == pytest.approx(spearmanr(gaps, moved).statistic)
    assert summary["behind_rho"] == "4"
