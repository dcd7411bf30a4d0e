"""What components change in later ones, and the question about latent ones; on a tiny model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import vl_convert
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, charts, integrated_gradients, load_task, paths
from analysis.ablation import activation_differences
from analysis.bench.results import MediationBench
from analysis.charts.theme import BLUE
from analysis.latent import (
    Comparison,
    compare_with_controls,
    latent_components,
    log_covariates,
)
from analysis.mediation import Component, dense_effects
from analysis.studies import latent_question, name_readers
from analysis.studies.faults import EXAMPLE
from analysis.studies.head_to_head import example_pairs, head_changes, head_to_head
from analysis.studies.latent_question import LatentQuestion, changes_by
from analysis.studies.performance import neurons_on_neurons

PROMPTS = 3
TASK = "greater-than"


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
    names = ("layer", "component", "later_layer", "later_component")
    here = (pl.col(name) == place for name, place in zip(names, places, strict=True))
    return frame.row(by_predicate=pl.all_horizontal(here), named=True)


def test_the_example_is_the_notebooks_without_its_space(tiny):
    pairs = example_pairs(tiny)
    assert (pairs.clean, pairs.corrupted) == ([EXAMPLE[0]], [EXAMPLE[1]])
    assert not pairs.clean[0].endswith(" ")
    assert tiny.to_str_tokens(pairs.labels.tokens[0], prepend_bos=False) == [" Mary", " John"]
    assert pairs.labels.signs.tolist() == [[1, -1]]


def test_changes_are_means_over_prompts_of_later_heads(heads, tiny, pairs):
    found = heads.tasks.drop("task")
    assert found.equals(head_changes(tiny, pairs))
    assert found.height == 4 * 8 + 4 * 4
    means = dense_effects(tiny, pairs, "heads", "heads").mean(dim=1)
    row = pair(found, 0, 3, 2, 1)
    for measure, name in enumerate(("norm", "relative", "projection", "reach")):
        assert row[name] == pytest.approx(means[measure, 0, 3, 2, 1].item(), abs=1e-6)


def test_undefined_prompts_are_left_out_of_a_mean(tiny, pairs):
    same = replace(pairs, corrupted_tokens=[*pairs.corrupted_tokens[:2], pairs.clean_tokens[2]])
    both = head_changes(tiny, pairs.select([0, 1]))
    assert pair(head_changes(tiny, same), 0, 1, 1, 2)["relative"] == pytest.approx(
        pair(both, 0, 1, 1, 2)["relative"]
    )
    nothing = head_changes(tiny, same.select([2]))
    assert nothing["relative"].is_null().all() and (nothing["norm"] == 0).all()


def test_reached_heads_are_counted(heads):
    reached = heads.reached()
    assert reached.height == 8, "the last layer has no later heads"
    assert reached["later"].to_list() == [8] * 4 + [4] * 4
    row = reached.row(5, named=True)
    own = heads.example.filter(pl.col("layer") == 1, pl.col("component") == 1)
    assert row["reached"] == sum(value > 0.05 for value in own["relative"])
    assert row["changed"] == sum(value > 0 for value in own["norm"])
    strongest = pair(own, 1, 1, row["strongest_layer"], row["strongest_component"])
    assert strongest["relative"] == row["relative"] == own["relative"].max()
    assert f"{heads.example.height} pairs" in heads.finding()


def test_a_relative_change_over_five_percent_is_reached(heads):
    """Whatever the norm is."""
    rows = [(0, 0, 1, later, 9.0, relative) for later, relative in enumerate((0.04, 0.05, 0.06))]
    columns = ["layer", "component", "later_layer", "later_component", "norm", "relative"]
    made = replace(heads, example=pl.DataFrame(rows, columns, orient="row")).reached()
    assert made.select("later", "changed", "reached").row(0) == (3, 3, 1)


def test_layers_are_means_over_pairs(heads):
    cell = heads.layers().row(1, named=True)
    own = heads.tasks.filter(pl.col("layer") == 1, pl.col("later_layer") == 2)
    assert cell["on layer 2"] == f"{own['relative'].mean():.0%}" and cell["on layer 1"] == "–"


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_the_graph_draws_what_is_above_the_slider(heads, threshold):
    svg = vl_convert.vegalite_to_svg(charts.plot_graph(heads.example, threshold).to_dict())
    lines = (heads.example["relative"] >= threshold).sum()
    assert svg.count(f'stroke="{BLUE}"') == lines


def test_the_slider_starts_where_so_many_are_left(heads):
    least = heads.drawn_from(edges=10)
    assert abs((heads.example["relative"] >= least).sum() - 10) <= 2


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


def test_every_outcome_is_asked_of_every_kind(question):
    assert question.tests.height == 2 * 2 * 3
    assert question.table("neurons", "neurons").height == 1
    assert question.table_of_heads()["latent"].to_list() == [
        latent for latent in question.table("heads", "heads")["latent"] if latent
    ] + [latent for latent in question.table("heads", "neurons")["latent"] if latent]


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


def made(above: int, below: int, neither: int) -> LatentQuestion:
    cases = [(1.0, 0.01)] * above + [(-1.0, 0.01)] * below + [(0.1, 0.5)] * neither
    rows = [
        {"outcome": "norm", "effect": effect, "p": q, "q": q, "imbalance": 0.2 * (effect < 0)}
        for effect, q in cases
    ]
    schema = {"outcome": pl.String} | dict.fromkeys(("effect", "p", "q", "imbalance"), pl.Float64)
    return LatentQuestion(pl.DataFrame(rows, schema))


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
    study = made(above, below, neither)
    assert study.verdict().startswith(answer)
    if above + below + neither:
        assert f"{above} find them above" in study.verdict()
        assert f"above in {above} of {above + below + neither} tests, below in {below}" in (
            study.by_outcome()
        )
        assert f"In {below} of" in study.balance()
        assert f"of the other {above + neither}, {above} find" in study.balance()


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
    monkeypatch.setattr(name_readers, "attention_to_names", lambda *_: (planted, planted))
    heads = name_readers.rank_heads(tiny, pairs, ap)
    assert heads["role"].head(5).to_list() == [
        "name mover",
        "none",
        "none",
        "subject reader",
        "none",
    ]
    assert heads["attention to the indirect object"][0] == pytest.approx(2 / 3)
    share = ap.heads.mean(dim=0).flatten()[order[0]] / ap.total.mean()
    assert heads["ap"][0] == pytest.approx(share.item(), rel=1e-5)


def test_attention_is_the_last_positions_on_each_name(tiny):
    pairs = load_task("ioi", tiny, n=2)
    paid, most = name_readers.attention_to_names(tiny, pairs)
    _, cache = tiny.run_with_cache(pairs.clean[1])
    words = tiny.to_str_tokens(pairs.clean[1])
    names = tiny.to_str_tokens(pairs.labels.tokens[1], prepend_bos=False)
    for place, name in enumerate(names):
        position = len(words) - 1 - words[::-1].index(name)
        pattern = cache["blocks.2.attn.hook_pattern"][0, :, -1]
        torch.testing.assert_close(paid[place, 1, 2], pattern[:, position])
        assert (most[place, 1, 2] == (pattern.argmax(dim=1) == position)).all()


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
    assert readers.table().height == name_readers.SHOWN
    assert readers.links["through"][0] in readers.finding()


def test_a_data_set_of_neurons_is_extrapolated_from_one_prompt():
    measured = {
        "pairs": 1234,
        "seconds": 360.0,
        "model": "a shape",
        "task": "ioi",
        "machine": {"threads": 2},
        "memory": {"above resident": 2**29},
    }
    text = neurons_on_neurons(MediationBench(measured))
    assert "1,234 pairs" in text and "6.0 minutes on 2 threads and 0.50 GiB" in text
    assert "100 of that length would take 10 hours" in text
