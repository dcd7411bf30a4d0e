"""What sets of components do, on a tiny model."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import largest, multi_ablated_performance
from analysis.studies import consequences as module
from analysis.studies.consequences import DRAWS, consequences, named_sets
from analysis.tasks import TASKS


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        patch.setattr(module, "TASKS", {"greater-than": TASKS["greater-than"]})
        patch.setattr(module, "RESAMPLES", 50)
        yield consequences(tiny, n=8)


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task("greater-than", tiny, n=8)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("values", ["source", "mean"])
def test_a_sets_change_is_that_of_ablating_it(study, tiny, pairs, values, keep):
    ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
    sets = largest(ig.neurons.mean(dim=0).numpy(), 50)[None]
    metric = multi_ablated_performance(tiny, pairs, sets, "neurons", baseline=values, keep=keep)
    expected = float((metric[0] - ap.base).mean() / ap.total.mean())
    row = study.sets.row(
        by_predicate=(pl.col("kind") == "neurons")
        & (pl.col("k") == 50)
        & (pl.col("values") == values)
        & (pl.col("set") == "IG")
        & (pl.col("keep") == keep),
        named=True,
    )
    assert row["mean"] == pytest.approx(expected, abs=1e-4)
    assert row["size"] == 50 and row["low"] <= row["mean"] <= row["high"]


def test_circuits_go_from_nothing_to_the_whole_model(study):
    for share, value in ((0.0, 0.0), (1.0, 1.0)):
        ends = study.curves.filter(pl.col("share") == share)["faithfulness"]
        np.testing.assert_allclose(ends, value, atol=1e-6)
    assert set(study.curves["method"]) == {"IG", "AP", "‖Δa‖", "random"}
    areas = study.areas.filter(pl.col("area") == "CMD")
    assert (areas["mean"] >= 0).all()


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
