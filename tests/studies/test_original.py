"""The page's cells on a tiny model: each fault is the fault, and each right number is right."""

import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from studies import made

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.ablation import multi_ablated_performance
from analysis.agreement import average_correlation
from analysis.choices import KINDS
from analysis.mediation import head_effects
from analysis.metrics import prob_diff
from analysis.studies import one, tidy
from analysis.studies.original import END_OF_PADDING, LAST_TOKEN, denominators, right_padded
from analysis.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "report" / "original.qmd").read_text()
N = 4


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory) -> dict[str, Any]:
    """What the page's cells name, run one after the other."""
    names: dict[str, Any] = {}
    about = SimpleNamespace(name="tiny", model=tiny, prompts=N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        patch.setattr("analysis.studies.exact_model", lambda: about)
        for cell in re.findall(r"^```\{python\}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            exec(compile(cell, "a cell of original.qmd", "exec"), names)
    return names


@pytest.fixture(scope="module")
def ioi(tiny) -> SimpleNamespace:
    pairs = load_task("ioi", tiny, n=N)
    methods = {"ap": activation_patching, "ig": integrated_gradients}
    scores = {name: method(tiny, pairs) for name, method in methods.items()}
    return SimpleNamespace(pairs=pairs, **scores)


def row(frame: pl.DataFrame, **values) -> dict:
    return frame.filter(**values).row(0, named=True)


def strongest(scores: torch.Tensor, k: int) -> np.ndarray:
    """A mask of the k components with the largest mean."""
    mean = scores.mean(dim=0).abs()
    return (mean >= mean.flatten().topk(k).values[-1]).numpy()


def test_frames_have_a_row_for_everything(page):
    sets = ("none", "highlight(x)", "highlight(-x)", "noising only", "denoising only")
    keys = {
        "padding": {"task": TASKS},
        "by_reading": {"task": TASKS, "reading": (LAST_TOKEN, END_OF_PADDING)},
        "completeness": {"task": TASKS, "kind": KINDS},
        "signs": {"task": TASKS, "set": sets},
        "late_binding": {"task": TASKS},
        "quantiles": {"task": TASKS, "kind": KINDS},
        "borrowed": {"task": TASKS},
    }
    for name, columns in keys.items():
        found = page[name].select(*columns).rows()
        assert Counter(found) == Counter(product(*columns.values())), name


def test_padding_is_what_a_batch_is_read_at(page, tiny, ioi):
    found = row(page["padding"], task="ioi")
    lengths = [len(tokens) for tokens in ioi.pairs.clean_tokens]
    assert found["padded"] == sum(length < max(lengths) for length in lengths) > 0
    padded = activation_patching(tiny, right_padded(tiny, ioi.pairs), kinds=())
    assert found["wrong"] == pytest.approx(padded.base.mean().item(), abs=1e-4)
    assert found["right"] == pytest.approx(ioi.ap.base.mean().item())
    assert found["wrong"] != pytest.approx(found["right"], abs=0.01)
    years = row(page["padding"], task="greater-than")
    assert years["padded"] == 0
    assert years["wrong"] == pytest.approx(years["right"], abs=1e-5)


@given(flips=st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_denominators_sign_is_that_of_its_prompts_r(flips):
    ap, ig = (made.random_scores(name, seed, 5, noise=9) for seed, name in enumerate(("AP", "IG")))
    effects = torch.tensor([2.0 if flip else -2.0 for flip in flips])
    found = tidy(denominators(replace(ap, source=ap.base + effects), ig))
    sides = zip(ap.heads.flatten(1), ig.heads.flatten(1), strict=True)
    r = np.array([pearsonr(*side).statistic for side in sides])
    assert min(r) < 0 < max(r)
    signed = r * np.where(flips, -1, 1)
    expected = {
        ("wrong", "r"): signed.mean(),
        ("wrong", "sd"): signed.std(ddof=1),
        ("wrong", "|r|"): abs(r).mean(),
        ("wrong", "flips"): sum(flips),
        ("right", "r"): r.mean(),
    }
    assert found.select("version", "statistic").rows() == list(expected)
    assert found["estimate"].to_list() == pytest.approx(list(expected.values()))
    assert found["n"].to_list() == [5] * 5
    means = found.filter(statistic="r")
    assert (means["low"] < means["estimate"]).all() and (means["estimate"] < means["high"]).all()
    assert found.filter(pl.col("statistic") != "r")["low"].is_null().all()


def test_padded_prompts_are_scored_at_their_end(page, tiny, ioi):
    padded, whole = (
        page["denominators"].filter(task="ioi", reading=reading)
        for reading in (END_OF_PADDING, LAST_TOKEN)
    )
    total = activation_patching(tiny, right_padded(tiny, ioi.pairs), kinds=()).total
    assert one(padded, statistic="flips").mean == (total > 0).sum()
    assert one(whole, statistic="flips").mean == (ioi.ap.total > 0).sum()
    r = average_correlation(ioi.ap.heads, ioi.ig.heads).mean
    found = one(whole, version="right", statistic="r").mean
    assert found == pytest.approx(r, abs=1e-6)
    assert found != pytest.approx(one(padded, version="right", statistic="r").mean, abs=1e-3)


def test_the_page_divides_as_the_study_does(page):
    whole = page["by_reading"].filter(reading=LAST_TOKEN)
    assert page["at_last_token"]["flips"].to_list() == whole["sign changes"].to_list()
    assert page["at_last_token"]["wrong"].to_list() == pytest.approx(whole["wrong"].to_list())
    flipped = [-1 if page["ap"][task].total.mean() > 0 else 1 for task in TASKS]
    expected = [sign * r for sign, r in zip(flipped, whole["right"], strict=True)]
    assert page["at_last_token"]["right"].to_list() == pytest.approx(expected)


def test_means_lose_completeness_by_what_they_average(page):
    for kind, numbers in (("heads", 13 * 32), ("neurons", 13)):
        found = row(page["completeness"], task="greater-than", kind=kind)
        assert found["fewest"] == found["most"] == numbers
        assert found["right"] == pytest.approx(1, abs=0.05)
        assert found["wrong"] == pytest.approx(found["right"] / numbers, rel=1e-4)


def test_completeness_is_lost_prompt_by_prompt(page, ioi):
    """The sum of a layer's scores beside its effect; prompts have lengths of their own."""
    lengths = [len(tokens) for tokens in ioi.pairs.clean_tokens]
    assert min(lengths) < max(lengths)
    for kind, gaps, width in (("heads", ioi.ig.heads_gap, 32), ("neurons", ioi.ig.neurons_gap, 1)):
        found = row(page["completeness"], task="ioi", kind=kind)
        assert (found["fewest"], found["most"]) == (width * min(lengths), width * max(lengths))
        sums = ioi.ig.of(kind).sum(dim=2)
        effect = (sums - gaps).abs().mean()
        means = torch.stack([of / (width * n) for of, n in zip(sums, lengths, strict=True)])
        assert found["right"] == pytest.approx((sums.abs().mean() / effect).item())
        assert found["wrong"] == pytest.approx((means.abs().mean() / effect).item())


def test_greater_than_on_other_data_is_another_number(page, tiny):
    dates, people = (load_task(task, tiny, n=N) for task in ("greater-than", "gender-bias"))
    expected = {
        ("greater-than", "its years"): dates,
        ("gender-bias", "its pronouns"): replace(people, metric=prob_diff),
        ("gender-bias", "the years"): replace(people, metric=prob_diff, labels=dates.labels),
    }
    assert page["wrong_data"].select("prompts", "labels").rows() == list(expected)
    for found, pairs in zip(page["wrong_data"].to_dicts(), expected.values(), strict=True):
        metric = activation_patching(tiny, pairs, kinds=())
        assert found["clean"] == pytest.approx(metric.base.mean().item(), abs=1e-6)
        assert found["corrupted"] == pytest.approx(metric.source.mean().item(), abs=1e-6)
        assert found["example"] == pairs.clean[0]
    assert page["wrong_data"]["clean"].n_unique() == 3


def test_a_position_changes_nothing_before_the_prompts_differ(page, tiny):
    clean, corrupted = (tiny.to_tokens(page[text])[0] for text in ("clean", "corrupted"))
    first = int((clean != corrupted).nonzero()[0])
    changed = page["indexing"]["wrong"].to_list()
    assert len(changed) == 12 and changed[:first] == [0] * first and all(changed[first:])
    heads = page["indexing"]["right"].drop_nulls()
    assert len(heads) == 4 and (heads > 0).all()
    sizes = page["cancelling"]
    assert (sizes["signed"] < 1e-4 * sizes["absolute"]).all(), "centred weights cancel"
    assert sizes["last"].is_between(0, 1, closed="none").all()


def test_patched_heads_change_later_ones_as_the_librarys_do(page, tiny, example):
    """The norms of the changes are those of `head_effects`, which shares no code with the page."""
    expected = head_effects(tiny, example)[0, 0, :, 1:]
    changes = torch.stack(page["by_head"])
    torch.testing.assert_close(changes.norm(dim=(2, 4)), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def example(page, tiny, tmp_path):
    path = tmp_path / "example.csv"
    texts = f'"{page["clean"]}","{page["corrupted"]}"'
    path.write_text(f"clean,corrupted,correct,incorrect\n{texts}, Mary, John\n")
    return load_task(path, tiny)


def test_a_stale_name_gives_every_neuron_the_same_number(page):
    assert page["stale_name"]["wrong"].n_unique() == 1
    assert page["stale_name"]["right"].n_unique() == page["stale_name"].height == 4
    assert page["head"] > 10, "the stale index is a position after the first difference"


def test_the_examples_right_metric_is_the_librarys(page, tiny, example):
    expected = activation_patching(tiny, example, kinds=())
    found = row(page["endings"], prompt="ends in a word", labels="with their space")
    assert found["clean"] == pytest.approx(expected.base.item(), abs=1e-4)
    assert found["corrupted"] == pytest.approx(expected.source.item(), abs=1e-4)
    assert page["endings"]["clean"].n_unique() == 4


def test_sets_of_absolute_values_do_not_know_a_sign(page, tiny, ioi):
    denoising = integrated_gradients(tiny, ioi.pairs, direction="denoising", kinds=("neurons",))
    first, second = (strongest(of.neurons, 38) for of in (ioi.ig, denoising))
    both = strongest(ioi.ig.neurons + denoising.neurons, 38)
    expected = {
        "none": np.zeros_like(both),
        "highlight(x)": both,
        "highlight(-x)": both,
        "noising only": first & ~second,
        "denoising only": second & ~first,
    }
    found = page["signs"].filter(task="ioi")
    assert found["set"].to_list() == list(expected)
    assert found["size"].to_list() == [mask.sum() for mask in expected.values()]
    masks = np.stack(list(expected.values()))
    metric = multi_ablated_performance(tiny, ioi.pairs, masks, "neurons").mean(dim=1)
    assert found["metric"].to_list() == pytest.approx(metric.tolist(), abs=1e-4)
    for sets in page["signs"].partition_by("task"):
        first, second = sets.filter(pl.col("set").str.ends_with("only")).to_dicts()
        assert first["size"] == second["size"] > 0 and first["metric"] != second["metric"]


def test_late_hooks_ablate_the_last_head_of_each_layer(page, tiny, ioi):
    heads = strongest(ioi.ap.heads, 4)
    wrong = np.zeros_like(heads)
    wrong[heads.any(axis=1), np.argwhere(heads)[-1, 1]] = True
    found = row(page["late_binding"], task="ioi")
    for version, mask in (("wrong", wrong), ("right", heads)):
        expected = multi_ablated_performance(tiny, ioi.pairs, mask[None], "heads").mean().item()
        assert found[version] == pytest.approx(expected, abs=1e-4), version
    assert found["wrong"] != pytest.approx(found["right"], abs=1e-2)
    assert found["intact"] == pytest.approx(ioi.ap.base.mean().item(), abs=1e-6)
    assert found["heads"] == ", ".join("{}.{}".format(*head) for head in np.argwhere(heads))


def test_a_pooled_quantile_gives_prompts_different_shares(page, ioi):
    for kind in KINDS:
        sizes = ioi.ig.of(kind).flatten(1).abs()
        threshold = np.percentile(sizes.flatten(), 90)
        shares = [sum(value >= threshold for value in prompt) / len(prompt) for prompt in sizes]
        found = row(page["quantiles"], task="ioi", kind=kind)
        assert found["lowest"] == pytest.approx(min(shares))
        assert found["highest"] == pytest.approx(max(shares)) != found["lowest"]
        assert found["right"] == pytest.approx(round(0.1 * sizes.shape[1]) / sizes.shape[1])


def test_a_borrowed_task_answers_for_another(page, tiny):
    """The task's heads do one thing on IOI's prompts, and another on the task's own."""
    for task in ("ioi", "gender-bias"):
        found = row(page["borrowed"], task=task)
        ap = activation_patching(tiny, load_task(task, tiny, n=N), kinds=("heads",))
        heads = strongest(ap.heads, 4)[None]
        for column, on in (("wrong", "ioi"), ("right", task)):
            pairs = load_task(on, tiny, n=N)
            whole = activation_patching(tiny, pairs, kinds=())
            change = multi_ablated_performance(tiny, pairs, heads, "heads")[0] - whole.base
            expected = (change.mean() / whole.total.mean()).item()
            assert found[column] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert page["borrowed"]["wrong"].n_unique() == page["borrowed"]["right"].n_unique() == 4


def test_inline_values_are_texts_that_the_cells_name(page):
    """A number would show its repr."""
    inline = re.findall(r"`\{python\} (\w+)`", PAGE)
    assert len(inline) > 20
    assert {name: type(page[name]) for name in inline if not isinstance(page[name], str)} == {}


@pytest.mark.parametrize("guard", re.findall(r"`(tests/\S+?::\w+)`", PAGE))
def test_every_guard_exists(guard):
    file, name = guard.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", re.findall(r"^\|.*?\| `([\w.]+)` \|", PAGE, re.MULTILINE))
def test_every_function_of_the_map_exists(name):
    assert callable(resolve_name(f"analysis.{name}"))
