from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import average_correlation, correlation_of_means, spearman
from analysis.attribution.parts import DIRECTIONS
from analysis.studies import comparison, everything
from analysis.studies import testbed_notice as notice
from analysis.studies.aligned_baselines import PER_PROMPT, aligned_baselines
from analysis.studies.baselines import baselines
from analysis.studies.facts import facts, shapley
from analysis.tasks import TASKS


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield aligned_baselines(tiny, n=5)


def test_frames_have_a_row_for_everything(study, tiny):
    assert study.prompts == dict.fromkeys(TASKS, 5)
    assert study.metrics.height == 4 * 5 * 2
    assert study.scores.height == 4 * 2 * 3 * (4 + 128)
    assert study.per_prompt.height == 4 * 2 * 2 * 5
    assert study.gaps.height == 4 * 2 * 2
    assert study.scores.null_count().sum_horizontal().item() == 0
    for table in (study.correlation_table(), study.halves_table(), study.appendix_table()):
        assert table.height == len(list(study.cells())) == 16


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_frames_hold_the_methods_scores(study, tiny, direction):
    pairs = load_task("greater-than", tiny, n=5)
    methods = (activation_patching, integrated_gradients)
    ap, ig = (method(tiny, pairs, direction=direction) for method in methods)
    row = study.scores_of("greater-than", direction).row(
        by_predicate=(pl.col("kind") == "neurons")
        & (pl.col("layer") == 1)
        & (pl.col("component") == 17),
        named=True,
    )
    assert row["ap"] == pytest.approx(ap.neurons[:, 1, 17].mean().item(), abs=1e-7)
    assert row["ig"] == pytest.approx(ig.neurons[:, 1, 17].mean().item(), abs=1e-7)
    estimate = study.estimate("greater-than", "heads", scope=PER_PROMPT, direction=direction)
    assert estimate == average_correlation(ap.heads, ig.heads)
    of_means = study.estimate("greater-than", "neurons", direction=direction)
    assert of_means == correlation_of_means(ap.neurons, ig.neurons)
    r = study.per_prompt.filter(
        pl.col("task") == "greater-than",
        pl.col("direction") == direction,
        pl.col("kind") == "heads",
    )
    assert r["r"].mean() == pytest.approx(estimate.mean)


def test_the_metric_and_the_strongest_are_the_methods(study, tiny):
    ap = activation_patching(tiny, load_task("greater-than", tiny, n=5))
    assert study.mean_metric("greater-than", "clean").mean == pytest.approx(ap.base.mean().item())
    assert study.total("greater-than") == pytest.approx(ap.total.mean().item(), abs=1e-6)
    strongest = study.strongest("greater-than", "heads", "ap")
    assert abs(strongest["ap"]) == pytest.approx(ap.heads.mean(dim=0).abs().max().item(), abs=1e-7)


def test_overlaps_stand_beside_their_chance(study):
    overlap = study.estimate("ioi", "neurons", "overlap", k=50)
    row = study.overlap_table().row(
        by_predicate=(pl.col("task") == "ioi")
        & (pl.col("direction") == "noising")
        & (pl.col("kind") == "neurons"),
        named=True,
    )
    assert row["top 50"] == f"{overlap}, chance {50 / 384:.2f}"
    heads = study.overlap_table().filter(pl.col("kind") == "heads")
    assert set(heads["top 50"]) == {"–"}, "there are 12 heads"


def test_negligible_components_can_be_left_out(tiny):
    """Silent neurons, whose two scores are 0, make the signs agree and the ranks tie."""
    pairs = load_task("gender-bias", tiny, n=4)
    ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
    silent = torch.zeros(4, 3, 500)
    padded = [replace(s, neurons=torch.cat([s.neurons, silent], dim=2)) for s in (ap, ig)]
    for scores, name in ((padded, "without negligible"), ((ap, ig), "of the means")):
        frame = comparison.agreement(*scores).filter(
            pl.col("kind") == "neurons",
            pl.col("scope") == name,
            pl.col("statistic") == "Spearman",
        )
        assert frame["mean"].item() == pytest.approx(
            spearman(*(s.neurons.mean(dim=0).reshape(1, -1).numpy() for s in (ap, ig)))[0], abs=1e-3
        )


def test_sentences_hold_the_studys_numbers(study):
    for task in TASKS:
        text = study.finding(task)
        assert str(study.mean_metric(task, "clean")) in text
        assert "On 5 prompts" in text
    assert "all 4 tasks" in study.summary()


@pytest.mark.parametrize(
    ("model", "words"),
    [("testbed-2", "no claims about GPT-2 small"), ("gpt2-small", "`gpt2-small`")],
)
def test_every_page_names_its_model(monkeypatch, model, words):
    monkeypatch.setenv("ANALYSIS_MODEL", model)
    assert model in notice()
    assert words in notice()


def test_facts_hold_on_the_testbed(testbed):
    found = facts(testbed)
    assert found.table.height == 9
    assert found.table["difference"].cast(pl.Float64).max() <= 1e-3
    assert found.parts["layer"].to_list() == list(range(testbed.cfg.n_layers))
    assert (found.parts["IG - AP"] > 0).any()


@given(
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    source=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
)
def test_shapley_from_corners_is_shapley_from_orders(weights, source):
    w = torch.tensor(weights, dtype=torch.float64)
    site = toy.toy_site(
        lambda a: torch.tanh(a @ w) + a[..., 0] * a[..., 1] * a[..., 3], [0.5] * 4, source
    )
    np.testing.assert_allclose(shapley(site)[0], toy.shapley(site), atol=1e-6)


def test_shapley_of_many_components_is_refused():
    with pytest.raises(ValueError, match="at most 16"):
        shapley(toy.toy_site(lambda a: a.sum(-1), [0.0] * 17, [1.0] * 17))


def test_everything_computes_on_processes_what_one_process_does(
    tiny_directory, tmp_path, monkeypatch
):
    """One study of it: processes find the code and the model by themselves, and keep results."""
    monkeypatch.setenv("ANALYSIS_MODEL", str(tiny_directory))
    monkeypatch.setattr(everything, "original", lambda model, n, seed: None)
    job = partial(everything._on_few_prompts, baselines, "gender-bias", 0)
    monkeypatch.setattr(everything, "_jobs", lambda n, seed: [(job, 1)])
    kept = {}
    for processes in (1, 2):
        results = tmp_path / str(processes)
        monkeypatch.setattr(paths, "RESULTS", results)
        monkeypatch.setenv("ANALYSIS_RESULTS", str(results))
        done = everything.everything(n=2, processes=processes)
        timed = ["baselines", "<lambda>", "reproduction", everything.TOTAL]
        assert done["study"].to_list() == timed
        (frame,) = results.glob("baselines-*.parquet")
        kept[processes] = pl.read_parquet(frame)
    # Numbers of threads differ, and with them the order of sums.
    np.testing.assert_allclose(kept[1]["mean"], kept[2]["mean"], atol=1e-5)
    monkeypatch.setattr(everything, "_jobs", lambda n, seed: pytest.fail("computed again"))
    everything.everything(n=2)
