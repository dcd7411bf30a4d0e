"""A bench small enough for a test: what it measures is right, how fast is not tested."""

import json

import pytest
from transformers import GPT2Config
from typer.testing import CliRunner

from analysis.bench import measure
from analysis.bench.workloads import SHAPES, Network, random_model, resumed_run
from analysis.cli import app


@pytest.fixture(scope="module")
def measured():
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16, initializer_range=0.3)
    with pytest.MonkeyPatch.context() as patch:
        models = {measure.GPT2_SHAPE: lambda: random_model(config)}
        patch.setattr(measure, "MEASURED_MODELS", models)
        patch.setattr(measure, "PROMPTS", {"AP": 3, "IG": 2})
        patch.setattr(measure, "MEMORY", 2**16)  # less than the prompts' runs take
        patch.setattr(measure, "matmul_rate", lambda: 1e11)
        return measure.bench()


def test_both_sides_get_the_same_scores(measured):
    assert {timing["task"] for timing in measured["timings"]} == set(SHAPES)
    assert {timing["layer"] for timing in measured["timings"]} == {0, 1, 2, 3}
    for timing in measured["timings"]:
        assert timing["difference"] <= 1e-5, timing
        repeats = measured["settings"]["repeats"][timing["method"]]
        assert len(timing["theirs"]) == len(timing["ours"]) == len(timing["shares"]) == repeats
        assert min(timing["theirs"] + timing["ours"] + timing["shares"]) > 0


def test_a_measurement_has_the_form_of_the_kept_one(measured):
    kept = measure.read(measure.METHODS)
    assert list(measured) == list(kept)
    assert list(measured["settings"]) == list(kept["settings"])
    assert list(measured["timings"][0]) == list(kept["timings"][0])
    order = [(of["method"], of["kind"], of["layer"]) for of in measured["timings"][:16]]
    layers = sorted({timing["layer"] for timing in measured["timings"]})
    assert order == [
        (m, k, at) for k in ("heads", "neurons") for at in layers for m in ("AP", "IG")
    ]


@pytest.fixture
def on_ioi(monkeypatch):
    """Of one task alone, and without the machine's rate."""
    monkeypatch.setattr(measure, "SHAPES", {"ioi": SHAPES["ioi"]})
    monkeypatch.setattr(measure, "matmul_rate", lambda: 1e11)


@pytest.mark.usefixtures("on_ioi")
def test_a_side_that_computes_something_else_is_seen(monkeypatch):
    """The engine's scores, twice as large."""
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16, initializer_range=0.3)
    patch_each = measure.patch_each
    monkeypatch.setattr(measure, "patch_each", lambda site: 2 * patch_each(site))
    differences = [row["difference"] for row in measure._time_model(random_model(config))]
    assert max(differences[0::2]) > 1e-3 > max(differences[1::2])


@pytest.mark.usefixtures("on_ioi")
def test_a_unit_is_one_component_on_one_prompt_or_one_layer(monkeypatch):
    """Every call takes a second: 3 prompts with 2 heads or 16 neurons, 2 prompts for a layer."""
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16)
    monkeypatch.setattr(measure, "PROMPTS", {"AP": 3, "IG": 2})
    monkeypatch.setattr(measure, "timed", lambda work: (work(), 1.0))
    rows = list(measure._time_model(random_model(config)))
    units = {"heads": 2, "neurons": 16}
    network = Network(layers=4, width=16, neurons=64, vocabulary=200)
    for row in rows:
        if row["method"] == "AP":
            assert row["theirs"] == [1 / 3] * 3
            assert row["ours"] == [1 / 3 / units[row["kind"]]] * 3
            passes = 3 * units[row["kind"]]
        else:  # and an eighth of the second of both runs, for one of eight sites
            assert row["theirs"] == [1 / 2] * 2 and row["ours"] == [(1 + 1 / 8) / 2] * 2
            passes = 2 * 2 * measure.STEPS
        operations = resumed_run(network, SHAPES["ioi"], row["kind"], row["layer"], columns=2)
        assert row["shares"] == [passes * operations / 1e11] * len(row["ours"])


def timing(**changed) -> dict:
    common = {"model": "m", "task": "ioi", "method": "AP", "kind": "heads", "difference": 0.0}
    return common | changed


def test_ratios_are_of_summed_seconds():
    """Two layers, 1 and 3 s against 1 and 1 s: summed, 2 times; the mean of ratios is 2 too, so
    the second repeat tells: 2 and 9 s against 1 and 10 s make 1, not 1.45."""
    layers = [
        timing(layer=0, theirs=[1.0, 2.0], ours=[1.0, 1.0], shares=[0.5, 0.5]),
        timing(layer=1, theirs=[3.0, 9.0], ours=[1.0, 10.0], shares=[0.5, 0.5], difference=0.1),
    ]
    row = measure.ratios({"timings": layers}).row(0, named=True)
    assert (row["low"], row["high"], row["ratio"]) == (1.0, 2.0, 1.5)
    assert (row["theirs"], row["ours"]) == ((2.0 + 5.5) / 2, (1.0 + 5.5) / 2)
    assert row["difference"] == 0.1


def test_the_share_is_of_the_middle_layers():
    shares = [[0.9, 0.9], [0.1, 0.2], [0.4, 0.8], [0.9, 0.9]]
    layers = [
        timing(layer=layer, theirs=[1.0, 1.0], ours=[1.0, 1.0], shares=of)
        for layer, of in enumerate(shares)
    ]
    assert measure.ratios({"timings": layers})["share"].item() == pytest.approx(0.3)


def test_the_command_prints_and_writes(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "bench", lambda: measured)
    path = tmp_path / "new" / "bench.json"
    result = CliRunner().invoke(app, ["bench", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "ratio" in result.output and result.output.count("capital-country") == 4
    assert json.loads(path.read_text()) == json.loads(json.dumps(measured))
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]


def test_neuron_to_neuron_is_measured_printed_and_written(tmp_path, monkeypatch):
    config = GPT2Config(vocab_size=200, n_layer=3, n_head=2, n_embd=16)
    monkeypatch.setitem(measure.MEASURED_MODELS, measure.GPT2_SHAPE, lambda: random_model(config))
    path = tmp_path / "mediation.json"
    result = CliRunner().invoke(app, ["bench", "--mediation", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "12,288 pairs of neurons" in result.output
    found, kept = json.loads(path.read_text()), measure.read(measure.MEDIATION)
    assert found["pairs"] == 3 * 64 * 64
    assert list(found) == list(kept) and list(found["memory"]) == list(kept["memory"])
    assert found["seconds"] > 0
