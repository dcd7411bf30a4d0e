"""What components change in later ones, and the question about latent ones.

On a tiny model and on frames made up by hand.
"""

from collections import Counter
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from studies import made

from analysis import activation_patching, charts, integrated_gradients, load_task, paths
from analysis.ablation import activation_differences
from analysis.charts.theme import BLUE
from analysis.forward import KINDS
from analysis.latent import (
    Comparison,
    compare_with_controls,
    latent_components,
    log_covariates,
)
from analysis.mediation import Component, dense_effects
from analysis.studies import latent_question, name_readers
from analysis.studies.faults import EXAMPLE
from analysis.studies.head_to_head import HeadToHead, example_pairs, head_changes, head_to_head
from analysis.studies.latent_question import LatentQuestion, changes_by
from analysis.studies.name_readers import NameReaders

PROMPTS = 3
TASK = "greater-than"
PAIR = ["layer", "component", "later_layer", "later_component"]


@pytest.fixture(scope="module", autouse=True)
def results(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield


@pytest.fixture(scope="module")
def pairs(tiny):
    return load_task(TASK, tiny, n=PROMPTS)


@pytest.fixture(scope="module")
def heads(tiny, results):
    return head_to_head(tiny, n=PROMPTS, tasks=(TASK,))


@pytest.fixture(scope="module")
def question(tiny_directory, results) -> LatentQuestion:
    return latent_question.latent_question([str(tiny_directory)], n=PROMPTS, tasks=(TASK,))


@pytest.fixture(scope="module")
def readers(tiny, results):
    return name_readers.name_readers(tiny, n=4)


def pair(frame: pl.DataFrame, *places: int) -> dict:
    here = (pl.col(name) == place for name, place in zip(PAIR, places, strict=True))
    return frame.row(by_predicate=pl.all_horizontal(here), named=True)


def test_the_example_is_the_notebooks_without_its_space(tiny):
    pairs = example_pairs(tiny)
    assert (pairs.clean, pairs.corrupted) == ([EXAMPLE[0]], [EXAMPLE[1]])
    assert not pairs.clean[0].endswith(" ")
    assert tiny.to_str_tokens(pairs.labels.tokens[0], prepend_bos=False) == [" Mary", " John"]
    assert pairs.labels.signs.tolist() == [[1, -1]]


def test_changes_are_means_over_prompts_of_later_heads(heads, tiny, pairs):
    means = dense_effects(tiny, pairs, "heads", "heads").mean(dim=1)
    later = [(a, i, b, j) for a, i, b, j in product(range(3), range(4), repeat=2) if a < b]
    found = heads.tasks.drop("task")
    assert found.select(PAIR).rows() == later
    for measure, name in enumerate(("norm", "relative", "projection", "reach")):
        expected = [means[measure, *places].item() for places in later]
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def test_undefined_prompts_are_left_out_of_a_mean(tiny, pairs):
    same = replace(
        pairs,
        corrupted=[*pairs.corrupted[:2], pairs.clean[2]],
        corrupted_tokens=[*pairs.corrupted_tokens[:2], pairs.clean_tokens[2]],
    )
    both = head_changes(tiny, pairs.select([0, 1]))
    assert pair(head_changes(tiny, same), 0, 1, 1, 2)["relative"] == pytest.approx(
        pair(both, 0, 1, 1, 2)["relative"]
    )
    nothing = head_changes(tiny, same.select([2]))
    assert nothing["relative"].is_null().all() and (nothing["norm"] == 0).all()


def changes(rows: list[tuple], *first: str) -> pl.DataFrame:
    return pl.DataFrame(rows, [*first, *PAIR, "norm", "relative"], orient="row")


# Head 0.1 changes two heads by other norms than its relative changes, one by just 5 %.
EXAMPLE_CHANGES = [
    (0, 0, 1, 0, 9.0, 0.04),
    (0, 0, 1, 1, 8.0, 0.3),
    (0, 0, 2, 0, 0.0, 0.0),
    (0, 1, 1, 0, 3.0, 0.06),
    (0, 1, 1, 1, 0.0, 0.0),
    (0, 1, 2, 0, 5.0, 0.05),
    (1, 0, 2, 0, 0.1, 0.9),
    (1, 1, 2, 0, 2.0, None),
]
TASK_CHANGES = [
    ("ioi", 0, 0, 1, 0, 1.0, 0.1),
    ("ioi", 0, 1, 1, 0, 1.0, 0.4),
    ("ioi", 0, 0, 2, 0, 1.0, 0.05),
    ("ioi", 1, 0, 2, 0, 1.0, 0.77),
    ("gender-bias", 0, 0, 1, 0, 1.0, 0.6),
    ("gender-bias", 1, 0, 2, 0, 1.0, None),
]


@pytest.fixture
def by_hand() -> HeadToHead:
    return HeadToHead(changes(EXAMPLE_CHANGES), changes(TASK_CHANGES, "task"), pl.DataFrame())


def test_reached_heads_are_counted(by_hand):
    assert made.table(by_hand.reached()) == [
        ("layer", "component", "later", "changed", "reached")
        + ("relative", "strongest_layer", "strongest_component"),
        (0, 0, 3, 2, 1, 0.3, 1, 1),
        (0, 1, 3, 2, 1, 0.06, 1, 0),
        (1, 0, 1, 1, 1, 0.9, 2, 0),
        (1, 1, 1, 1, 0, None, None, None),
    ]
    assert by_hand.finding() == (
        "Of the 8 pairs of a head and a later one, patching the first changes the second in 6 at "
        "all, and in 3 by more than 5% of what differs between the two prompts there. The largest "
        "change is that of head 1.0 on head 2.0, 90%."
    )


def test_layers_are_means_over_pairs(by_hand):
    assert made.table(by_hand.layers()) == [
        ("task", "layer", "on layer 1", "on layer 2"),
        ("ioi", 0, "25%", "5%"),
        ("ioi", 1, "–", "77%"),
        ("gender-bias", 0, "60%", "–"),
        ("gender-bias", 1, "–", "–"),
    ]


def test_the_slider_starts_where_so_many_are_left(by_hand):
    assert [by_hand.drawn_from(edges) for edges in (1, 2, 4, 99)] == [0.9, 0.3, 0.05, 0.0]


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_the_graph_draws_what_is_above_the_slider(heads, threshold):
    svg = vl_convert.vegalite_to_svg(charts.plot_graph(heads.example, threshold).to_dict())
    lines = (heads.example["relative"] >= threshold).sum()
    assert svg.count(f'stroke="{BLUE}"') == lines


@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_changes_by_a_component_are_means_over_its_targets(tiny, pairs, kind):
    found = changes_by(tiny, pairs, kind)
    dense = dense_effects(tiny, pairs, kind, "heads")
    own = found.filter(
        pl.col("target") == "heads", pl.col("layer") == 0, pl.col("component") == 2
    ).sort("prompt")
    later = dense[:, :, 0, 2, 1:].flatten(2)
    np.testing.assert_allclose(own["norm"], later[0].mean(dim=1), rtol=1e-4)
    np.testing.assert_allclose(own["projection"], later[2].mean(dim=1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(own["reach"], later[3].sum(dim=1))
    last = found.filter(pl.col("layer") == 2)
    for target in ("heads", "neurons"):
        nothing_later = (kind, target) != ("heads", "neurons")
        own = last.filter(pl.col("target") == target)
        for measure in ("norm", "reach", "projection"):
            assert own[measure].is_null().all() == nothing_later


def test_a_test_compares_ig_latent_components_with_their_controls(question, tiny, pairs):
    directions = ("noising", "denoising")
    ig, ap = (
        [method(tiny, pairs, direction=way).neurons.mean(dim=0).numpy() for way in directions]
        for method in (integrated_gradients, activation_patching)
    )
    moved = activation_differences(tiny, pairs, "neurons")
    effects = dense_effects(tiny, pairs, "neurons", "heads")[0]
    outcome = torch.stack(
        [effects[:, 0, :, 1:].mean(dim=(2, 3)), effects[:, 1, :, 2:].mean(dim=(2, 3))], dim=1
    )
    expected = compare_with_controls(
        latent_components(ig[0][None], ig[1][None])[0][:2],
        outcome.double().numpy(),
        {
            name: values[:2]
            for name, values in log_covariates(
                **{"IG": tuple(ig), "AP": tuple(ap), "‖Δa‖": (moved,)}
            ).items()
        },
    )
    row = question.between("neurons", "heads").row(
        by_predicate=pl.col("outcome") == "norm", named=True
    )
    assert row["latent"] == expected.latent > 3
    for name in ("effect", "low", "high", "p"):
        assert row[name] == pytest.approx(getattr(expected, name), abs=1e-3)
    assert row["imbalance"] == pytest.approx(max(map(abs, expected.balance.values())), abs=1e-3)


def test_the_worst_imbalance_counts_in_either_direction(tiny_directory, monkeypatch):
    found = Comparison(0.1, 0.0, 0.2, 0.5, 1, 3, 0, {"IG": -0.5, "AP": 0.2})
    monkeypatch.setattr(latent_question, "compare_with_controls", lambda *_, **__: found)
    study = latent_question.latent_question([str(tiny_directory)], n=2, tasks=(TASK,))
    assert (study.tests["imbalance"] == 0.5).all()


def test_every_outcome_is_asked_of_every_kind(question, tiny_directory):
    rows = question.tests.select("model", "task", "kind", "target", "outcome").rows()
    outcomes = ("norm", "reach", "projection")
    of = product([str(tiny_directory)], [TASK], KINDS, KINDS, outcomes)
    assert Counter(rows) == Counter(of)


def test_q_is_over_the_tests_of_all_models_and_tasks(monkeypatch):
    p = {
        ("a", "ioi"): [0.01, 0.04],
        ("a", "x"): [0.03, None],
        ("b", "ioi"): [0.002],
        ("b", "x"): [0.9],
    }
    monkeypatch.setattr(latent_question, "loaded", lambda name: name)
    monkeypatch.setattr(
        latent_question,
        "_of_task",
        lambda model, task, *_: pl.DataFrame({"p": p[model, task]}, {"p": pl.Float64}),
    )
    tests = latent_question.latent_question(["a", "b"], tasks=("ioi", "x")).tests
    assert tests.select("model", "task", "p").rows() == [
        (*about, value) for about, values in p.items() for value in values
    ]
    pooled = false_discovery_control([0.01, 0.04, 0.03, 0.002, 0.9])
    assert tests["q"].to_list() == pytest.approx([*pooled[:3], None, *pooled[3:]])


@given(p=st.lists(st.none() | st.floats(1e-6, 1), min_size=1, max_size=20))
def test_q_is_benjamini_and_hochbergs(p):
    tests = latent_question.with_false_discovery_rate(pl.DataFrame({"p": p}, {"p": pl.Float64}))
    known = sorted(value for value in p if value is not None)
    for value, q in tests.select("p", "q").iter_rows():
        assert (value is None) == (q is None)
        if value is not None:
            larger = [
                known[place] * len(known) / (place + 1)
                for place in range(len(known))
                if known[place] >= value
            ]
            assert q == pytest.approx(min(1.0, *larger))


DEFINED = dict.fromkeys(("effect", "p", "q", "imbalance"), pl.Float64)


def verdict(above: int, below: int, neither: int) -> str:
    cases = [(1.0, 0.01)] * above + [(-1.0, 0.01)] * below + [(0.1, 0.5)] * neither
    rows = [
        {"outcome": "norm", "effect": effect, "p": q, "q": q, "imbalance": 0.0}
        for effect, q in cases
    ]
    return LatentQuestion(pl.DataFrame(rows, {"outcome": pl.String} | DEFINED)).verdict()


@pytest.mark.parametrize(
    "above, below, neither, answer",
    [
        (11, 2, 7, "Yes"),
        (11, 3, 6, "It depends"),
        (10, 0, 10, "It depends"),
        (3, 0, 17, "It depends"),
        (2, 0, 18, "No"),
        (0, 20, 0, "No"),
        (0, 0, 0, "There is no answer"),
    ],
)
def test_the_verdict_follows_its_rule(above, below, neither, answer):
    assert verdict(above, below, neither).startswith(answer)


# Outcome, effect, p, q, imbalance. Three tests are balanced, and the last has nothing to compare.
TESTS = [
    ("norm", 1.5, 0.001, 0.01, 0.3),
    ("norm", 0.75, 0.002, 0.02, 0.05),
    ("norm", -0.5, 0.003, 0.03, 0.11),
    ("norm", 2.5, 0.01, 0.06, 0.2),
    ("reach", -0.25, 0.004, 0.04, 0.08),
    ("reach", -3.0, 0.005, 0.045, 0.4),
    ("reach", 0.125, 0.5, 0.6, 0.09),
    ("reach", None, None, None, None),
]


def test_sentences_count_the_tests_above_and_below():
    study = LatentQuestion(pl.DataFrame(TESTS, {"outcome": pl.String} | DEFINED, orient="row"))
    assert study.verdict() == (
        "It depends: some latent components change later ones more, others do not. Of 7 tests 2 "
        "find them above matched controls and 3 below (q < 5%), 2 neither; the median effect is "
        "0.12 standard deviations."
    )
    assert study.by_outcome() == (
        "- norm: above in 2 of 4 tests, below in 1; effects from -0.50 to 2.50 standard "
        "deviations, their median 1.12\n"
        "- reach: above in 0 of 3 tests, below in 2; effects from -3.00 to 0.12 standard "
        "deviations, their median -0.25"
    )
    assert study.balance() == (
        "In 4 of 7 tests a covariate still differs by more than 0.1 standard deviations between "
        "latent components and controls (by 0.40 at most), so that the effect may be the "
        "covariate's; of the other 3, 1 find latent components above. 1 more have no latent "
        "component to compare."
    )
    nothing = LatentQuestion(study.tests.tail(1))
    assert nothing.balance() == "There are no controls: none of 1 tests has anything to compare."
    assert study.counts().row(0) == ("norm", 4, 2, 1, 1, -0.5, 1.125, 2.5, 3)


EFFECTS = {
    "model": {"testbed": 3, "testbed-2": 2},
    "task": {"ioi": 0.2, "gender-bias": 0.1},
    "kind": {"heads": 10, "neurons": 20},
    "target": {"heads": 100, "neurons": 200},
    "outcome": {"norm": 0.01, "reach": 0.02, "projection": 0.03},
}
# Latent components with and without a control; of heads one case has none at all.
LATENT = {
    ("testbed", "ioi", "heads"): (0, 0),
    ("testbed", "gender-bias", "heads"): (0, 2),
    ("testbed-2", "ioi", "heads"): (4, 1),
    ("testbed-2", "gender-bias", "heads"): (3, 0),
}


@pytest.fixture
def tests_by_hand() -> LatentQuestion:
    rows = []
    for row in made.every(EFFECTS):
        about = tuple(row[name] for name in ("model", "task", "kind"))
        latent, unmatched = LATENT.get(about, (50, 7))
        size = EFFECTS["outcome"][row["outcome"]]
        row["effect"] = row.pop("mean")
        found = {"p": size / 10, "q": size, "imbalance": size * 10}
        nothing = dict.fromkeys(("effect", "low", "high", *found)) if not latent else {}
        rows.append(row | {"latent": latent, "unmatched": unmatched} | found | nothing)
    return LatentQuestion(pl.DataFrame(rows, infer_schema_length=None))


def cell(effect: float, p: str, q: str) -> str:
    return f"{effect:.2f} [{effect - 0.03:.2f}, {effect + 0.02:.2f}], p {p}, q {q}"


def cells(effect: float) -> tuple[str, str, str]:
    """Of the three outcomes."""
    levels = ("0.001", "0.01"), ("0.002", "0.02"), ("0.003", "0.03")
    return tuple(cell(effect + place / 100, *of) for place, of in enumerate(levels, start=1))


def test_a_model_and_a_task_are_a_row_with_the_worst_imbalance(tests_by_hand):
    header = ("model", "task", "latent", "unmatched", "imbalance", "norm", "reach", "projection")
    assert made.table(tests_by_hand.table("neurons", "heads")) == [
        header,
        ("testbed", "ioi", 50, 7, "0.30", *cells(123.2)),
        ("testbed", "gender-bias", 50, 7, "0.30", *cells(123.1)),
        ("testbed-2", "ioi", 50, 7, "0.30", *cells(122.2)),
        ("testbed-2", "gender-bias", 50, 7, "0.30", *cells(122.1)),
    ]
    assert made.table(tests_by_hand.table_of_heads()) == [
        ("on", *header),
        ("heads", "testbed", "gender-bias", 0, 2, *["–"] * 4),
        ("heads", "testbed-2", "ioi", 4, 1, "0.30", *cells(112.2)),
        ("heads", "testbed-2", "gender-bias", 3, 0, "0.30", *cells(112.1)),
        ("neurons", "testbed", "gender-bias", 0, 2, *["–"] * 4),
        ("neurons", "testbed-2", "ioi", 4, 1, "0.30", *cells(212.2)),
        ("neurons", "testbed-2", "gender-bias", 3, 0, "0.30", *cells(212.1)),
    ]
    of = tests_by_hand.between("heads", "neurons").select("kind", "target").unique()
    assert of.rows() == [("heads", "neurons")]


def test_latent_heads_are_counted_by_case(tests_by_hand):
    assert tests_by_hand.heads() == (
        "Heads are few: 1 of 4 cases of a model and a task have no latent head, and the others 5 "
        "at most."
    )
    without = tests_by_hand.tests.with_columns(latent=0, unmatched=0)
    assert LatentQuestion(without).heads() == (
        "Heads are few: 4 of 4 cases of a model and a task have no latent head."
    )


def test_readers_are_strong_heads_that_read_a_name_on_most_prompts(tiny, monkeypatch):
    pairs = load_task("ioi", tiny, n=3)
    ap = activation_patching(tiny, pairs, kinds=("heads",))
    order = ap.heads.mean(dim=0).abs().flatten().argsort(descending=True).tolist()
    most = torch.zeros(2, 3, 12)
    most[0, :2, order[0]] = 1  # the indirect object, on two prompts of three
    most[0, :1, order[1]] = 1  # on one of three
    most[1, :, order[3]] = 1  # the subject
    most[0, :, order[4]] = 1  # a head that is not strong
    planted = most.unflatten(2, (3, 4))
    monkeypatch.setattr(name_readers, "attention_to_names", lambda *_: (planted / 2, planted))
    heads = name_readers.rank_heads(tiny, pairs, ap)
    assert heads["role"].head(5).to_list() == [
        "name mover",
        "none",
        "none",
        "subject reader",
        "none",
    ]
    names = heads.select(f"attention to the {place}" for place in ("indirect object", "subject"))
    assert names.rows()[:4] == [
        (pytest.approx(1 / 3), 0),
        (pytest.approx(1 / 6), 0),
        (0, 0),
        (0, 0.5),
    ]
    share = ap.heads.mean(dim=0).flatten()[order[0]] / ap.total.mean()
    assert heads["ap"][0] == pytest.approx(share.item(), rel=1e-5)


def test_attention_is_the_last_positions_on_each_name(tiny):
    """A name that is said more than once is read where it is said last."""
    pairs = load_task("ioi", tiny, n=6)
    paid, most = name_readers.attention_to_names(tiny, pairs)
    assert most.sum(dim=(1, 2, 3)).min() > 0
    for prompt, text in enumerate(pairs.clean):
        _, cache = tiny.run_with_cache(text)
        words = tiny.to_str_tokens(text)
        names = tiny.to_str_tokens(pairs.labels.tokens[prompt], prepend_bos=False)
        for (place, name), layer in product(enumerate(names), range(3)):
            position = len(words) - 1 - words[::-1].index(name)
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
            torch.testing.assert_close(paid[place, prompt, layer], pattern[:, position])
            largest = pattern.max(dim=1).values == pattern[:, position]
            assert (most[place, prompt, layer] == largest).all()


def test_mediators_have_earlier_heads():
    def chosen(*rows: tuple[int, str]) -> list[Component]:
        places = [(layer, 0, role) for layer, role in rows]
        columns = ["layer", "component", "role"]
        return name_readers.mediators(pl.DataFrame(places, columns, orient="row"))

    assert chosen((1, "none"), (2, "name mover")) == [Component("heads", 2, 0)]
    assert chosen((0, "name mover"), (1, "none")) == [Component("heads", 1, 0)]


def test_a_total_effect_through_names_is_ap(readers, tiny):
    pairs = load_task("ioi", tiny, n=4)
    ap = activation_patching(tiny, pairs)
    totals = readers.links.filter(pl.col("effect") == "total")
    row = totals.row(by_predicate=pl.col("component") == "head 0.2", named=True)
    expected = float(ap.heads[:, 0, 2].mean() / ap.total.mean())
    assert row["mean"] == pytest.approx(expected, abs=1e-4)
    kinds = totals["component"].str.split(" ").list.first()
    assert set(kinds) == {"head", "neuron"}
    parts = readers.links.pivot("effect", index=["component", "through"], values="mean")
    whole = parts["direct"] + parts["indirect"] + parts["remainder"]
    np.testing.assert_allclose(parts["total"], whole, atol=1e-6)


def test_links_lead_from_earlier_components_and_the_strongest_neurons(monkeypatch):
    """Neurons are strong by their mean, whatever its sign."""
    monkeypatch.setattr(name_readers, "NEURONS", 2)
    neurons = [[[0.1, -5, 0.2], [0.3, 9, 0.4]], [[0.5, -6, 0.6], [0.7, -8, 4]]]
    ap = made.scores(heads=np.ones((2, 2, 2)), neurons=neurons, base=[1, 2], source=[3, 5])
    first, second = Component("heads", 1, 0), Component("heads", 2, 1)
    early = [Component("heads", 0, 0), Component("heads", 0, 1)]
    later = [Component("heads", 1, 0), Component("heads", 1, 1)]
    strong = [Component("neurons", 0, 1), Component("neurons", 1, 2)]
    assert name_readers.links_to([first, second], ap) == [
        *((one, first) for one in [*early, strong[0]]),
        *((one, second) for one in [*early, *later, *strong]),
    ]


def test_an_effect_is_of_its_link_and_a_share_of_the_total(monkeypatch, tiny):
    numbers = {name: np.array([[1.0, 20], [3, 40]]) * 10**place for place, name in enumerate(PARTS)}
    found = SimpleNamespace(**numbers)
    monkeypatch.setattr(name_readers, "mediate", lambda *_, **__: found)
    target = Component("heads", 2, 1)
    links = [(Component("heads", 0, 3), target), (Component("neurons", 1, 7), target)]
    frame = name_readers.through_links(tiny, load_task("ioi", tiny, n=2), links, total=-4.0)
    assert frame.select("component", "through", "effect", "mean").rows() == [
        (name, "head 2.1", effect, -mean * 10**place)
        for name, mean in (("head 0.3", 0.5), ("neuron 1.7", 7.5))
        for place, effect in enumerate(PARTS)
    ]


PARTS = ("total", "direct", "indirect", "remainder")
# Of ten components and a head that reads a name: the indirect effects, the largest a negative one.
INDIRECT = (0.02, -0.6, 0.3, -0.01, 0.15, 0.4, -0.05, 0.25, -0.35, 0.08)
HEADS = pl.DataFrame(
    {
        "name": ["head 2.1", "head 0.3", "head 1.10", "head 2.0", "head 1.1"],
        "layer": [2, 0, 1, 2, 1],
        "component": [1, 3, 10, 0, 1],
        "ap": [-0.9, 0.8, -0.7, 0.6, 0.5],
        "attention to the indirect object": [0.91, 0.12, 0.82, 0.13, 0.14],
        "attention to the subject": [0.01, 0.72, 0.03, 0.74, 0.05],
        "role": ["name mover", "none", "name mover", "subject reader", "none"],
    }
)


@pytest.fixture
def names_by_hand() -> NameReaders:
    shares = {"total": 1.1, "direct": 2.2, "indirect": 0, "remainder": 0.0044}
    links = [
        {"component": f"head 0.{place}", "through": "head 2.1", "effect": effect}
        | made.estimate(indirect if effect == "indirect" else share * (1 - place / 20))
        for place, indirect in enumerate(INDIRECT)
        for effect, share in shares.items()
    ]
    return NameReaders(HEADS, pl.DataFrame(links))


def test_the_links_with_the_largest_indirect_effect_come_first(names_by_hand):
    order = (1, 5, 8, 2, 7, 4, 9, 6)
    assert made.table(names_by_hand.table()) == [
        ("component", "through", *PARTS),
        *(
            (f"head 0.{place}", "head 2.1", made.shown(1.1 * left), made.shown(2.2 * left))
            + (made.shown(INDIRECT[place]), made.shown(0.0044 * left))
            for place in order
            for left in [1 - place / 20]
        ),
    ]


def test_the_strongest_heads_are_shown(names_by_hand):
    assert names_by_hand.heads_table().equals(HEADS[:4].drop("layer", "component"))


def test_a_finding_names_the_readers_and_what_goes_through_them(names_by_hand):
    rest = (
        " The most that goes through one of them is -60% of the mean total effect, from head 0.1 "
        "through head 2.1: patched, head 0.1 has 104% in all, and 209% with head 2.1 held. The "
        "remainder is 0.4% at most."
    )
    assert names_by_hand.finding() == (
        "Name movers: head 2.1, head 1.10; subject readers: head 2.0." + rest
    )
    through = names_by_hand.links.with_columns(through=pl.lit("head 1.1"))
    nobody = replace(names_by_hand, heads=HEADS.with_columns(role=pl.lit("none")), links=through)
    assert nobody.finding().startswith(
        "No head is a name mover by this rule; no head is a subject reader by this rule; head 1.1 "
        "stands in. The most"
    )
    assert "; head 1.1 stands in." in replace(names_by_hand, links=through).finding()
