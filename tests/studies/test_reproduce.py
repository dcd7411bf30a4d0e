"""What the report was made from is hashed right, and its figures are those of the methods."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import average_correlation, mean_over_prompts
from analysis.choices import KINDS
from analysis.studies import one, reproduce, store
from analysis.studies.reproduce import THIRD_NAME, content_hash, reproduction
from analysis.tasks import TASKS

N = 4


@pytest.fixture
def of_tiny(tiny_directory, monkeypatch, tmp_path) -> Path:
    """The tiny model as that of record, and an empty folder of results."""
    monkeypatch.setenv("ANALYSIS_TESTBED", str(tiny_directory))
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory) -> Iterator[pl.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield reproduction(tiny, n=N, progress=False)


def test_a_digest_is_the_beginning_of_sha256():
    content = (paths.MODELS / "testbed" / "config.json").read_bytes()
    assert reproduce.digest(content) == sha256(content).hexdigest()[:16]


values = st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=5)


@given(numbers=values, compression=st.sampled_from(["zstd", "lz4", "uncompressed"]))
def test_a_results_hash_is_not_its_files(numbers, compression):
    frame = pl.DataFrame({"task": "ioi", "mean": pl.Series(numbers, dtype=pl.Float64)})
    file = io.BytesIO()
    frame.write_parquet(file, compression=compression)
    file.seek(0)
    assert content_hash(pl.read_parquet(file)) == content_hash(frame)


def test_a_results_hash_is_of_all_that_it_says():
    pairs = pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2))
    frame = pl.DataFrame({"task": ["ioi", "abc"], "heads": pairs, "none": [None, 1.0]})
    frame = frame.with_columns(count=pl.lit(0, pl.Int64))
    others = [
        frame.reverse(),
        frame.rename({"none": "mean"}),
        frame.with_columns(task=pl.lit("ioi")),
        frame.with_columns(none=pl.Series([1.0, None])),
        frame.with_columns(heads=pl.Series([[1.0, 2.0], [3.0, 5.0]], dtype=pairs.dtype)),
        frame.with_columns(heads=pairs.cast(pl.Array(pl.Float64, 2))),
        frame.with_columns(count=0.0),
    ]
    hashes = {content_hash(other) for other in (frame, *others)}
    assert len(hashes) == len(others) + 1


def test_results_are_of_the_reports_models_and_whatever_their_names(
    of_tiny, tiny, testbed, monkeypatch
):
    for model in (tiny, testbed):
        for task in ("ioi", "gender-bias"):
            pairs = load_task(task, model, n=2)
            scores = store.scores(activation_patching, model, pairs, kinds=())
            for number in (0, 1):
                mean = pl.DataFrame({"mean": scores.base.mean().item() + number})
                store.frame(f"agreement-{task}-noising", lambda mean=mean: mean, scores, number)
    store.frame("studies", lambda: pl.DataFrame({"seconds": [1.0]}), tiny, 2, 0)
    found = reproduce.results()
    assert Counter(found["result"]) == {"activation_patching": 2, "agreement": 4}
    assert sorted(found["rows"]) == [1, 1, 1, 1, 2, 2]
    assert found["hash"].n_unique() == 6
    size = sum(path.stat().st_size for path in of_tiny.glob("[ai]*.parquet"))
    assert 0 < found["bytes"].sum() < size, "the testbed's are not the tiny model's"
    of_scores = found.filter(result="activation_patching")["made_with"]
    assert [json.loads(made)["torch"] for made in of_scores] == [torch.__version__] * 2
    assert found.filter(result="agreement")["made_with"].is_null().all(), "scores say it"
    for number, path in enumerate(sorted(of_tiny.glob("*.parquet"))):
        kind = re.split(r"-(?=ioi|gender)", path.stem)[0]
        if not kind.startswith("studies"):
            path.rename(path.with_name(f"{kind}-ioi-{number:016x}.parquet"))
    (of_tiny / "agreement-broken.parquet").write_bytes(b"PAR1")
    assert reproduce.results().equals(found)
    monkeypatch.setattr(paths, "RESULTS", of_tiny / "none")
    assert reproduce.results().schema == found.schema


def test_metrics_are_of_the_published_kind_of_prompts(found, tiny):
    runs = [(task, run) for task in TASKS for run in ("clean", "corrupted")]
    for task, run in [*runs, ("ioi", THIRD_NAME)]:
        corruption = "abc" if run == THIRD_NAME else "hard"
        pairs = load_task(task, tiny, n=N, corruption=corruption)
        ap = activation_patching(tiny, pairs, kinds=())
        here = mean_over_prompts(ap.base if run == "clean" else ap.source)
        row = one(found, task=task, statistic="metric", run=run)
        assert row[:1] + row[2:] == pytest.approx(here[:1] + here[2:], abs=1e-6)
    metrics = found.filter(statistic="metric")
    assert metrics["estimate"].n_unique() == len(metrics) == 9
    assert set(metrics["n"]) == {N}


def test_correlations_are_of_prompts_as_the_originals_were(found, tiny):
    for task in ("ioi", "gender-bias"):
        pairs = load_task(task, tiny, n=N)
        ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
        for kind in KINDS:
            here = average_correlation(ap.of(kind), ig.of(kind))
            row = one(found, task=task, statistic="r over prompts", kind=kind)
            assert row[:1] + row[2:] == pytest.approx(here[:1] + here[2:], abs=1e-6)


def test_heads_are_ranked_by_the_size_of_their_mean_effect(found, tiny):
    sizes = activation_patching(tiny, load_task("ioi", tiny, n=N)).heads.mean(dim=0).abs()
    ranks = found.filter(statistic="rank", task="ioi")
    assert ranks["estimate"].to_list() == list(range(1, 3 * 4 + 1))
    for layer, head, rank in ranks.select("layer", "head", "estimate").rows():
        assert rank == int((sizes > sizes[layer, head]).sum()) + 1


def test_one_task_alone_gives_its_rows(found, tiny):
    alone = reproduction(tiny, n=N, progress=False, tasks=("gender-bias",))
    expected = found.filter(task="gender-bias").drop("run")
    assert alone.drop("run").rows() == [
        tuple(
            pytest.approx(value, abs=1e-6) if isinstance(value, float) else value for value in row
        )
        for row in expected.rows()
    ]
