"""What sets of components do, on a tiny model."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import largest, multi_ablated_performance
from analysis.studies.circuits import DIFFERENCE, METHODS, circuits
from analysis.studies.consequences import DRAWS, Consequences, consequences, named_sets

PROMPTS = 16
TREATMENTS = {
    "ablated": {},
    "ablated to means": {"baseline": "mean"},
    "kept alone": {"keep": True},
}


@pytest.fixture(scope="module", autouse=True)
def results(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield


@pytest.fixture(scope="module")
def study(tiny, results):
    return consequences(tiny, n=PROMPTS, tasks=("greater-than",))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_set_ranked_on_one_half_is_tested_on_the_other(study, tiny, treatment, direction):
    pairs = load_task("greater-than", tiny, n=PROMPTS)
    ranking, tested = (pairs.select(range(start, PROMPTS, 2)) for start in (0, 1))
    ig = integrated_gradients(tiny, ranking, direction=direction)
    ap = activation_patching(tiny, tested, direction=direction, kinds=())
    sets = largest(ig.neurons.mean(dim=0).numpy(), 50)[None]
    settings = TREATMENTS[treatment] | {"direction": direction}
    metric = multi_ablated_performance(tiny, tested, sets, "neurons", **settings)
    expected = float((metric[0] - ap.base).mean() / ap.total.mean())
    row = study.sets.row(
        by_predicate=(pl.col("kind") == "neurons")
        & (pl.col("k") == 50)
        & (pl.col("treatment") == treatment)
        & (pl.col("direction") == direction)
        & (pl.col("set") == "IG"),
        named=True,
    )
    assert row["mean"] == pytest.approx(expected, abs=1e-4)
    assert row["size"] == 50 and row["prompts"] == PROMPTS // 2
    assert row["low"] <= row["mean"] <= row["high"]


def test_a_difference_of_sets_is_paired(study):
    keys = ["direction", "kind", "k", "treatment"]
    by_set = study.sets.pivot("set", index=keys, values="mean")
    both = by_set.drop_nulls("IG only - matched")
    assert both.height
    np.testing.assert_allclose(
        both["IG only - matched"], both["IG only"] - both["matched"], atol=1e-9
    )


def test_sentences_count_what_the_frame_says():
    """Two cases with an interval above zero, one around it, none below."""
    own = {"task": "ioi", "direction": "noising", "kind": "heads", "size": 1, "prompts": 8, "sd": 1}
    rows = [
        own | {"k": k, "set": name, "treatment": "ablated", "mean": 0.1, "low": low, "high": 0.2}
        for k, low in ((2, 0.05), (4, 0.05), (8, -0.05))
        for name in ("IG only - matched", "AP only - matched", "IG only", "AP only", "shared")
    ]
    rows += [row | {"set": "matched"} for row in rows if row["set"] == "shared"]
    rows += [row | {"set": "IG - AP"} for row in rows if row["set"] == "shared"]
    study = Consequences(pl.DataFrame(rows))
    assert "In 3 cases IG names" in study.idle()
    assert "matched components in 2 of 3 cases and less in 0" in study.idle()
    assert "top 2 heads: ablated, IG's set moves the metric further in 1" in study.better()
    assert "top 8 heads: ablated, IG's set moves the metric further in 0" in study.better()


def test_circuits_go_from_nothing_to_the_whole_model(tiny):
    study = circuits(tiny, n=PROMPTS, tasks=("greater-than",))
    for share, value in ((0.0, 0.0), (1.0, 1.0)):
        ends = study.curves.filter(pl.col("share") == share)["faithfulness"]
        np.testing.assert_allclose(ends, value, atol=1e-6)
    assert set(study.curves["method"]) == set(METHODS)
    areas = study.areas.pivot("method", index=["direction", "kind", "area"], values="mean")
    assert (areas.filter(pl.col("area") == "CMD").select(METHODS).min_horizontal() >= 0).all()
    np.testing.assert_allclose(areas[DIFFERENCE], areas["IG"] - areas["AP"], atol=1e-12)
    assert study.table().height == 2 * 2 * 2


@given(seed=st.integers(0, 99), k=st.integers(1, 20))
def test_named_sets_keep_apart(seed, k):
    random = np.random.default_rng(seed)
    ig, ap, differences = np.abs(random.normal(size=(3, 2, 40)))
    sets = named_sets(ig, ap, differences, k, seed)
    assert sets["IG"].sum() == sets["AP"].sum() == k
    own = k - sets.get("shared", np.zeros(1)).sum()
    union = (sets["IG"] | sets["AP"])[0]
    for name in ("IG only", "AP only"):
        assert (sets[name].sum() if name in sets else 0) == own
    for name in ("random", "matched"):
        if name in sets:
            assert sets[name].shape == (DRAWS, 2, 40)
            assert (sets[name].sum(axis=(1, 2)) == own).all()
            assert not (sets[name] & union).any()
