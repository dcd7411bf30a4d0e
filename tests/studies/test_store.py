import errno
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import polars as pl
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis import (
    Scores,
    activation_patching,
    integrated_gradients,
    load_model,
    load_task,
    paths,
)
from analysis.metrics import logit_diff, prob_diff
from analysis.studies import store


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def pairs(tiny):
    return load_task("gender-bias", tiny, n=3)


def counted(method):
    def run(*arguments, **settings):
        run.calls += 1
        return method(*arguments, **settings)

    run.calls, run.__name__ = 0, method.__name__
    return run


def same(first: Scores, second: Scores) -> None:
    for field in fields(Scores):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):  # NaN where a gap was not asked for
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=field.name)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("kinds", [("heads", "neurons"), ("heads",)])
def test_scores_come_back_as_they_were(results, tiny, pairs, kinds):
    method = counted(activation_patching)
    first = store.scores(method, tiny, pairs, kinds=kinds)
    second = store.scores(method, tiny, pairs, kinds=kinds)
    assert method.calls == 1
    same(first, second)
    same(first, activation_patching(tiny, pairs, kinds=kinds))
    assert [path.suffix for path in results.iterdir()] == [".parquet"]


def test_everything_that_scores_depend_on_is_in_the_key(
    results, tiny, tiny_raw, pairs, monkeypatch
):
    method = counted(integrated_gradients)
    store.scores(method, tiny, pairs)
    store.scores(method, tiny, pairs, steps=4)
    store.scores(method, tiny, pairs, direction="denoising")
    store.scores(method, tiny, pairs.select([0, 2]))
    store.scores(method, tiny_raw, pairs)
    store.scores(method, tiny, replace(pairs, metric=prob_diff))
    assert method.calls == 6
    monkeypatch.setattr(store, "ALGORITHM", "another")
    store.scores(method, tiny, pairs)
    assert method.calls == 7
    store.scores(method, tiny, pairs, progress=False, memory=2**24)
    assert method.calls == 7, "of no number"


def test_what_moves_only_the_last_bits_is_in_no_key(results, tiny, pairs, monkeypatch):
    """Results that ship are found on another machine, and by another release of the library."""
    method = counted(activation_patching)
    store.scores(method, tiny, pairs)
    (path,) = results.iterdir()
    assert json.loads(pl.read_parquet_metadata(path)["provenance"])["made_with"]["torch"]
    monkeypatch.setattr("analysis.provenance.version", lambda library: "99")
    monkeypatch.setattr("analysis.__version__", "99")
    monkeypatch.setattr(store, "_library", lambda: "other code")
    same(store.scores(method, tiny, pairs), activation_patching(tiny, pairs))
    assert method.calls == 1


def configured(directory: Path, to: Path, **settings) -> TransformerBridge:
    """The same weights under another configuration."""
    shutil.copytree(directory, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return load_model(to)


@pytest.mark.filterwarnings("ignore:No exact engine")
@pytest.mark.parametrize(
    "settings",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 0.1},
        {"activation_function": "relu"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_same_weights_under_another_configuration_are_another_model(
    results, tiny, tiny_directory, pairs, tmp_path, settings
):
    """Kept scores, frames and unfinished runs of one are not the other's."""
    other = configured(tiny_directory, tmp_path / "other", **settings)
    first = store.scores(activation_patching, tiny, pairs, kinds=("heads",))
    second = store.scores(activation_patching, other, pairs, kinds=("heads",))
    same(second, activation_patching(other, pairs, kinds=("heads",)))
    assert not torch.equal(first.base, second.base)
    frames = [
        store.frame("base", lambda s=s: pl.DataFrame({"base": s.base.numpy()}), model, pairs)
        for model, s in ((tiny, first), (other, second))
    ]
    assert not frames[0].equals(frames[1])
    activation_patching(tiny, pairs, checkpoints=tmp_path / "runs")
    with pytest.raises(ValueError, match="other arguments: delete"):
        activation_patching(other, pairs, checkpoints=tmp_path / "runs")


@pytest.mark.filterwarnings("ignore:No exact engine")
def test_the_scaled_testbeds_numbers_are_its_own(results, testbed, tmp_path):
    """The figures of the report of this fault."""
    scaled = configured(
        paths.MODELS / "testbed", tmp_path / "scaled", scale_attn_by_inverse_layer_idx=True
    )
    for model, expected in ((testbed, [3.63, 1.92]), (scaled, [2.18, 0.31])):
        pairs = load_task("ioi", model, n=2)
        found = store.scores(activation_patching, model, pairs, kinds=())
        assert found.base.tolist() == pytest.approx(expected, abs=0.005)


def test_two_metrics_of_one_name_share_no_scores(results, tiny, pairs):
    def named(factor):
        def metric(logits, labels):
            return factor * logit_diff(logits, labels)

        return metric

    one, two = (
        store.scores(activation_patching, tiny, replace(pairs, metric=named(factor)))
        for factor in (1, 2)
    )
    torch.testing.assert_close(two.heads, 2 * one.heads)
    assert len(list(results.iterdir())) == 2


def test_two_methods_of_one_name_share_no_scores(results, tiny, pairs):
    def method_with(steps):
        def method(model, pairs, **settings):
            return integrated_gradients(model, pairs, steps=steps, **settings)

        return method

    one, two = (store.scores(method_with(steps), tiny, pairs) for steps in (1, 2))
    assert not torch.equal(one.heads, two.heads)


def test_scores_name_the_file_that_they_are_asked_for(results, tiny, tmp_path):
    """Two files of one content share what is kept, and neither has the other's name."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.csv").write_text(
            "clean,corrupted,correct,incorrect\nThe nurse said that,The man said that, she, he\n"
        )
    for folder in ("one", "two"):
        path = tmp_path / folder / "my.csv"
        found = store.scores(activation_patching, tiny, load_task(path, tiny), kinds=("heads",))
        assert found.task == str(path)
    assert len(list(results.iterdir())) == 1


@pytest.mark.parametrize("kept", ["scores", "frame"])
def test_results_of_a_model_that_computed_something_else_are_refused(
    results, tiny, pairs, monkeypatch, kept
):
    """Of the same weights and configuration, by another version of a library, say."""

    def read():
        if kept == "scores":
            return store.scores(activation_patching, tiny, pairs, kinds=("heads",))
        return store.frame("totals", lambda: pl.DataFrame({"total": [1.0]}), tiny, pairs)

    read()
    elsewhere = store.Provenance.of(tiny)
    moved = [[value - 0.1 for value in row] for row in elsewhere.log_probabilities]
    monkeypatch.setattr(
        store.Provenance, "of", lambda model: replace(elsewhere, log_probabilities=moved)
    )
    with pytest.raises(ValueError, match="computed something else.*delete the file"):
        read()


SOURCE = '''"""A module."""

STEPS = 24
"""How many."""


class Path:
    """A path."""

    def length(self, points: "point") -> int:
        """Its length."""
        return len(points)  # counted
'''


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("A module.", "Another module.", True),
        ("A path.", "A way.", True),
        ("How many.", "Not few.", True),
        ("Its length.", "How long it is.", True),
        ('        """Its length."""\n', "", True),
        ("# counted", "# in points", True),
        ("STEPS = 24", "STEPS  =  24\n", True),
        ("24", "25", False),
        ('"point"', '"point point"', False),
        ("len(points)", "len(points) - 1", False),
    ],
)
def test_the_key_is_kept_by_other_words_and_changed_by_other_code(
    tmp_path, monkeypatch, old, new, kept
):
    monkeypatch.setattr(store.analysis, "__file__", str(tmp_path / "__init__.py"))
    keys = []
    for source in (SOURCE, SOURCE.replace(old, new)):
        (tmp_path / "path.py").write_text(source)
        store._library.cache_clear()
        keys.append(store._library())
    store._library.cache_clear()
    assert (keys[0] == keys[1]) == kept


def test_a_truncated_file_is_computed_again_with_a_warning(results, tiny, pairs):
    first = store.scores(activation_patching, tiny, pairs)
    (path,) = results.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read and is computed again"):
        same(store.scores(activation_patching, tiny, pairs), first)
    same(store.scores(activation_patching, tiny, pairs), first)


@pytest.mark.parametrize("stage", ["write_parquet", "replace"])
def test_a_full_disk_costs_the_file_not_the_result(results, tiny, pairs, monkeypatch, stage):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"write_parquet": store.pl.DataFrame, "replace": store.os}[stage]
    monkeypatch.setattr(target, stage, full)
    with pytest.warns(UserWarning, match="No space left"):
        scores = store.scores(activation_patching, tiny, pairs)
    same(scores, activation_patching(tiny, pairs))
    assert list(results.iterdir()) == [], "no half-written file stays"


def test_an_interrupt_leaves_no_file(results, tiny, pairs, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.scores(activation_patching, tiny, pairs)
    assert not list(results.glob("*.parquet"))
    monkeypatch.undo()


def test_frames_are_computed_once_for_what_they_depend_on(results, tiny, pairs):
    calls = []

    def compute():
        calls.append(1)
        return pl.DataFrame({"task": ["ioi"], "mean": [0.5], "none": [None]})

    ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
    first = store.frame("agreement", compute, ap, ig, 0)
    assert first.equals(store.frame("agreement", compute, ap, ig, 0))
    assert len(calls) == 1
    store.frame("agreement", compute, ig, ap, 0)
    store.frame("agreement", compute, ap, ig, 1)
    store.frame("other", compute, ap, ig, 0)
    assert len(calls) == 4
