"""A bench small enough for a test: what it measures is right, how fast is not tested."""

import json
from collections import Counter

import pytest
from transformers import GPT2Config
from typer.testing import CliRunner

from analysis import load_model, load_task
from analysis.bench import gradients, measure
from analysis.bench.measure import GPT2_SHAPE, Subject
from analysis.bench.workloads import (
    SHAPES,
    Network,
    random_model,
    real_pairs,
    resumed_run,
    shaped_pairs,
)
from analysis.cli import app
from analysis.gguf_files import PACKAGES
from analysis.sites import first_difference


@pytest.fixture(scope="module")
def measured():
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16, initializer_range=0.3)
    with pytest.MonkeyPatch.context() as patch:
        shaped = Subject(lambda: random_model(config), rival="Captum's 50 steps")
        real = Subject(lambda: load_model("testbed"), real_pairs, rival="24 steps")
        some = {"kinds": ("neurons",), "methods": ("AP",)}
        absent = shaped._replace(package="absent")
        models = {GPT2_SHAPE: shaped, "testbed": real._replace(**some), "absent": absent}
        patch.setattr(measure, "MEASURED_MODELS", models)
        patch.setitem(PACKAGES, "absent", "no-such-package==1.0")
        patch.setattr(measure, "PROMPTS", {"AP": 3, "IG": 2})
        patch.setattr(measure, "MEMORY", 2**16)  # less than the prompts' runs take
        patch.setattr(measure, "matmul_rate", lambda: 1e11)
        return measure.bench()


def test_both_sides_get_the_same_scores(measured):
    assert {timing["task"] for timing in measured["timings"]} == set(SHAPES)
    assert {timing["layer"] for timing in measured["timings"]} == {0, 1, 2, 3}
    assert {timing["model"] for timing in measured["timings"]} == {GPT2_SHAPE, "testbed"}
    for timing in measured["timings"]:
        assert timing["difference"] <= 1e-5, timing
        repeats = measured["settings"]["repeats"][timing["method"]]
        assert len(timing["theirs"]) == len(timing["ours"]) == len(timing["shares"]) == repeats
        assert min(timing["theirs"] + timing["ours"] + timing["shares"]) > 0


def test_a_measurement_has_the_form_of_the_kept_one(measured):
    kept = measure.read(measure.METHODS)
    assert set(kept) == set(measured) and set(kept["settings"]) == set(measured["settings"])
    for rows in ("timings", measure.TOLERANCE, measure.ATP):
        assert kept[rows]
        assert all(list(row) == list(measured[rows][0]) for row in kept[rows])
    order = [(of["method"], of["kind"], of["layer"]) for of in measured["timings"][:16]]
    layers = sorted({timing["layer"] for timing in measured["timings"]})
    assert order == [
        (m, k, at) for k in ("heads", "neurons") for at in layers for m in ("AP", "IG")
    ]


@pytest.fixture
def no_rate(monkeypatch):
    monkeypatch.setattr(measure, "matmul_rate", lambda: 1e11)


def rows_of(model) -> list[dict]:
    """Timings of one task alone."""
    pairs = {"ioi": shaped_pairs("ioi", model, max(measure.PROMPTS.values()))}
    return list(measure._time_model(model, Subject(lambda: model), pairs))


@pytest.mark.usefixtures("no_rate")
def test_a_side_that_computes_something_else_is_seen(monkeypatch):
    """The engine's scores, twice as large."""
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16, initializer_range=0.3)
    patch_each = measure.patch_each
    monkeypatch.setattr(measure, "patch_each", lambda site: 2 * patch_each(site))
    differences = [row["difference"] for row in rows_of(random_model(config))]
    assert max(differences[0::2]) > 1e-3 > max(differences[1::2])


@pytest.mark.usefixtures("no_rate")
def test_a_unit_is_one_component_on_one_prompt_or_one_layer(monkeypatch):
    """Every call takes a second: 3 prompts with 2 heads or 16 neurons, 2 prompts for a layer."""
    config = GPT2Config(vocab_size=200, n_layer=4, n_head=2, n_embd=16)
    monkeypatch.setattr(measure, "PROMPTS", {"AP": 3, "IG": 2})
    monkeypatch.setattr(measure, "timed", lambda work: (work(), 1.0))
    rows = rows_of(random_model(config))
    units = {"heads": 2, "neurons": 16}
    network = Network(4, width=16, neurons=64, vocabulary=200, queries=16, keys=16)
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


def test_a_tolerance_is_reached_beside_either_rival(measured):
    """On every task by both kinds, in layers that stand for all; and the scores are the rival's."""
    rows, tasks = measured[measure.TOLERANCE], len(SHAPES)
    rivals = {GPT2_SHAPE: "Captum's 50 steps", "testbed": "24 steps"}
    for model, rival in rivals.items():
        of_model = [row for row in rows if row["model"] == model]
        assert {row["rival"] for row in of_model} == {rival}
        assert sum(row["layers"] for row in of_model) == tasks * 2 * 4
    for row in rows:
        assert min(row["theirs"], row["ours"]) > 0 and row["nodes"] >= 3
        assert row["gap"] <= 1e-3 and row["difference"] <= 2e-3
    assert measure.tolerance_ratios(rows).height == 2 * tasks


def test_all_of_atp_is_timed_beside_one_forward_pass(measured):
    rows = measured[measure.ATP]
    assert [(row["model"], row["task"]) for row in rows] == [
        (model, task) for model in (GPT2_SHAPE, "testbed") for task in SHAPES
    ]
    for row in rows:
        assert len(row["forward"]) == len(row["ours"]) == gradients.REPEATS
        assert min(row["forward"] + row["ours"]) > 0
    assert [row["prompts"] for row in rows[: len(SHAPES)]] == [3] * len(SHAPES)


def test_a_missing_package_is_told_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setitem(PACKAGES, "absent", "no-such-package==1.0")
    subject = Subject(lambda: pytest.fail("it is loaded"), package="absent")
    monkeypatch.setattr(measure, "MEASURED_MODELS", {"Absent": subject})
    assert list(measure._available()) == []
    told = capsys.readouterr().err
    assert told.startswith("Absent is not measured. Model 'absent' comes with a Python package")


def test_real_prompts_have_the_shape_that_occurs_most(testbed):
    found, every = real_pairs("ioi", testbed, 100), load_task("ioi", testbed, n=100)

    def shapes(pairs) -> list[tuple[int, int]]:
        sides = zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)
        return [(len(clean), first_difference(clean, other)) for clean, other in sides]

    counts = Counter(shapes(every))
    (shape,) = set(shapes(found))
    assert counts[shape] == len(found) == max(counts.values())
    assert real_pairs("ioi", testbed, 2).clean == found.clean[:2]


def test_layers_stand_for_all():
    """The first two for themselves; an even sample of the rest for as many each."""
    assert gradients.layers_standing_for(30) == {0: 1, 1: 1, 9: 14, 23: 14}
    assert gradients.layers_standing_for(4) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert gradients.layers_standing_for(2) == {0: 1, 1: 1}
    assert gradients.layers_standing_for(1) == {0: 1}


def test_tolerance_ratios_are_of_all_layers_seconds():
    """1 + 2 · 3 seconds beside 0.5 + 2 · 0.25; (3 + 2 · 9) / 3 nodes."""
    row = {"model": "m", "task": "ioi", "rival": "24 steps", "kind": "heads", "difference": 0.1}
    rows = [
        row | {"layer": 0, "layers": 1, "theirs": 1.0, "ours": 0.5, "nodes": 3.0, "gap": 0.2},
        row | {"layer": 1, "layers": 2.0, "theirs": 3.0, "ours": 0.25, "nodes": 9.0, "gap": 0.1},
    ]
    found = measure.tolerance_ratios(rows).row(0, named=True)
    assert (found["theirs"], found["ours"], found["ratio"]) == (7.0, 1.0, 7.0)
    assert (found["nodes"], found["gap"], found["difference"]) == (7.0, 0.2, 0.1)


def test_forward_passes_are_the_median_of_repeats():
    row = {"model": "m", "task": "ioi", "prompts": 8, "forward": [1.0, 2, 1], "ours": [2.0, 2, 9]}
    found = measure.attribution_ratios([row]).row(0, named=True)
    expected = {"model": "m", "task": "ioi", "passes": 2.0, "low": 1.0, "high": 9.0, "prompts": 8}
    assert found == expected


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
    assert "ratio" in result.output and result.output.count("capital-country") == 5 + 2 + 2
    assert json.loads(path.read_text()) == json.loads(json.dumps(measured))
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]


def test_neuron_to_neuron_is_measured_printed_and_written(tmp_path, monkeypatch):
    config = GPT2Config(vocab_size=200, n_layer=3, n_head=2, n_embd=16)
    tiny = Subject(lambda: random_model(config))
    monkeypatch.setitem(measure.MEASURED_MODELS, GPT2_SHAPE, tiny)
    path = tmp_path / "mediation.json"
    result = CliRunner().invoke(app, ["bench", "--mediation", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "12,288 pairs of neurons" in result.output
    found, kept = json.loads(path.read_text()), measure.read(measure.MEDIATION)
    assert found["pairs"] == 3 * 64 * 64
    assert list(found) == list(kept) and list(found["memory"]) == list(kept["memory"])
    assert found["seconds"] > 0
