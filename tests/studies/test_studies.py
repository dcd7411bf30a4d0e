from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import polars as pl
import pytest

from analysis import activation_patching, integrated_gradients, load_task, paths
from analysis.agreement import average_correlation, correlation_of_means
from analysis.attribution.parts import DIRECTIONS
from analysis.forward import KINDS
from analysis.studies import everything
from analysis.studies import testbed_notice as notice
from analysis.studies.aligned_baselines import PER_PROMPT, aligned_baselines
from analysis.studies.baselines import baselines
from analysis.tasks import TASKS


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield aligned_baselines(tiny, n=5)


def test_frames_have_a_row_for_everything(study):
    assert study.prompts == dict.fromkeys(TASKS, 5)
    sizes = {"heads": 4, "neurons": 128}
    keys = {
        "metrics": product(TASKS, range(5), ("clean", "corrupted")),
        "gaps": product(TASKS, DIRECTIONS, KINDS),
        "per_prompt": product(TASKS, DIRECTIONS, KINDS, range(5)),
        "scores": (
            (*about, kind, layer, place)
            for *about, kind, layer in product(TASKS, DIRECTIONS, KINDS, range(3))
            for place in range(sizes[kind])
        ),
    }
    for name, expected in keys.items():
        frame = getattr(study, name)
        numbers = {"metric", "gap", "r", "ap", "ig"}
        found = frame.select(column for column in frame.columns if column not in numbers)
        assert Counter(found.rows()) == Counter(expected), name
        assert frame.null_count().sum_horizontal().item() == 0


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
    gaps = study.gaps.filter(
        pl.col("task") == "greater-than", pl.col("direction") == direction
    ).rows_by_key("kind", named=True, unique=True)
    for kind, gap in (("heads", ig.heads_gap), ("neurons", ig.neurons_gap)):
        expected = (gap.abs().max() / ig.total.abs().max()).item()
        assert gaps[kind]["gap"] == pytest.approx(expected, abs=1e-7)


def test_the_metric_and_the_strongest_are_the_methods(study, tiny):
    ap = activation_patching(tiny, load_task("greater-than", tiny, n=5))
    assert study.mean_metric("greater-than", "clean").mean == pytest.approx(ap.base.mean().item())
    assert study.total("greater-than") == pytest.approx(ap.total.mean().item(), abs=1e-6)
    strongest = study.strongest("greater-than", "heads", "ap")
    assert abs(strongest["ap"]) == pytest.approx(ap.heads.mean(dim=0).abs().max().item(), abs=1e-7)


@pytest.mark.parametrize(
    ("model", "words"),
    [("testbed-2", "no claims about GPT-2 small"), ("gpt2-small", "`gpt2-small`")],
)
def test_every_page_names_its_model(monkeypatch, model, words):
    monkeypatch.setenv("ANALYSIS_MODEL", model)
    assert model in notice()
    assert words in notice()


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
