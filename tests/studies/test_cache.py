import errno
from dataclasses import fields

import polars as pl
import pytest
import torch

from analysis import Scores, activation_patching, integrated_gradients, load_task, paths
from analysis.studies import cache
from analysis.studies.cache import cached_frame, cached_scores


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
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.parametrize("kinds", [("heads", "neurons"), ("heads",)])
def test_scores_come_back_as_they_were(results, tiny, pairs, kinds):
    method = counted(activation_patching)
    first = cached_scores(method, tiny, pairs, kinds=kinds)
    second = cached_scores(method, tiny, pairs, kinds=kinds)
    assert method.calls == 1
    same(first, second)
    same(first, activation_patching(tiny, pairs, kinds=kinds))
    assert [path.suffix for path in results.iterdir()] == [".parquet"]


def test_everything_that_scores_depend_on_is_in_the_key(
    results, tiny, tiny_raw, pairs, monkeypatch
):
    method = counted(integrated_gradients)
    cached_scores(method, tiny, pairs)
    cached_scores(method, tiny, pairs, steps=4)
    cached_scores(method, tiny, pairs, direction="denoising")
    cached_scores(method, tiny, pairs.select([0, 2]))
    cached_scores(method, tiny_raw, pairs)
    assert method.calls == 5
    monkeypatch.setattr(cache, "_code", lambda parts: "other code")
    cached_scores(method, tiny, pairs)
    assert method.calls == 6
    cached_scores(method, tiny, pairs, progress=False)
    assert method.calls == 6, "progress changes nothing"


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
    monkeypatch.setattr(cache.analysis, "__file__", str(tmp_path / "__init__.py"))
    keys = []
    for source in (SOURCE, SOURCE.replace(old, new)):
        (tmp_path / "path.py").write_text(source)
        cache._code.cache_clear()
        keys.append(cache._code(("path.py",)))
    cache._code.cache_clear()
    assert (keys[0] == keys[1]) == kept


def test_a_truncated_file_is_computed_again_with_a_warning(results, tiny, pairs):
    first = cached_scores(activation_patching, tiny, pairs)
    (path,) = results.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read and is computed again"):
        same(cached_scores(activation_patching, tiny, pairs), first)
    same(cached_scores(activation_patching, tiny, pairs), first)


@pytest.mark.parametrize("stage", ["write_parquet", "replace"])
def test_a_full_disk_costs_the_file_not_the_result(results, tiny, pairs, monkeypatch, stage):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"write_parquet": cache.pl.DataFrame, "replace": cache.os}[stage]
    monkeypatch.setattr(target, stage, full)
    with pytest.warns(UserWarning, match="No space left"):
        scores = cached_scores(activation_patching, tiny, pairs)
    same(scores, activation_patching(tiny, pairs))
    assert list(results.iterdir()) == [], "no half-written file stays"


def test_an_interrupt_leaves_no_file(results, tiny, pairs, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_scores(activation_patching, tiny, pairs)
    assert not list(results.glob("*.parquet"))
    monkeypatch.undo()


def test_frames_are_computed_once_for_what_they_depend_on(results, tiny, pairs):
    calls = []

    def compute():
        calls.append(1)
        return pl.DataFrame({"task": ["ioi"], "mean": [0.5], "none": [None]})

    ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
    first = cached_frame("agreement", compute, ap, ig, 0)
    assert first.equals(cached_frame("agreement", compute, ap, ig, 0))
    assert len(calls) == 1
    cached_frame("agreement", compute, ig, ap, 0)
    cached_frame("agreement", compute, ap, ig, 1)
    cached_frame("other", compute, ap, ig, 0)
    assert len(calls) == 4
