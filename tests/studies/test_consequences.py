"""What sets of components do: of rankings made up by hand, and on a tiny model."""

from collections import Counter
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import MIB_SHARES, largest, multi_ablated_performance
from analysis.agreement import (
    Estimate,
    correlation_of_means,
    mean_over_prompts,
    of_means,
    overlap_at,
    spearman,
)
from analysis.studies import consequences as study
from analysis.studies import tidy
from analysis.studies.consequences import DRAWS, Ranking, compared_sets

PROMPTS = 16
TOTAL = -3.0
METHODS = ("IG", "AP", "‖Δa‖", "random")
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
def changes(tiny, results):
    return study.consequences(tiny, n=PROMPTS, tasks=("greater-than",))


def numbers(estimate: Estimate) -> dict[str, float]:
    return {"estimate": estimate.mean, "low": estimate.low, "high": estimate.high}


class OfOneLength(tuple):
    """Prompts that run together."""

    def groups(self):
        return [list(self)]


class MadeRanking(Ranking):
    """Each component moves a prompt's metric by its weight times the prompt's gain.

    The prompts that rank have a total effect of 100, those that test one of -3 on average.
    """

    def __init__(self, tested: int = 9):
        random = np.random.default_rng(0)
        shapes = {"heads": (2, 4), "neurons": (2, 30)}
        totals = np.full(2 * tested, 100.0)
        totals[1::2] = TOTAL + np.linspace(-1, 1, tested)
        ap = made.scores(
            heads=np.zeros((2 * tested, 2, 4)),
            base=np.zeros(2 * tested),
            source=totals,
            direction="denoising",
        )
        made_up = {
            "ap": ap,
            "tested": OfOneLength(range(tested)),
            "weights": {kind: random.lognormal(size=shape) for kind, shape in shapes.items()},
            "base": random.normal(size=tested),
            "gain": random.normal(2, 1, size=tested),
        }
        for name, value in made_up.items():
            object.__setattr__(self, name, value)

    def ranked(self, kind):
        random = np.random.default_rng(1)
        noise = {"IG": 0.2, "AP": 0.8, "‖Δa‖": 2}
        weights = self.weights[kind]
        return {name: weights * random.lognormal(0, n, weights.shape) for name, n in noise.items()}

    def moved(self, sets, kind, baseline="source", keep=False):
        taken = ~sets if keep else sets
        factor = {"source": 1.0, "mean": 0.4}[baseline]
        return factor * (taken * self.weights[kind]).sum(axis=(1, 2))[:, None] * self.gain

    def metric(self, sets, kind, baseline="source", keep=False):
        return self.base + self.moved(sets, kind, baseline, keep)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_set_ranked_on_one_half_is_tested_on_the_other(changes, tiny, treatment, direction):
    pairs = load_task("greater-than", tiny, n=PROMPTS)
    ranking, tested = (pairs.select(range(start, PROMPTS, 2)) for start in (0, 1))
    methods = {"IG": integrated_gradients, "AP": activation_patching}
    scores = {name: of(tiny, ranking, direction=direction) for name, of in methods.items()}
    ap = activation_patching(tiny, tested, direction=direction, kinds=())
    sets = np.stack([largest(of.neurons.mean(dim=0).numpy(), 50) for of in scores.values()])
    settings = TREATMENTS[treatment] | {"direction": direction}
    metric = multi_ablated_performance(tiny, tested, sets, "neurons", **settings)
    expected = (metric - ap.base).mean(dim=1) / ap.total.mean()
    rows = changes.filter(kind="neurons", k=50, treatment=treatment, direction=direction)
    by_set = rows.rows_by_key("set", named=True, unique=True)
    for name, change in zip(methods, expected, strict=True):
        row = by_set[name]
        assert row["estimate"] == pytest.approx(change.item(), abs=1e-4)
        assert row["size"] == 50 and row["n"] == PROMPTS // 2
        assert row["low"] <= row["estimate"] <= row["high"]


def test_every_set_and_difference_is_what_it_is_called():
    """Differences are paired: prompts whose gain is large move every set."""
    ranking = MadeRanking()
    found = tidy(study._changes(ranking, 3))
    keys = ["kind", "k", "treatment", "set"]
    assert found.columns == [*keys, "size", "statistic", "estimate", "low", "high", "n"]
    rows = found.rows_by_key(keys, named=True, unique=True)
    differences = [("IG", "AP"), ("IG only", "matched"), ("AP only", "matched")]
    expected = {}
    for kind, sizes in {"heads": (2, 4), "neurons": (10, 50)}.items():
        for k, (treatment, settings) in product(sizes, TREATMENTS.items()):
            ranked = ranking.ranked(kind)
            ig, ap = (largest(ranked[name], k) for name in ("IG", "AP"))
            sets = {"IG": ig, "AP": ap, "shared": ig & ap, "IG only": ig & ~ap, "AP only": ap & ~ig}
            sets = {name: mask[None] for name, mask in sets.items() if mask.any()}
            drawn = compared_sets(ranked["IG"], ranked["AP"], ranked["‖Δa‖"], k, 3)
            if treatment == "ablated":
                sets |= {name: drawn[name] for name in ("random", "matched") if name in drawn}
            changes = {
                name: ranking.moved(masks, kind, **settings).mean(axis=0) / TOTAL
                for name, masks in sets.items()
            }
            for first, second in differences:
                if {first, second} <= changes.keys():
                    changes[f"{first} - {second}"] = changes[first] - changes[second]
            for name, change in changes.items():
                size = int(sets[name][0].sum()) if name in sets else 0
                about = {"size": size, "statistic": "change", "n": 9}
                expected[kind, k, treatment, name] = about | numbers(mean_over_prompts(change, 3))
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert row == pytest.approx(expected[key]), key
    together = [rows["heads", 2, "ablated", name] for name in ("IG", "AP", "IG - AP")]
    ig, ap, both = (row["high"] - row["low"] for row in together)
    assert both < 0.9 * np.hypot(ig, ap)


def test_a_mean_needs_enough_tested_prompts_of_one_length():
    treatments = {n: set(tidy(study._changes(MadeRanking(n), 0))["treatment"]) for n in (7, 8)}
    assert treatments == {7: {"ablated", "kept alone"}, 8: set(TREATMENTS)}


def test_matched_components_change_as_much_as_those_that_only_ig_ranks_highly():
    """That one changes by about 1, as do half of the others; AP's changes by about 100."""
    ig, ap = np.zeros((2, 1, 40))
    ig[0, 0], ap[0, 1] = 5, 5
    moved = np.where(np.arange(40) % 2, 100.0, 1.0)[None]
    sets = compared_sets(ig, ap, moved, k=1)
    assert (moved[sets["matched"].any(axis=0)] == 1).all()
    assert set(moved[sets["random"].any(axis=0)]) == {1, 100}


@given(seed=st.integers(0, 99), k=st.integers(1, 20))
def test_compared_sets_keep_apart(seed, k):
    random = np.random.default_rng(seed)
    ig, ap, differences = np.abs(random.normal(size=(3, 2, 40)))
    sets = compared_sets(ig, ap, differences, k, seed)
    assert sets["IG"].sum() == sets["AP"].sum() == k
    alone = k - sets.get("shared", np.zeros(1)).sum()
    union = (sets["IG"] | sets["AP"])[0]
    for name in ("IG only", "AP only"):
        assert (sets[name].sum() if name in sets else 0) == alone
    assert ({"random", "matched"} <= sets.keys()) == (0 < alone <= 80 - union.sum())
    for name in {"random", "matched"} & sets.keys():
        assert sets[name].shape == (DRAWS, 2, 40)
        assert (sets[name].sum(axis=(1, 2)) == alone).all()
        assert not (sets[name] & union).any()


def test_circuits_keep_the_components_that_their_method_ranks_first():
    """The weights of what is kept, as a share of all of them, is how faithful a circuit is here."""
    ranking = MadeRanking()
    found = tidy(study._circuits(ranking, 0))
    keys = ["kind", "method", "statistic", "share"]
    assert found.columns == [*keys, "estimate", "low", "high", "n"]
    assert set(found["n"]) == {9}
    kinds, areas = ("heads", "neurons"), ("CPR", "CMD")
    assert Counter(found.select(keys).rows()) == Counter(
        [
            *product(kinds, METHODS, ["faithfulness"], MIB_SHARES),
            *product(kinds, [*METHODS, "IG - AP"], areas, [None]),
        ]
    )
    curves = {}
    for kind, weights in ranking.weights.items():
        for method, scores in ranking.ranked(kind).items():
            sizes = [round(share * weights.size) for share in MIB_SHARES]
            inside = [weights[largest(scores, size)].sum() / weights.sum() for size in sizes]
            curves[kind, method] = np.array(inside)
    drawn = found.filter(statistic="faithfulness")
    for (kind, method), rows in drawn.group_by("kind", "method", maintain_order=True):
        if method == "random":
            assert not any(np.allclose(rows["estimate"], curves[kind, m]) for m in METHODS[:3])
        else:
            np.testing.assert_allclose(rows["estimate"], curves[kind, method], atol=1e-9)
    rows = found.rows_by_key(["kind", "statistic", "method"], named=True)
    for (kind, method), curve in curves.items():
        under, above = (np.trapezoid(of, MIB_SHARES) for of in (curve, abs(1 - curve)))
        assert rows[kind, "CPR", method][0]["estimate"] == pytest.approx(under)
        assert rows[kind, "CMD", method][0]["estimate"] == pytest.approx(above)
    ig, ap = (curves["heads", method] for method in ("IG", "AP"))
    assert rows["heads", "CPR", "IG - AP"][0]["estimate"] == pytest.approx(
        np.trapezoid(ig - ap, MIB_SHARES)
    )


def faithful(prompts: int, seed: int = 0) -> pl.DataFrame:
    """IG's curve lies as far above AP's on every prompt, however faithful its circuits are."""
    shares = np.array(MIB_SHARES)[:, None]
    powers = np.random.default_rng(0).uniform(0.2, 3, size=prompts)
    lifts = {"IG": 0.3, "AP": 0.1, "‖Δa‖": 0.0, "random": -0.2}
    metrics = {name: shares**powers + lift * shares * (1 - shares) for name, lift in lifts.items()}
    return tidy(study._faithful(metrics, seed))


def test_areas_of_two_methods_are_compared_on_the_same_resamples():
    rows = faithful(10).filter(statistic="CPR")
    width = {row["method"]: row["high"] - row["low"] for row in rows.iter_rows(named=True)}
    assert width["IG"] > 0.1 and width["AP"] > 0.1 and width["IG - AP"] < 1e-9
    (difference,) = rows.filter(method="IG - AP")["estimate"]
    shares = np.array(MIB_SHARES)
    assert difference == pytest.approx(np.trapezoid(0.2 * shares * (1 - shares), shares))


def test_a_seed_decides_nothing_but_the_intervals_of_areas():
    first, second = faithful(10, seed=0), faithful(10, seed=1)
    assert first.equals(faithful(10, seed=0))
    assert first["estimate"].equals(second["estimate"])
    ends = pl.col("method") == "IG", pl.col("statistic").is_in(["CPR", "CMD"])
    assert (first.filter(ends)["low"] != second.filter(ends)["low"]).all()
    assert len(first.filter(ends)) == 2


def test_one_tested_prompt_gives_areas_without_intervals():
    areas = faithful(1).filter(pl.col("statistic") != "faithfulness")
    assert len(areas) == 10 and areas["estimate"].is_finite().all()
    assert areas["low"].is_null().all() and areas["high"].is_null().all()


def test_circuits_of_a_model_go_from_nothing_to_all_of_it(tiny):
    found = study.circuits(tiny, n=PROMPTS, tasks=("greater-than",))
    assert set(found["task"]) == {"greater-than"} and set(found["n"]) == {PROMPTS // 2}
    assert Counter(found["direction"]) == Counter({"noising": 108, "denoising": 108})
    for share, value in ((0.0, 0.0), (1.0, 1.0)):
        ends = found.filter(share=share)["estimate"]
        assert len(ends) == 2 * 2 * len(METHODS)
        np.testing.assert_allclose(ends, value, atol=1e-6)
    pairs = load_task("greater-than", tiny, n=PROMPTS)
    ranking, tested = (pairs.select(range(start, PROMPTS, 2)) for start in (0, 1))
    scores = activation_patching(tiny, ranking, kinds=("heads",)).heads.mean(dim=0)
    sets = np.stack([largest(scores, k) for k in (0, 6, 12)])
    empty, half, whole = multi_ablated_performance(tiny, tested, sets, "heads", keep=True).mean(1)
    (value,) = found.filter(direction="noising", kind="heads", method="AP", share=0.5)["estimate"]
    assert value == pytest.approx(((half - empty) / (whole - empty)).item(), abs=1e-5)


def test_models_are_compared_by_both_methods_prompt_averaged_scores(tiny):
    ap, ig = made.random_scores("AP", 0), made.random_scores("IG", 1)
    ranking = Ranking(tiny, load_task("ioi", tiny, n=1), ap, ig)
    found = tidy(study._agreement(ranking, seed=2))
    rows = found.rows_by_key(["kind", "statistic", "k"], named=True, unique=True)
    statistics = {"Spearman": spearman, "overlap": overlap_at(10)}
    for kind in ("heads", "neurons"):
        a, b = ap.of(kind), ig.of(kind)
        expected = {"Pearson": correlation_of_means(a, b, kind, seed=2)}
        for name, estimate in (expected | of_means(statistics, a, b, seed=2)).items():
            k = 10 if name == "overlap" else None
            assert rows.pop((kind, name, k)) == {"n": 12} | numbers(estimate)
    assert not rows


def test_each_models_rows_are_of_its_scores(tiny, tiny_directory, testbed):
    names = ["testbed", str(tiny_directory)]
    found = study.across_models(names, n=3, tasks=("gender-bias",))
    assert Counter(found["model"]) == Counter(dict.fromkeys(names, 12))
    for name, model in zip(names, (testbed, tiny), strict=True):
        pairs = load_task("gender-bias", model, n=3)
        for direction in ("noising", "denoising"):
            ap, ig = (
                method(model, pairs, direction=direction, kinds=("heads",)).heads
                for method in (activation_patching, integrated_gradients)
            )
            rows = found.filter(model=name, direction=direction, kind="heads", statistic="Pearson")
            r = np.corrcoef(ap.mean(dim=0).flatten(), ig.mean(dim=0).flatten())[0, 1]
            assert rows["estimate"].item() == pytest.approx(r, abs=1e-5)
