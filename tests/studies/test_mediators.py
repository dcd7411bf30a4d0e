"""Changes in later components, direction-dependent components, and heads that read names."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from charts.frames import effects
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import activation_differences
from analysis.choices import DIRECTIONS, KINDS
from analysis.latent import Comparison, compare_with_controls, latent_components, log_covariates
from analysis.mediation import EFFECTS, MEASURES, component_effects, dense_effects
from analysis.studies import mediators, one, tidy

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
    return mediators.head_to_head(tiny, n=PROMPTS, tasks=(TASK,))


@pytest.fixture(scope="module")
def question(tiny_directory, results):
    return mediators.latent_question([str(tiny_directory)], n=PROMPTS, tasks=(TASK,))


@pytest.fixture(scope="module")
def readers(tiny, results):
    return mediators.name_readers(tiny, n=4)


def between(frame: pl.DataFrame, *pair: int, statistic: str = "relative") -> dict:
    return frame.filter(**dict(zip(PAIR, pair, strict=True)), statistic=statistic).row(
        0, named=True
    )


def test_the_example_is_the_notebooks_without_its_space(tiny):
    pairs = mediators.example_pairs(tiny)
    assert pairs.clean == ["When John and Mary went to the store, John gave a bottle of milk to"]
    assert pairs.corrupted == [pairs.clean[0].replace("John gave", "Mary gave")]
    assert tiny.to_str_tokens(pairs.labels.tokens[0], prepend_bos=False) == [" Mary", " John"]
    assert pairs.labels.signs.tolist() == [[1, -1]]


@pytest.mark.parametrize("task", ["example", TASK])
def test_changes_are_means_over_prompts_of_later_heads(heads, tiny, pairs, task):
    data = mediators.example_pairs(tiny) if task == "example" else pairs
    means = dense_effects(tiny, data, "heads", "heads").mean(dim=1)
    later = [(a, i, b, j) for a, i, b, j in product(range(3), range(4), repeat=2) if a < b]
    for row, statistic in enumerate(MEASURES):
        found = heads.filter(task=task, statistic=statistic)
        assert found.select(PAIR).rows() == later
        expected = [means[row, *pair].item() for pair in later]
        np.testing.assert_allclose(found["estimate"], expected, atol=1e-6)
        assert set(found["n"]) == {len(data)} and found["low"].is_null().all()
    assert heads["task"].unique(maintain_order=True).to_list() == ["example", TASK]


def test_undefined_prompts_are_left_out_of_a_mean_and_of_n(tiny, pairs):
    same = replace(
        pairs,
        corrupted=[*pairs.corrupted[:2], pairs.clean[2]],
        corrupted_tokens=[*pairs.corrupted_tokens[:2], pairs.clean_tokens[2]],
    )
    both = between(mediators.head_changes(tiny, pairs.select([0, 1])), 0, 1, 1, 2)
    all_three = mediators.head_changes(tiny, same)
    assert between(all_three, 0, 1, 1, 2)["estimate"] == pytest.approx(both["estimate"])
    assert between(all_three, 0, 1, 1, 2)["n"] == both["n"] == 2
    norm = between(all_three, 0, 1, 1, 2, statistic="norm")
    assert norm["n"] == 3
    nothing = mediators.head_changes(tiny, same.select([2]))
    assert nothing.filter(statistic="relative")["estimate"].is_null().all()
    assert (nothing.filter(statistic="norm")["estimate"] == 0).all()


@pytest.mark.parametrize("outcome", mediators.OUTCOMES)
@pytest.mark.parametrize("target", KINDS)
def test_a_test_compares_components_that_ig_finds_direction_dependent(
    question, tiny, pairs, target, outcome
):
    ig, ap = (
        [method(tiny, pairs, direction=way).neurons.mean(dim=0).numpy() for way in DIRECTIONS]
        for method in (integrated_gradients, activation_patching)
    )
    moved = activation_differences(tiny, pairs, "neurons")
    effects = component_effects(tiny, pairs, "neurons")[target][MEASURES.index(outcome)]
    expected = compare_with_controls(
        latent_components(ig[0][None], ig[1][None])[0],
        effects.double().numpy(),
        log_covariates(IG=tuple(ig), AP=tuple(ap), moved=(moved,)),
    )
    tests = question.filter(kind="neurons", target=target, outcome=outcome)
    found = {row["statistic"]: row for row in tests.rows(named=True)}
    assert set(tests["n"]) == {PROMPTS}
    assert found["compared"]["estimate"] == expected.compared > 3
    for name in ("effect", "p", "controls", "unmatched"):
        assert found[name]["estimate"] == pytest.approx(getattr(expected, name), abs=1e-3)
    assert found["effect"]["low"] == pytest.approx(expected.low, abs=1e-3)
    assert found["effect"]["high"] == pytest.approx(expected.high, abs=1e-3)
    worst = max(map(abs, expected.balance.values()))
    assert found["imbalance"]["estimate"] == pytest.approx(worst, abs=1e-3)


def test_the_worst_imbalance_counts_in_either_direction(tiny_directory, monkeypatch):
    found = Comparison(0.1, 0.0, 0.2, 0.5, 1, 3, 0, {"IG": -0.5, "AP": 0.2})
    monkeypatch.setattr(mediators, "compare_with_controls", lambda *_, **__: found)
    study = mediators.latent_question([str(tiny_directory)], n=2, tasks=(TASK,))
    assert (study.filter(statistic="imbalance")["estimate"] == 0.5).all()


def test_every_outcome_is_tested_for_every_kind(question, tiny_directory):
    statistics = ("effect", "p", "compared", "controls", "unmatched", "imbalance", "q")
    keys = ["model", "task", "kind", "target", "outcome", "statistic"]
    outcomes = ("norm", "reach", "projection")
    expected = product([str(tiny_directory)], [TASK], KINDS, KINDS, outcomes, statistics)
    assert Counter(question.select(keys).rows()) == Counter(expected)


def of_p(values: list[float | None]) -> pl.DataFrame:
    rows = [
        {"kind": "heads", "outcome": str(number), "statistic": statistic, "estimate": value}
        for number, p in enumerate(values)
        for statistic, value in (("effect", 7.0), ("p", p))
    ]
    return tidy(rows)


def test_q_is_over_the_tests_of_all_models_and_tasks(monkeypatch):
    p = {
        ("a", "ioi"): [0.01, 0.04],
        ("a", "x"): [0.03, None],
        ("b", "ioi"): [0.002],
        ("b", "x"): [0.9],
    }
    monkeypatch.setattr(mediators, "loaded", lambda name: name)
    monkeypatch.setattr(mediators, "_tests_of", lambda model, task, *_: of_p(p[model, task]))
    tests = mediators.latent_question(["a", "b"], tasks=("ioi", "x"))
    found = tests.filter(statistic="p").select("model", "task", "estimate").rows()
    assert found == [(*about, value) for about, values in p.items() for value in values]
    pooled = false_discovery_control([0.01, 0.04, 0.03, 0.002, 0.9])
    q = tests.filter(statistic="q")["estimate"].to_list()
    assert q == pytest.approx([*pooled[:3], None, *pooled[3:]])
    assert (tests.filter(statistic="effect")["estimate"] == 7).all()


@given(p=st.lists(st.none() | st.floats(1e-6, 1), min_size=1, max_size=20))
def test_q_is_benjamini_and_hochbergs(p):
    tests = mediators.with_false_discovery_rate(of_p(p))
    known = sorted(value for value in p if value is not None)
    q = tests.filter(statistic="q")["estimate"]
    for value, adjusted in zip(p, q, strict=True):
        assert (value is None) == (adjusted is None)
        if value is not None:
            larger = [
                known[rank] * len(known) / (rank + 1)
                for rank in range(len(known))
                if known[rank] >= value
            ]
            assert adjusted == pytest.approx(min(1.0, *larger))


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
    monkeypatch.setattr(mediators, "attention_to_names", lambda *_: (planted / 2, planted))
    heads = mediators.rank_heads(tiny, pairs, ap)
    roles = ["name mover", "none", "none", "subject reader", "none"]
    assert heads["role"].head(5).to_list() == roles
    names = heads.select(f"attention to the {name}" for name in ("indirect object", "subject"))
    assert names.rows()[:4] == [
        (pytest.approx(1 / 3), 0),
        (pytest.approx(1 / 6), 0),
        (0, 0),
        (0, 0.5),
    ]
    share = ap.heads.mean(dim=0).flatten()[order[0]] / ap.total.mean()
    assert heads["ap"][0] == pytest.approx(share.item(), rel=1e-5)


def test_attention_is_from_the_last_position_to_each_name(tiny):
    """A name that is said more than once is read where it is said last."""
    pairs = load_task("ioi", tiny, n=6)
    paid, most = mediators.attention_to_names(tiny, pairs)
    assert most.sum(dim=(1, 2, 3)).min() > 0
    for prompt, text in enumerate(pairs.clean):
        _, cache = tiny.run_with_cache(text)
        words = tiny.to_str_tokens(text)
        names = tiny.to_str_tokens(pairs.labels.tokens[prompt], prepend_bos=False)
        for (number, name), layer in product(enumerate(names), range(3)):
            position = len(words) - 1 - words[::-1].index(name)
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
            torch.testing.assert_close(paid[number, prompt, layer], pattern[:, position])
            largest = pattern.max(dim=1).values == pattern[:, position]
            assert (most[number, prompt, layer] == largest).all()


def test_mediators_are_readers_above_the_first_layer_or_stand_in(tiny):
    def chosen(*rows: tuple[int, str]) -> list:
        frame = pl.DataFrame(rows, ["layer", "role"], orient="row").with_columns(index=pl.lit(0))
        return mediators.mediators(frame)

    assert chosen((1, "none"), (2, "name mover")) == [("heads", 2, 0)]
    assert chosen((0, "name mover"), (1, "none"), (2, "none")) == [("heads", 1, 0)]


def test_links_lead_from_earlier_components_and_the_strongest_neurons(monkeypatch):
    """Neurons are strong by their mean, whatever its sign."""
    monkeypatch.setattr(mediators, "NEURONS", 2)
    neurons = [[[0.1, -5, 0.2], [0.3, 9, 0.4]], [[0.5, -6, 0.6], [0.7, -8, 4]]]
    ap = made.scores(heads=np.ones((2, 2, 2)), neurons=neurons, base=[1, 2], source=[3, 5])
    first, second = ("heads", 1, 0), ("heads", 2, 1)
    early = [("heads", 0, 0), ("heads", 0, 1)]
    later = [("heads", 1, 0), ("heads", 1, 1)]
    strong = [("neurons", 0, 1), ("neurons", 1, 2)]
    assert mediators.links_to([first, second], ap) == [
        *((source, first) for source in [*early, strong[0]]),
        *((source, second) for source in [*early, *later, *strong]),
    ]


def test_effects_of_links_are_shares_of_the_total(monkeypatch, tiny):
    found = torch.stack([torch.tensor([[1.0, 20], [3, 40]]) * 10**row for row in range(4)])
    monkeypatch.setattr(mediators.mediation, "mediate", lambda *_, **__: found)
    target = ("heads", 2, 1)
    links = [(("heads", 0, 3), target), (("neurons", 1, 7), target)]
    rows = mediators.through_links(tiny, load_task("ioi", tiny, n=2), links, total=-4.0)
    assert tidy(rows).select("component", "through", "statistic", "estimate", "n").rows() == [
        (name, "head 2.1", effect, -mean * 10**row, 2)
        for name, mean in (("head 0.3", 0.5), ("neuron 1.7", 7.5))
        for row, effect in enumerate(EFFECTS)
    ]


def test_a_heads_total_effect_is_its_ap(readers, tiny):
    ap = activation_patching(tiny, load_task("ioi", tiny, n=4))
    totals = readers.filter(statistic="total", component="head 0.2")
    expected = float(ap.heads[:, 0, 2].mean() / ap.total.mean())
    assert totals["estimate"].to_list() == pytest.approx([expected] * totals.height, abs=1e-4)
    head = one(readers, component="head 0.2", statistic="ap")
    assert head.mean == pytest.approx(expected, abs=1e-4)


def test_heads_and_links_stand_in_one_frame(readers):
    heads, links = (readers.filter(pl.col("through").is_null() == alone) for alone in (True, False))
    assert heads.height == 3 * 12 and heads["role"].is_not_null().all()
    assert heads["statistic"].unique(maintain_order=True).to_list() == [
        "ap",
        "attention to the indirect object",
        "attention to the subject",
    ]
    sizes = heads.filter(statistic="ap")["estimate"].abs()
    assert sizes.is_sorted(descending=True)
    assert set(links["component"].str.split(" ").list.first()) == {"head", "neuron"}
    assert links["low"].is_not_null().all() and set(readers["n"]) == {4}
    parts = links.pivot("statistic", index=["component", "through"], values="estimate")
    whole = parts["direct"] + parts["indirect"] + parts["remainder"]
    np.testing.assert_allclose(parts["total"], whole, atol=1e-6)


def test_attention_and_links_are_of_the_first_prompts_only(tiny, monkeypatch):
    monkeypatch.setattr(mediators, "MEDIATED", 2)
    found = mediators.name_readers(tiny, n=3)
    assert set(found.filter(statistic="ap")["n"]) == {3}
    assert set(found.filter(pl.col("statistic") != "ap")["n"]) == {2}
    paid, _ = mediators.attention_to_names(tiny, load_task("ioi", tiny, n=3).select([0, 1]))
    attention = one(found, component="head 1.3", statistic="attention to the subject")
    assert attention.mean == pytest.approx(paid[1, :, 1, 3].mean().item(), abs=1e-6)


def drawn_pairs(heads: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Made-up changes in seven layers, and what the page draws of them."""
    frame = effects(7, heads).with_columns(task=pl.lit("ioi"), change="relative")
    other = frame.with_columns(task=pl.lit("other"), change=pl.col("change") / 2)
    both = pl.concat([frame, other])
    return both, made.cell("mediators", "titles = ", relative=both, example=frame)["drawn"]


def test_a_pair_of_heads_has_a_cell():
    pairs, drawn = drawn_pairs(heads=7)
    assert drawn["change"].equals(pairs["change"])
    assert drawn.select("patched", "changed").row(0) == ("0.0", "1.0")


def test_of_too_many_pairs_a_cell_is_the_largest_change_between_two_layers():
    pairs, drawn = drawn_pairs(heads=10)
    assert drawn["patched"].unique(maintain_order=True).to_list() == [*"012345"]
    assert drawn.height == 2 * 7 * 6 / 2
    for row in drawn.iter_rows(named=True):
        layers = {"layer": int(row["patched"]), "later_layer": int(row["changed"])}
        assert row["change"] == pairs.filter(task=row["task"], **layers)["change"].max()
