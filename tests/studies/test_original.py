"""Each fault is the fault, and each right number is right; on a tiny model."""

import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from studies import made

from analysis import load_task, paths
from analysis.ablation import largest, multi_ablated_performance
from analysis.agreement import average_correlation
from analysis.attribution import activation_patching, integrated_gradients
from analysis.forward import KINDS
from analysis.metrics import prob_diff
from analysis.studies import faults, record
from analysis.studies.faults import EXAMPLE, INDICES, Run
from analysis.studies.original import original
from analysis.tasks import TASKS

ROOT = Path(__file__).parents[2]
LAST_TOKEN, END_OF_PADDING = "last token", "end of the padding"


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
    readings = (LAST_TOKEN, END_OF_PADDING)
    sets = ("none", "highlight(x)", "highlight(-x)", "noising only", "denoising only")
    keys = {
        "padding": {"task": TASKS},
        "denominators": {"task": TASKS, "reading": readings},
        "completeness": {"task": TASKS, "kind": KINDS},
        "signs": {"task": TASKS, "set": sets},
        "late_binding": {"task": TASKS},
        "quantiles": {"task": TASKS, "kind": KINDS},
        "borrowed": {"task": TASKS},
    }
    for name, columns in keys.items():
        found = getattr(study, name).select(*columns).rows()
        assert Counter(found) == Counter(product(*columns.values())), name


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


@given(flips=st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_denominators_sign_is_that_of_its_prompts_r(flips):
    ap, ig = (made.random_scores(name, seed, 5, noise=9) for seed, name in enumerate(("AP", "IG")))
    effects = torch.tensor([2.0 if flip else -2.0 for flip in flips])
    found = faults.denominators(replace(ap, source=ap.base + effects), ig, "made up")
    r = np.array(
        [
            pearsonr(a.flatten(), b.flatten()).statistic
            for a, b in zip(ap.heads, ig.heads, strict=True)
        ]
    )
    assert min(r) < 0 < max(r)
    signed = r * np.where(flips, -1, 1)
    assert made.table(found) == [
        ("task", "reading", "prompts", "flips", "wrong", "sd", "absolute", "right"),
        ("ioi", "made up", 5, sum(flips))
        + tuple(map(pytest.approx, (signed.mean(), signed.std(ddof=1), abs(r).mean(), r.mean()))),
    ]


def test_padded_prompts_are_scored_at_their_end(study, tiny, run):
    found = row(study.denominators, task="ioi", reading=END_OF_PADDING)
    total = activation_patching(tiny, faults.right_padded(tiny, run.pairs), kinds=()).total
    assert found["flips"] == int((total > 0).sum())
    right = row(study.denominators, task="ioi", reading=LAST_TOKEN)
    assert right["flips"] == int((run.ap.total > 0).sum())
    r = average_correlation(run.ap.heads, run.ig.heads).mean
    assert right["right"] == pytest.approx(r, abs=1e-6) != found["right"]


def test_means_lose_completeness_by_what_they_average(study):
    for kind, numbers in (("heads", 13 * 32), ("neurons", 13)):
        found = row(study.completeness, task="greater-than", kind=kind)
        assert found["fewest"] == found["most"] == numbers
        assert found["right"] == pytest.approx(1, abs=0.05)
        assert found["wrong"] == pytest.approx(found["right"] / numbers, rel=1e-4)


def test_completeness_is_lost_prompt_by_prompt(run):
    """The sum of a layer's scores beside its effect; prompts have lengths of their own."""
    lengths = [len(tokens) for tokens in run.pairs.clean_tokens]
    assert min(lengths) < max(lengths)
    heads, neurons = faults.completeness(run, d_model=32).iter_rows(named=True)
    for found, gaps, width in ((heads, run.ig.heads_gap, 32), (neurons, run.ig.neurons_gap, 1)):
        assert (found["fewest"], found["most"]) == (width * min(lengths), width * max(lengths))
        sums = run.ig.of(found["kind"]).sum(dim=2)
        effect = (sums - gaps).abs().mean()
        means = torch.stack([of / (width * n) for of, n in zip(sums, lengths, strict=True)])
        assert found["right"] == pytest.approx((sums.abs().mean() / effect).item())
        assert found["wrong"] == pytest.approx((means.abs().mean() / effect).item())


def test_greater_than_on_other_data_is_another_number(study, tiny):
    dates, people = (load_task(task, tiny, n=4) for task in ("greater-than", "gender-bias"))
    expected = {
        ("greater-than", "its years"): dates,
        ("gender-bias", "its pronouns"): replace(people, metric=prob_diff),
        ("gender-bias", "the years"): replace(people, metric=prob_diff, labels=dates.labels),
    }
    assert study.wrong_data.select("prompts", "labels").rows() == list(expected)
    for found, pairs in zip(study.wrong_data.iter_rows(named=True), expected.values(), strict=True):
        metric = activation_patching(tiny, pairs, kinds=())
        assert found["clean"] == pytest.approx(metric.base.mean().item(), abs=1e-6)
        assert found["corrupted"] == pytest.approx(metric.source.mean().item(), abs=1e-6)
        assert found["example"] == pairs.clean[0]
    assert study.wrong_data["clean"].n_unique() == 3


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
    right = multi_ablated_performance(tiny, run.pairs, heads[None], "heads").mean().item()
    assert found["right"] == pytest.approx(right, abs=1e-4)
    assert found["wrong"] != pytest.approx(found["right"], abs=1e-2)
    assert found["intact"] == pytest.approx(run.ap.base.mean().item(), abs=1e-6)
    assert found["heads"] == ", ".join("{}.{}".format(*head) for head in np.argwhere(heads))


def test_a_pooled_quantile_gives_prompts_different_shares(run):
    """Of 10 heads on each of 2 prompts, and 20 neurons, those of one prompt are far larger."""
    sizes = {"heads": 10, "neurons": 20}
    large = {kind: np.arange(1.0, 1 + n) * [[[-100.0]], [[1.0]]] for kind, n in sizes.items()}
    large["neurons"][1, 0, -1] = 1e4
    ig = made.scores("IG", **large, base=[1, 2], source=[3, 5])
    assert made.table(faults.quantiles(replace(run, ig=ig))) == [
        ("task", "kind", "lowest", "highest", "right"),
        ("ioi", "heads", 0, 0.2, 0.1),
        ("ioi", "neurons", 0.05, pytest.approx(0.15), 0.1),
    ]


def test_sets_of_one_direction_are_told_apart():
    """Of 20 neurons two are highlighted: by the sum of both directions, or by one alone."""
    noising, denoising = np.zeros((2, 1, 20))
    noising[0, [3, 5, 8]], denoising[0, [5, 7, 8]] = (9, 8, -7), (-6, 5, 4)
    found = faults._by_direction(noising, denoising)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "none": [],
        "highlight(x)": [3, 7],
        "highlight(-x)": [3, 7],
        "noising only": [3],
        "denoising only": [7],
    }


def test_a_borrowed_task_answers_for_another(study, tiny):
    """The task's heads do one thing on IOI's prompts, and another on the task's own."""
    for task in ("ioi", "gender-bias"):
        found = row(study.borrowed, task=task)
        ap = activation_patching(tiny, load_task(task, tiny, n=4), kinds=("heads",))
        heads = largest(ap.heads.mean(dim=0).numpy(), faults.ABLATED_HEADS)[None]
        for column, on in (("wrong", "ioi"), ("right", task)):
            pairs = load_task(on, tiny, n=4)
            whole = activation_patching(tiny, pairs, kinds=())
            change = multi_ablated_performance(tiny, pairs, heads, "heads")[0] - whole.base
            expected = (change.mean() / whole.total.mean()).item()
            assert found[column] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert study.borrowed["wrong"].n_unique() == study.borrowed["right"].n_unique() == 4


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
