"""Each fault is the fault, and each right number is right; on a tiny model."""

import re
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import load_task, paths
from analysis.ablation import largest, multi_ablated_performance
from analysis.agreement import correlations
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.studies import faults, record
from analysis.studies.faults import EXAMPLE, INDICES, Run
from analysis.studies.original import END_OF_PADDING, original
from analysis.tasks import TASKS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield original(tiny, n=4)


@pytest.fixture(scope="module")
def run(tiny) -> Run:
    pairs = load_task("ioi", tiny, n=4)
    methods = (activation_patching, integrated_gradients)
    return Run(pairs, *(method(tiny, pairs) for method in methods))


def row(frame: pl.DataFrame, **values) -> dict:
    return frame.row(
        by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in values.items()), named=True
    )


def test_frames_have_a_row_for_everything(study):
    for frame in (study.padding, study.late_binding, study.borrowed):
        assert frame["task"].to_list() == list(TASKS)
    for frame in (study.denominators, study.completeness, study.quantiles):
        assert frame.height == 2 * len(TASKS)
    assert study.signs.height == 5 * len(TASKS)


def test_padding_is_what_a_batch_is_read_at(study, tiny, run):
    found = row(study.padding, task="ioi")
    lengths = [len(tokens) for tokens in run.pairs.clean_tokens]
    assert found["padded"] == sum(length < max(lengths) for length in lengths) > 0
    padded = activation_patching(tiny, faults.right_padded(tiny, run.pairs), kinds=())
    assert found["wrong"] == pytest.approx(padded.base.mean().item(), abs=1e-4)
    assert found["right"] == pytest.approx(run.ap.base.mean().item())
    assert found["wrong"] != pytest.approx(found["right"], abs=0.01)
    years = row(study.padding, task="greater-than")
    assert years["padded"] == 0
    assert years["wrong"] == pytest.approx(years["right"], abs=1e-5)


@given(flips=st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_denominators_sign_is_that_of_its_prompts_r(run, flips):
    effects = torch.tensor([2.0 if flip else -2.0 for flip in flips])
    ap: Scores = replace(run.ap, source=run.ap.base + effects)
    found = faults.denominators(ap, run.ig, "made up").row(0, named=True)
    r = correlations(run.ap.heads, run.ig.heads)
    assert found["flips"] == sum(flips)
    assert found["wrong"] == pytest.approx((r * np.where(flips, -1, 1)).mean(), abs=1e-6)
    assert found["right"] == pytest.approx(r.mean(), abs=1e-6)
    assert found["absolute"] == pytest.approx(np.abs(r).mean(), abs=1e-6)


def test_padded_prompts_are_scored_at_their_end(study, tiny, run):
    found = row(study.denominators, task="ioi", reading=END_OF_PADDING)
    total = activation_patching(tiny, faults.right_padded(tiny, run.pairs), kinds=()).total
    assert found["flips"] == int((total > 0).sum())


def test_means_lose_completeness_by_what_they_average(study):
    for kind, numbers in (("heads", 13 * 32), ("neurons", 13)):
        found = row(study.completeness, task="greater-than", kind=kind)
        assert found["fewest"] == found["most"] == numbers
        assert found["right"] == pytest.approx(1, abs=0.05)
        assert found["wrong"] == pytest.approx(found["right"] / numbers, rel=1e-4)


def test_greater_than_on_other_data_is_another_number(study, tiny):
    own, pronouns, years = study.wrong_data.iter_rows(named=True)
    right = activation_patching(tiny, load_task("greater-than", tiny, n=4), kinds=())
    assert own["clean"] == pytest.approx(right.base.mean().item())
    assert own["corrupted"] == pytest.approx(right.source.mean().item())
    assert pronouns["example"] == years["example"] == load_task("gender-bias", tiny, n=1).clean[0]
    assert len({round(case["clean"], 6) for case in (own, pronouns, years)}) == 3


def test_a_position_changes_nothing_before_the_prompts_differ(study, tiny):
    clean, corrupted = (tiny.to_tokens(text)[0] for text in EXAMPLE)
    first = int((clean != corrupted).nonzero()[0])
    changed = study.indexing["wrong"].to_list()
    assert changed[:first] == [0] * first and all(changed[first:])
    heads = study.indexing.drop_nulls()
    assert heads.height == 4 and (heads["right"] > 0).all()
    assert (heads["signed"] < 1e-4 * heads["absolute"]).all(), "centred weights cancel"
    assert ((heads["last"] > 0) & (heads["last"] < 1)).all()


def test_a_stale_name_gives_every_neuron_the_same_number(study):
    assert study.stale_name["wrong"].n_unique() == 1
    assert study.stale_name["right"].n_unique() == study.stale_name.height
    assert INDICES - 1 > 10, "the stale index is a position after the first difference"


def test_the_examples_right_metric_is_the_librarys(study, tiny, tmp_path):
    path = tmp_path / "example.csv"
    clean, corrupted = EXAMPLE
    path.write_text(f'clean,corrupted,correct,incorrect\n"{clean}","{corrupted}", Mary, John\n')
    expected = activation_patching(tiny, load_task(path, tiny), kinds=())
    found = row(study.endings, prompt="ends in a word", labels="with their space")
    assert found["clean"] == pytest.approx(expected.base.item(), abs=1e-4)
    assert found["corrupted"] == pytest.approx(expected.source.item(), abs=1e-4)
    assert study.endings["clean"].n_unique() == 4


def test_sets_of_absolute_values_do_not_know_a_sign(study):
    for task in TASKS:
        both = [row(study.signs, task=task, set=f"highlight({x})") for x in ("x", "-x")]
        assert both[0]["metric"] == pytest.approx(both[1]["metric"], abs=1e-5)
        assert both[0]["size"] == both[1]["size"]
        alone = [row(study.signs, task=task, set=f"{way} only") for way in ("noising", "denoising")]
        assert alone[0]["size"] == alone[1]["size"] > 0
        assert alone[0]["metric"] != alone[1]["metric"]


def test_late_hooks_ablate_the_last_head_of_each_layer(study, tiny, run):
    heads = largest(run.ap.heads.mean(dim=0).numpy(), faults.ABLATED_HEADS)
    layers, last = heads.any(axis=1), np.argwhere(heads)[-1, 1]
    wrong = np.zeros((1, 3, 4), dtype=bool)
    wrong[0, layers, last] = True
    found = row(study.late_binding, task="ioi")
    expected = multi_ablated_performance(tiny, run.pairs, wrong, "heads").mean().item()
    assert found["wrong"] == pytest.approx(expected, abs=1e-4)
    assert found["wrong"] != pytest.approx(found["right"], abs=1e-2)


def test_a_pooled_quantile_gives_prompts_different_shares(study):
    for task in TASKS:
        found = row(study.quantiles, task=task, kind="neurons")
        assert found["lowest"] < found["right"] < found["highest"]
        assert found["right"] == pytest.approx(1 - faults.QUANTILE, abs=0.01)


def test_a_borrowed_task_answers_for_another(study, tiny):
    for task in TASKS:
        found = row(study.borrowed, task=task)
        assert (found["wrong"] == found["right"]) == (task == "ioi")


def test_sign_changes_explain_the_published_correlations_of_heads():
    for found in record.explained().iter_rows(named=True):
        assert found["mean"] == pytest.approx(found["heads"], abs=0.002)
        assert found["sd"] == pytest.approx(found["heads_sd"], abs=0.005)


@pytest.mark.parametrize("fault", record.GUARDS)
def test_every_guard_exists_and_is_named(fault):
    for guard in record.GUARDS[fault]:
        file, name = guard.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), guard
        assert guard in record.guarded_by(fault)


def test_every_function_of_the_map_exists():
    for name in record.FUNCTIONS["here"]:
        assert resolve_name(name)


def test_the_page_names_every_guard():
    page = (ROOT / "report" / "original.qmd").read_text()
    for fault in record.GUARDS:
        assert f'guarded_by("{fault}")' in page
