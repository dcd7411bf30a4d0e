"""What sets of components do: on frames and rankings made up by hand, and on a tiny model."""

from collections import Counter
from itertools import product
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import MIB_SHARES, largest, multi_ablated_performance
from analysis.agreement import mean_over_prompts
from analysis.studies import circuits as circuit
from analysis.studies import consequences as consequence
from analysis.studies.circuits import DIFFERENCE, METHODS, Circuits
from analysis.studies.consequences import DRAWS, Consequences, consequences, named_sets
from analysis.studies.ranking import Ranking

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
    methods = {"IG": integrated_gradients, "AP": activation_patching}
    scores = {name: of(tiny, ranking, direction=direction) for name, of in methods.items()}
    ap = activation_patching(tiny, tested, direction=direction, kinds=())
    sets = np.stack([largest(of.neurons.mean(dim=0).numpy(), 50) for of in scores.values()])
    settings = TREATMENTS[treatment] | {"direction": direction}
    metric = multi_ablated_performance(tiny, tested, sets, "neurons", **settings)
    expected = (metric - ap.base).mean(dim=1) / ap.total.mean()
    rows = study.sets.filter(pl.col("kind") == "neurons", pl.col("k") == 50)
    by_set = rows.rows_by_key(["treatment", "direction", "set"], named=True, unique=True)
    for name, change in zip(methods, expected, strict=True):
        row = by_set[treatment, direction, name]
        assert row["mean"] == pytest.approx(change.item(), abs=1e-4)
        assert row["size"] == 50 and row["prompts"] == PROMPTS // 2
        assert row["low"] <= row["mean"] <= row["high"]


class MadeRanking(Ranking):
    """Each component moves a prompt's metric by its weight times the prompt's gain."""

    place = {"task": "ioi", "direction": "denoising"}
    total = -3.0

    def __init__(self, prompts: int = 9):
        random = np.random.default_rng(0)
        shapes = {"heads": (2, 4), "neurons": (2, 30)}
        made_up = {
            "tested": SimpleNamespace(groups=lambda: [list(range(prompts))]),
            "weights": {kind: random.lognormal(size=shape) for kind, shape in shapes.items()},
            "base": random.normal(size=prompts),
            "gain": random.normal(2, 1, size=prompts),
        }
        for name, value in made_up.items():
            object.__setattr__(self, name, value)

    def ranked(self, kind: str) -> dict[str, np.ndarray]:
        random = np.random.default_rng(1)
        noise = {"IG": 0.2, "AP": 0.8, "‖Δa‖": 2}
        weights = self.weights[kind]
        return {name: weights * random.lognormal(0, n, weights.shape) for name, n in noise.items()}

    def moved(self, sets: np.ndarray, kind: str, baseline: str, keep: bool) -> np.ndarray:
        taken = ~sets if keep else sets
        factor = {"source": 1.0, "mean": 0.4}[baseline]
        return factor * (taken * self.weights[kind]).sum(axis=(1, 2))[:, None] * self.gain

    def metric(self, sets, kind, baseline="source", keep=False):
        return self.base + self.moved(sets, kind, baseline, keep)


def test_every_set_and_difference_is_what_it_is_said_to_be():
    """Differences are paired: prompts whose gain is large move every set."""
    ranking = MadeRanking()
    rows = consequence._sets(ranking, 3).rows_by_key(
        ["kind", "k", "treatment", "set"], named=True, unique=True
    )
    differences = [("IG", "AP"), ("IG only", "matched"), ("AP only", "matched")]
    expected = {}
    for kind, sizes in {"heads": (2, 4), "neurons": (10, 50)}.items():
        for k, (treatment, settings) in product(sizes, TREATMENTS.items()):
            ranked = ranking.ranked(kind)
            ig, ap = (largest(ranked[name], k) for name in ("IG", "AP"))
            sets = {"IG": ig, "AP": ap, "shared": ig & ap, "IG only": ig & ~ap, "AP only": ap & ~ig}
            sets = {name: mask[None] for name, mask in sets.items() if mask.any()}
            drawn = named_sets(ranked["IG"], ranked["AP"], ranked["‖Δa‖"], k, 3)
            if treatment == "ablated":
                sets |= {name: drawn[name] for name in ("random", "matched") if name in drawn}
            settings = {"baseline": "source", "keep": False} | settings
            changes = {
                name: ranking.moved(masks, kind, **settings).mean(axis=0) / -3
                for name, masks in sets.items()
            }
            for first, second in differences if treatment != "ablated to means" else ():
                if {first, second} <= changes.keys():
                    changes[f"{first} - {second}"] = changes[first] - changes[second]
            for name, change in changes.items():
                size = int(sets[name][0].sum()) if name in sets else 0
                about = {"task": "ioi", "direction": "denoising", "size": size, "prompts": 9}
                expected[kind, k, treatment, name] = about | mean_over_prompts(change, 3)._asdict()
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert row == pytest.approx(expected[key]), key
    together = [rows["heads", 2, "ablated", name] for name in ("IG", "AP", "IG - AP")]
    ig, ap, both = (row["high"] - row["low"] for row in together)
    assert both < 0.9 * np.hypot(ig, ap)


def test_a_mean_needs_enough_tested_prompts_of_one_length():
    treatments = {n: set(consequence._sets(MadeRanking(n), 0)["treatment"]) for n in (7, 8)}
    assert treatments == {7: {"ablated", "kept alone"}, 8: set(TREATMENTS)}


def test_matched_components_change_as_much_as_igs_own():
    """IG's own one changes by about 1, as do half of the others; AP's by about 100."""
    ig, ap = np.zeros((2, 1, 40))
    ig[0, 0], ap[0, 1] = 5, 5
    moved = np.where(np.arange(40) % 2, 100.0, 1.0)[None]
    sets = named_sets(ig, ap, moved, k=1)
    assert (moved[sets["matched"].any(axis=0)] == 1).all()
    assert set(moved[sets["random"].any(axis=0)]) == {1, 100}


DIGITS = {
    "task": {"ioi": 2, "gender-bias": 1},
    "direction": {"noising": 0.2, "denoising": 0.1},
    "kind": {"heads": 0.01, "neurons": 0.02},
    "k": {4: 0.03, 50: 0.06},
    "treatment": {"ablated": 20, "ablated to means": 30, "kept alone": 10},
    "set": {
        "IG": 100,
        "AP": 200,
        "shared": 300,
        "IG only": 400,
        "AP only": 500,
        "matched": 600,
        "random": 700,
        "IG - AP": 800,
    },
}


def test_tables_have_each_set_under_its_name():
    rows = [row | {"size": DIGITS["set"][row["set"]], "prompts": 8} for row in made.every(DIGITS)]
    study = Consequences(pl.DataFrame(rows))
    names = ("shared", "IG only", "AP only", "matched", "random")
    keys = list(product(DIGITS["task"], DIGITS["direction"], [("heads", 4), ("neurons", 50)]))

    def cell(*names: str | int) -> str:
        return made.shown(made.code(DIGITS, names))

    assert made.table(study.ablation_table()) == [
        ("task", "direction", "kind", "k", *names),
        *((t, d, *of, *(cell(t, d, *of, "ablated", name) for name in names)) for t, d, of in keys),
    ]
    whole = study.sets_table()
    assert whole.columns == ["task", "direction", "kind", "k", "set", "size", *TREATMENTS]
    about = product(*(DIGITS[name] for name in ("task", "direction", "kind", "k", "set")))
    assert whole.rows() == [
        (*key, name, DIGITS["set"][name], *(cell(*key, t, name) for t in TREATMENTS))
        for *key, name in about
        if name != "IG - AP"
    ]
    drawn = study.shown("denoising")
    assert Counter(drawn.select("task", "kind", "k", "treatment", "set").rows()) == Counter(
        (task, *of, "ablated", name)
        for task in DIGITS["task"]
        for of in [("heads", 4), ("neurons", 50)]
        for name in ("IG only", "AP only", "matched", "random")
    )
    assert set(drawn["direction"]) == {"denoising"}


def cases(name: str, treatment: str, numbers: list[dict], **about) -> list[dict]:
    return [{"set": name, "treatment": treatment} | about | row for row in numbers]


# Where IG's set changes the metric more than AP's, by size: when ablated, and when kept alone.
WHOLE = {
    ("heads", 2): ("+++-", "--+0"),
    ("heads", 4): ("+000", "-+++"),
    ("neurons", 50): ("--00", "000+"),
}


def test_sentences_count_the_cases_of_each_method():
    """What is kept alone should change the metric least, so that the signs turn there."""
    rows = [
        row
        for (kind, k), patterns in WHOLE.items()
        for treatment, pattern in zip(("ablated", "kept alone"), patterns, strict=True)
        for row in cases("IG - AP", treatment, made.signs(pattern), kind=kind, k=k)
    ]
    study = Consequences(pl.DataFrame(rows))
    assert study.together() == (
        "As whole sets of equal size, IG's move the metric further in 4 and AP's in 3 of 12 cases, "
        "and kept alone IG's keep more of it in 3 and AP's in 5."
    )
    assert study.better() == (
        "- top 2 heads: ablated, IG's set moves the metric further in 3 and AP's in 1 of 4 cases; "
        "kept alone, IG's keeps more of it in 2 and AP's in 1\n"
        "- top 4 heads: ablated, IG's set moves the metric further in 1 and AP's in 0 of 4 cases; "
        "kept alone, IG's keeps more of it in 1 and AP's in 3\n"
        "- top 50 neurons: ablated, IG's set moves the metric further in 0 and AP's in 2 of 4 "
        "cases; kept alone, IG's keeps more of it in 0 and AP's in 1"
    )


def ablated() -> list[dict]:
    """Two of IG's cases have too few others to match, and one of AP's."""
    means = {
        "IG only": (0.01, 0.03, 0.08, 0.09, 0.1),
        "AP only": (0.02, 0.055, 0.05),
        "shared": (0.8, 0.7),
        "matched": (0.004, 0.006, 0.011),
        "random": (0.5,),
    }
    differences = {"IG only - matched": "++-", "AP only - matched": "0-"}
    of_sets = {name: [made.estimate(mean) for mean in of] for name, of in means.items()}
    of_sets |= {name: made.signs(pattern) for name, pattern in differences.items()}
    kept = [cases(name, "kept alone", rows[:1]) for name, rows in of_sets.items()]
    return sum([cases(name, "ablated", rows) for name, rows in of_sets.items()] + kept, [])


def test_a_methods_own_components_are_told_by_their_medians():
    study = Consequences(pl.DataFrame(ablated()))
    assert study.idle() == (
        "In 5 cases IG names components of its own: ablated together they move the metric by 8.0% "
        "of the total effect (median), more than matched components in 2 of 3 cases and less in 1. "
        "In 3 cases AP names components of its own: ablated together they move the metric by 5.0% "
        "of the total effect (median), more than matched components in 0 of 2 cases and less in 1. "
        "The components that both name move it by 75%, matched ones by 0.6% (medians)."
    )
    assert study.median("IG only", "AP only") == pytest.approx(0.0525)


def test_methods_that_name_the_same_have_no_components_of_their_own():
    rows = [row for row in ablated() if not row["set"].startswith("IG only")]
    assert (
        Consequences(pl.DataFrame(rows))
        .idle()
        .startswith("In no case does IG name components of its own. In 3 cases AP names")
    )


def test_circuits_keep_the_components_that_their_method_ranks_first():
    """The weights of what is kept, as a share of all of them, is how faithful a circuit is here."""
    ranking = MadeRanking()
    kept = circuit._kept(ranking, 0)
    found = circuit._curves(kept)
    curves = {}
    for kind, weights in ranking.weights.items():
        for method, scores in ranking.ranked(kind).items():
            sizes = [round(share * weights.size) for share in MIB_SHARES]
            inside = [weights[largest(scores, size)].sum() / weights.sum() for size in sizes]
            curves[kind, method] = np.array(inside)
    for (kind, method), rows in found.group_by("kind", "method", maintain_order=True):
        assert rows["share"].to_list() == list(MIB_SHARES)
        assert set(rows.select("task", "direction").rows()) == {("ioi", "denoising")}
        if method == "random":
            assert not any(np.allclose(rows["faithfulness"], curves[kind, m]) for m in METHODS[:3])
        else:
            np.testing.assert_allclose(rows["faithfulness"], curves[kind, method], atol=1e-9)
    for kind, weights in ranking.weights.items():
        of_ig = kept.filter(pl.col("kind") == kind, pl.col("method") == "IG")
        nothing = of_ig.filter(pl.col("share") == 0).sort("prompt")["metric"]
        np.testing.assert_allclose(nothing, ranking.base + weights.sum() * ranking.gain)
    rows = circuit._areas(kept, 0).rows_by_key(["kind", "area", "method"], named=True, unique=True)
    assert len(rows) == 2 * 2 * (len(METHODS) + 1)
    for (kind, method), curve in curves.items():
        under, above = (np.trapezoid(of, MIB_SHARES) for of in (curve, abs(1 - curve)))
        assert rows[kind, "CPR", method]["mean"] == pytest.approx(under)
        assert rows[kind, "CMD", method]["mean"] == pytest.approx(above)
    ig, ap = (curves["heads", method] for method in ("IG", "AP"))
    assert rows["heads", "CPR", DIFFERENCE]["mean"] == pytest.approx(
        np.trapezoid(ig - ap, MIB_SHARES)
    )


def kept_alone(prompts: int) -> pl.DataFrame:
    """IG's curve lies as far above AP's on every prompt, however faithful its circuits are."""
    shares = np.array(MIB_SHARES)
    powers = np.random.default_rng(0).uniform(0.2, 3, size=prompts)
    lifts = {"IG": 0.3, "AP": 0.1, "‖Δa‖": 0.0, "random": -0.2}
    return pl.DataFrame(
        [
            {"task": "ioi", "direction": "noising", "kind": "heads", "method": method}
            | {
                "share": share,
                "prompt": prompt,
                "metric": share**power + lift * share * (1 - share),
            }
            for method, lift in lifts.items()
            for share in map(float, shares)
            for prompt, power in enumerate(powers)
        ]
    )


def test_areas_of_two_methods_are_compared_on_the_same_resamples():
    rows = circuit._areas(kept_alone(10), 0).filter(pl.col("area") == "CPR")
    width = {row["method"]: row["high"] - row["low"] for row in rows.iter_rows(named=True)}
    assert width["IG"] > 0.1 and width["AP"] > 0.1 and width[DIFFERENCE] < 1e-9
    (difference,) = rows.filter(pl.col("method") == DIFFERENCE)["mean"]
    shares = np.array(MIB_SHARES)
    assert difference == pytest.approx(np.trapezoid(0.2 * shares * (1 - shares), shares))


def test_a_seed_decides_the_intervals_of_areas_alone():
    first, second = (circuit._areas(kept_alone(10), seed) for seed in (0, 1))
    assert first.equals(circuit._areas(kept_alone(10), 0))
    assert first["mean"].equals(second["mean"])
    ig = pl.col("method") == "IG"
    assert (first.filter(ig)["low"] != second.filter(ig)["low"]).all()


def test_one_tested_prompt_decides_for_no_circuit():
    areas = circuit._areas(kept_alone(1), 0)
    assert areas["low"].is_nan().all() and areas["mean"].is_finite().all()
    assert "better one in 0 of 1 cases and AP's in 0 (" in Circuits(pl.DataFrame(), areas).verdict()


AREAS = {
    "task": {"ioi": 2, "gender-bias": 1},
    "direction": {"noising": 0.2, "denoising": 0.1},
    "kind": {"heads": 0.01, "neurons": 0.02},
    "area": {"CPR": 10, "CMD": 20},
    "method": {"AP": 200, "IG": 100, "random": 400, "IG - AP": 500, "‖Δa‖": 300},
}


def test_areas_stand_under_their_method():
    methods = ("IG", "AP", "‖Δa‖", "random", "IG - AP")
    keys = list(product(*(AREAS[name] for name in ("task", "direction", "kind", "area"))))
    assert made.table(Circuits(pl.DataFrame(), pl.DataFrame(made.every(AREAS))).table()) == [
        ("task", "direction", "kind", "area", *methods),
        *((*key, *(made.shown(made.code(AREAS, (*key, m))) for m in methods)) for key in keys),
    ]


def test_the_larger_area_is_the_better_circuit():
    rows = [
        {"area": area, "method": method} | row
        for area, method, pattern in (
            ("CPR", "IG - AP", "+0++-"),
            ("CPR", "IG", "++"),
            ("CMD", "IG - AP", "---"),
        )
        for row in made.signs(pattern)
    ]
    assert Circuits(pl.DataFrame(), pl.DataFrame(rows)).verdict() == (
        "By CPR, IG's circuit is the better one in 3 of 5 cases and AP's in 1 (95 % interval of "
        "the paired difference); in none do the two differ by more than 0.76."
    )


def test_circuits_of_a_model_go_from_nothing_to_all_of_it(tiny):
    study = circuit.circuits(tiny, n=PROMPTS, tasks=("greater-than",))
    for share, value in ((0.0, 0.0), (1.0, 1.0)):
        ends = study.curves.filter(pl.col("share") == share)["faithfulness"]
        np.testing.assert_allclose(ends, value, atol=1e-6)
    directions, kinds = ("noising", "denoising"), ("heads", "neurons")
    rows = study.areas.select("task", "direction", "kind", "area", "method").rows()
    areas = product(["greater-than"], directions, kinds, ["CPR", "CMD"], [*METHODS, DIFFERENCE])
    assert Counter(rows) == Counter(areas)


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
