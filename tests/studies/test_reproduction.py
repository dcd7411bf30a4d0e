"""What the report was made from is hashed right, and published figures stand beside our own."""

import io
import re
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
from analysis.bench.results import Bench, MediationBench
from analysis.bench.workloads import Shape
from analysis.studies import across_models, everything, gpt2_small, provenance, record
from analysis.studies.aligned_baselines import AlignedBaselines, aligned_baselines
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.gpt2_small import Expected
from analysis.studies.performance import Performance
from analysis.studies.reproduction import NOT_THERE, Reproduction, reproduction
from analysis.tasks import TASKS

ROOT = Path(__file__).parents[2]
N = 4


@pytest.fixture
def of_tiny(tiny_directory, monkeypatch, tmp_path) -> Path:
    """The tiny model as that of record, and an empty folder of results."""
    monkeypatch.setenv("ANALYSIS_MODEL", str(tiny_directory))
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory) -> Iterator[AlignedBaselines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield aligned_baselines(tiny, n=N, progress=False)


@pytest.fixture(scope="module")
def found(study, tiny) -> Reproduction:
    return reproduction(tiny, n=N, progress=False)


def test_every_package_that_matters_is_installed_as_pinned():
    versions = provenance.versions()
    assert versions["package"].to_list() == list(provenance.PACKAGES)
    assert provenance.MISSING not in versions["here"].to_list() + versions["pinned"].to_list()


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions().row(0) == ("no-such-package", "–", "–")


def test_files_are_hashed_whole():
    (row,) = provenance.testbeds().filter(pl.col("model") == "testbed-2").iter_rows(named=True)
    content = (paths.MODELS / "testbed-2" / "model.safetensors").read_bytes()
    assert row["training seed"] == 2
    assert row["bytes"] == len(content)
    assert row["sha256"] == sha256(content).hexdigest()[:16]
    assert {f"{name}.json" for name in TASKS} < set(provenance.task_files()["file"])


def test_prompts_are_those_that_a_study_draws(tiny):
    rows = provenance.prompts(tiny, n=N, seed=3)
    assert rows["task"].to_list() == list(TASKS)
    for row in rows.iter_rows(named=True):
        pairs = load_task(row["task"], tiny, n=N, seed=3)
        assert (row["prompts"], row["hash"]) == (N, pairs.fingerprint())
        assert row["left out"] == sum(pairs.left_out.values())


values = st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=5)


@given(numbers=values, compression=st.sampled_from(["zstd", "lz4", "uncompressed"]))
def test_a_results_hash_is_not_its_files(numbers, compression):
    frame = pl.DataFrame({"task": "ioi", "mean": pl.Series(numbers, dtype=pl.Float64)})
    file = io.BytesIO()
    frame.write_parquet(file, compression=compression)
    file.seek(0)
    assert provenance.content_hash(pl.read_parquet(file)) == provenance.content_hash(frame)


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
    hashes = {provenance.content_hash(other) for other in (frame, *others)}
    assert len(hashes) == len(others) + 1


def test_results_are_of_the_reports_models_and_whatever_their_names(of_tiny, tiny, testbed):
    for model in (tiny, testbed):
        for task in ("ioi", "gender-bias"):
            pairs = load_task(task, model, n=2)
            scores = cached_scores(activation_patching, model, pairs, kinds=())
            for number in (0, 1):
                mean = pl.DataFrame({"mean": scores.base.mean().item() + number})
                cached_frame(f"agreement-{task}-noising", lambda mean=mean: mean, scores, number)
    found = provenance.results()
    counts = dict(found.select("result", "files").iter_rows())
    assert counts == {"activation_patching": 2, "agreement": 4}
    assert found["rows"].to_list() == [4, 4]
    (made,) = provenance.made_with().iter_rows(named=True)
    assert made["files"] == 2 and made["torch"] == torch.__version__
    for place, path in enumerate(sorted(of_tiny.glob("*.parquet"))):
        kind = re.split(r"-(?=ioi|gender)", path.stem)[0]
        path.rename(path.with_name(f"{kind}-ioi-{place:016x}.parquet"))
    (of_tiny / "agreement-broken.parquet").write_bytes(b"PAR1")
    assert provenance.results().equals(found)


def test_seconds_are_read_where_they_were_kept_and_never_computed(of_tiny, monkeypatch):
    def original(*_, **__):
        pass

    def reproduction(*_, **__):
        pass

    monkeypatch.setattr(everything, "_jobs", lambda n, seed: [])
    monkeypatch.setattr(everything, "original", original)
    monkeypatch.setattr(everything, "reproduction", reproduction)
    assert everything.seconds_taken(N).is_empty()
    assert not list(of_tiny.iterdir())
    kept = everything.everything(N, processes=1)
    assert kept["study"].to_list() == ["original", "reproduction", everything.TOTAL]
    assert kept["seconds"][-1] >= kept["seconds"][:-1].sum()
    assert everything.seconds_taken(N).equals(kept)
    assert everything.seconds_taken(N, seed=1).is_empty()


def test_published_metrics_stand_beside_the_means_of_the_same_kind(found, tiny):
    published = {
        ("ioi", "clean"): "3.807",
        ("ioi", "corrupted, a third name"): "0.032",
        ("greater-than", "clean"): "0.814",
        ("greater-than", "corrupted"): "-0.457",
        ("gender-bias", "clean"): "0.881",
        ("gender-bias", "corrupted"): "-3.221",
        ("capital-country", "clean"): "6.123",
        ("capital-country", "corrupted"): "-6.719",
    }
    here = []
    for task, run in published:
        corruption = "abc" if "third" in run else "hard"
        pairs = load_task(task, tiny, n=N, corruption=corruption)
        ap = activation_patching(tiny, pairs, kinds=())
        here.append(str(mean_over_prompts(ap.base if run == "clean" else ap.source)))
    assert len(set(here)) == len(here)
    assert found.metrics.rows() == [
        (*about, number, mean)
        for (about, number), mean in zip(published.items(), here, strict=True)
    ]


def test_correlations_are_of_prompts_as_the_originals_were(found, tiny):
    pairs = load_task("ioi", tiny, n=N)
    ap, ig = (method(tiny, pairs) for method in (activation_patching, integrated_gradients))
    here = [str(average_correlation(ap.of(kind), ig.of(kind))) for kind in ("heads", "neurons")]
    assert here[0] != here[1]
    of_ioi = found.correlations.filter(pl.col("task") == "ioi").sort("kind")
    assert of_ioi.rows() == [
        ("ioi", "heads", "0.816 (0.57)", "0.996", here[0]),
        ("ioi", "neurons", "0.782 (0.56)", NOT_THERE, here[1]),
    ]


def test_a_circuits_heads_are_ranked_where_the_model_has_them(found, tiny, monkeypatch):
    assert set(found.heads["ranks here"]) == {NOT_THERE}, "the tiny model has three layers"
    monkeypatch.setattr(record, "HEADS", {("ioi", "made up"): ((2, 1), (0, 3))})
    row = reproduction(tiny, n=N, progress=False).heads.row(0, named=True)
    sizes = activation_patching(tiny, load_task("ioi", tiny, n=N)).heads.mean(dim=0).abs()
    ranks = [int((sizes > sizes[head]).sum()) + 1 for head in ((2, 1), (0, 3))]
    assert row["ranks here"] == f"{ranks[0]}, {ranks[1]}"
    assert row["published"] == "2.1, 0.3"
    strongest = divmod(int(sizes.argmax()), 4)
    assert row["strongest here"].startswith("{}.{}, ".format(*strongest))


def test_what_was_done_is_on_pages_that_there_are():
    pages = re.findall(r"\((\S+)\)", " ".join(record.REPRODUCED["where"]))
    assert pages and all((ROOT / "report" / page).is_file() for page in pages)


@pytest.fixture(scope="module")
def expected() -> Expected:
    return Expected(Bench.read(), MediationBench.read())


def hours(expected: Expected, prompts: int) -> dict[str, float]:
    return dict(expected.parts(prompts).select("part", "hours").iter_rows())


def test_hours_on_gpt2_small_grow_with_the_prompts_of_the_first_part_alone(expected):
    few, many = hours(expected, 10), hours(expected, 30)
    first, *others = list(few)[:-1]
    assert many[first] == pytest.approx(3 * few[first])
    assert all(many[other] == few[other] for other in others)
    assert few["all of these"] == pytest.approx(sum(few.values()) / 2)


def test_hours_are_the_performance_pages_and_the_heads(expected):
    """Of 144 heads beside 36,864 neurons: they add little to AP, and double IG."""
    whole = Performance(expected.bench).whole_study().row(-1, named=True)
    ap, ig = (whole[name] for name in whole if name.startswith(("AP, measured", "IG")))
    first = expected.parts(100)["hours"][0]
    assert ap + 1.9 * ig < first < 1.02 * ap + 2.5 * ig


def test_the_untrained_control_doubles_the_headline(expected):
    few = across_models.PROMPTS
    first, second = expected.parts(few)["hours"][:2]
    assert second == pytest.approx(2 * first)


def test_as_many_prompts_as_the_hours_are_enough_for(expected):
    found = expected.prompts_in(10.0)
    assert expected.parts(found)["hours"][0] <= 10 < expected.parts(found + 1)["hours"][0]


def test_where_all_positions_change_other_baselines_cost_as_much():
    assert gpt2_small._longer(Shape(8, 0)) == 1
    assert gpt2_small._longer(Shape(17, 12)) == 17 / 5


def test_memory_is_the_largest_peak(expected):
    assert expected.memory() > 2
