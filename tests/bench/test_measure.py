"""A bench small enough for a test: what it measures is right, how fast is not tested."""

import json

import pytest
from transformers import GPT2Config
from typer.testing import CliRunner

from analysis.bench import measure, results
from analysis.bench.results import Bench, MediationBench
from analysis.bench.workloads import SHAPES, random_model
from analysis.cli import app
from analysis.studies import performance


@pytest.fixture(scope="module")
def measured():
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16, initializer_range=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "MODELS", {performance.GPT2_SHAPE: lambda: random_model(config)})
        patch.setattr(measure, "PATCHED_PROMPTS", 3)
        patch.setattr(measure, "MEMORY", 2**16)  # less than the prompts' runs take
        patch.setattr(measure, "matmul_rate", lambda: 1e11)
        return measure.bench(progress=False)


def test_both_sides_get_the_same_scores(measured):
    assert {timing["task"] for timing in measured["timings"]} == set(SHAPES)
    assert {timing["layer"] for timing in measured["timings"]} == {0, 1, 2, 3}
    for timing in measured["timings"]:
        assert timing["difference"] <= 1e-5, timing
        repeats = measured["settings"]["repeats"][timing["method"]]
        assert len(timing["theirs"]) == len(timing["ours"]) == repeats
        assert min(timing["theirs"] + timing["ours"] + timing["shares"]) > 0


def test_what_is_written_is_read_again(measured, tmp_path):
    Bench(measured).write(tmp_path / "new" / "bench.json")
    again = Bench.read(tmp_path / "new" / "bench.json")
    assert again.measured == json.loads(json.dumps(measured))
    assert again.ratios().equals(Bench(measured).ratios())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bench.json"]


def test_ratios_are_of_summed_seconds():
    """Two layers, 1 and 3 s against 1 and 1 s: summed, 2 times; the mean of ratios is 2 too, so
    the second repeat tells: 2 and 9 s against 1 and 10 s make 1, not 1.45."""
    common = {"model": "m", "task": "ioi", "method": "AP", "kind": "heads", "difference": 0.0}
    layers = [
        {"layer": 0, "theirs": [1.0, 2.0], "ours": [1.0, 1.0], "shares": [0.5, 0.5]},
        {"layer": 1, "theirs": [3.0, 9.0], "ours": [1.0, 10.0], "shares": [0.5, 0.5]},
    ]
    bench = Bench({"timings": [common | layer for layer in layers]})
    row = bench.ratios().row(0, named=True)
    assert (row["low"], row["high"], row["ratio"]) == (1.0, 2.0, 1.5)


def test_the_command_prints_and_writes(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "bench", lambda: measured)
    path = tmp_path / "bench.json"
    output = CliRunner().invoke(app, ["bench", "--json", str(path)]).output
    assert "times hook loop" in output and "times Captum" in output
    assert json.loads(path.read_text())["machine"]["threads"] > 0


def test_the_pages_study_reads_the_kept_measurement():
    """Every cost is a measured or counted number times how often it is needed."""
    kept = performance.Performance(Bench.read())
    hours = kept.whole_study()
    assert hours["task"].to_list() == [*SHAPES, "all four"]
    assert (hours["AP, measured"] < hours["hook loop, measured"]).all()
    assert hours["AP, measured"][:4].sum() == pytest.approx(hours["AP, measured"][4])
    assert kept.lowest("AP", "neurons")["ratio"] == min(
        row["ratio"]
        for row in kept.bench.ratios().iter_rows(named=True)
        if (row["model"], row["method"], row["kind"]) == (performance.GPT2_SHAPE, "AP", "neurons")
    )
    kept = {path.name for path in results.paths.BENCHMARKS.iterdir()}
    assert {Bench.latest, MediationBench.latest} <= kept


def test_the_cuts_left_out_would_save_little():
    saved = performance.saved_by_more_cuts()
    assert 0 < saved["last layer"] < 0.02
    assert 0 < saved["next layer"] < 0.05


def test_operations_grow_linearly_with_prompts():
    frame = performance.growth()
    prompts = frame.filter(frame["grows"] == "prompts", frame["method"] == "AP, engine")
    ratios = prompts["operations"] / prompts["size"]
    assert ratios.max() == pytest.approx(ratios.min())


def test_neuron_to_neuron_is_measured_printed_and_written(tmp_path, monkeypatch):
    config = GPT2Config(vocab_size=200, n_layer=3, n_head=2, n_embd=16)
    monkeypatch.setitem(measure.MODELS, measure.GPT2_SHAPE, lambda: random_model(config))
    path = tmp_path / "mediation.json"
    result = CliRunner().invoke(app, ["bench", "--mediation", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "12,288 pairs of neurons on one ioi prompt" in result.output
    found = MediationBench.read(path).measured
    assert found["pairs"] == 3 * 64 * 64
    assert found["seconds"] > 0 and set(found["memory"]) == {"above resident", "process"}
