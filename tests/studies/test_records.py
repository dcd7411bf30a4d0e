"""Records say what the model says, are read without it, and are written whole or not at all."""

import json
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from recorded import check_a_sample

from analysis import Scores, activation_patching, attribution_patching, load_task, paths
from analysis.studies import Studied, records, store
from analysis.studies.records import MEASUREMENTS, Recorded
from analysis.version import ALGORITHM

EVERY = sorted(MEASUREMENTS)


@pytest.fixture
def about(tiny_directory, tmp_path, monkeypatch) -> Studied:
    """The tiny model with 5 prompts or fewer by measurement, and no results or records yet."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RECORDS", tmp_path / "records")
    for name, most in (("IG", 4), ("AP-sample", 3), ("AP-neurons", 2)):
        monkeypatch.setitem(MEASUREMENTS, name, replace(MEASUREMENTS[name], prompts=most))
    return Studied(str(tiny_directory), 5)


def made(about: Studied, measurement: str) -> tuple[Recorded, Recorded]:
    """What was written, and what is read by a name that no model has."""
    record = records.compute(about, "ioi", "noising", measurement)
    records.write("somewhere/else", ("ioi", "noising", measurement), record)
    return record, records.read("somewhere/else", "ioi", "noising", measurement)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the last bit, and NaN where the other is."""
    return one.shape == other.shape and bool(((one == other) | one.isnan() & other.isnan()).all())


@pytest.mark.parametrize("measurement", EVERY)
def test_a_record_is_read_as_it_was_written(about, measurement):
    written, found = made(about, measurement)
    for field in fields(Scores):
        one, other = (getattr(of.scores, field.name) for of in (written, found))
        assert equal(one, other) if torch.is_tensor(one) else one == other, field.name
    assert equal(written.mean, found.mean) and equal(written.variance, found.variance)
    assert found.averaged == written.averaged and found.metadata == written.metadata


def test_a_record_holds_what_the_methods_say(about):
    pairs = load_task("ioi", about.model, n=5)
    ap, atp = (method(about.model, pairs) for method in (activation_patching, attribution_patching))
    heads, gradient = made(about, "AP-heads")[1], made(about, "AtP")[1]
    torch.testing.assert_close(heads.scores.heads, ap.heads)
    torch.testing.assert_close(gradient.scores.heads, atp.heads)
    torch.testing.assert_close(gradient.mean, atp.neurons[:4].mean(dim=0))
    torch.testing.assert_close(gradient.variance, atp.neurons[:4].var(dim=0), rtol=1e-2, atol=0)
    for name in ("AP-sample", "AP-neurons"):
        effects = made(about, name)[1].scores.neurons
        measured = ~effects.isnan()
        assert measured.any()
        torch.testing.assert_close(effects[measured], ap.neurons[: len(effects)][measured])
        beside = gradient.scores.neurons[: len(effects)][measured]
        torch.testing.assert_close(beside, atp.neurons[: len(effects)][measured])


def test_a_gradient_methods_single_prompts_are_kept_where_a_neuron_was_patched_too(about):
    kept, sample, layers = (
        ~made(about, name)[1].scores.neurons.isnan() for name in ("AtP", "AP-sample", "AP-neurons")
    )
    expected = torch.zeros_like(kept)
    expected[:3] |= sample
    expected[:2] |= layers
    assert torch.equal(kept, expected)


def test_the_sample_is_uniform_in_each_layer_and_the_same_every_time():
    chosen = records.sample(3, 1536)
    assert chosen == records.sample(3, 1536) and len(set(chosen)) == 3 * records.SAMPLE
    assert Counter(layer for layer, _ in chosen) == dict.fromkeys(range(3), records.SAMPLE)
    assert max(neuron for _, neuron in chosen) > 1400 and min(neuron for _, neuron in chosen) < 140
    assert len(records.sample(2, 5)) == 10, "all, where a layer has fewer"


def test_a_record_has_the_caches_key_and_says_how_it_was_made(about):
    _, found = made(about, "AtP")
    pairs = load_task("ioi", about.model, n=5)
    key = store.key_of(attribution_patching, about.model, pairs, direction="noising")
    assert json.loads(found.metadata["key"]) == key
    how = json.loads(found.metadata["made"])
    assert how["seconds"] > 0 and how["commit"] and how["threads"] and not how["resumed"]
    assert json.loads(found.metadata["provenance"])["made_with"]["torch"]


def test_a_record_needs_no_model_and_comes_before_the_cache(about, monkeypatch):
    made(about, "AP-heads")
    monkeypatch.setattr("analysis.studies.loaded", lambda name: pytest.fail("loaded"))
    nowhere = Studied("somewhere/else", 100)
    found = records.measured(nowhere, "ioi", "noising", "AP-heads")
    assert len(found.scores.prompts) == 5, "as many as it has"


def test_without_a_record_the_model_computes_and_the_cache_keeps(about, monkeypatch):
    first = records.measured(about, "ioi", "noising", "AP-heads")
    monkeypatch.setattr(records, "activation_patching", lambda *_, **__: pytest.fail("again"))
    second = records.measured(about, "ioi", "noising", "AP-heads")
    assert torch.equal(first.scores.heads, second.scores.heads)
    assert not (paths.RECORDS).exists(), "only make records writes them"


def test_other_prompts_are_computed_though_a_record_ships(about):
    name: records.Name = ("ioi", "noising", "AP-heads")
    records.write(about.name, name, records.compute(about, *name))
    found = records.measured(about, *name, seed=1)
    key = json.loads(found.metadata["key"])["prompts"]
    assert key == load_task("ioi", about.model, n=5, seed=1).fingerprint()


def test_a_record_of_other_numbers_is_refused(about, monkeypatch):
    made(about, "AP-heads")
    monkeypatch.setattr(records, "ALGORITHM", "another")
    with pytest.raises(ValueError, match=rf"version {ALGORITHM} .*version another.*make records"):
        records.read("somewhere/else", "ioi", "noising", "AP-heads")


def test_a_record_that_is_missing_is_one_sentence():
    with pytest.raises(ValueError, match="no record ioi-noising-IG.parquet of .*'nobody'.*make"):
        records.read("nobody", "ioi", "noising", "IG")


def test_a_directory_with_a_models_name_is_another_model(about, tmp_path, monkeypatch):
    made(about, "AP-heads")
    monkeypatch.chdir(tmp_path)
    assert records.exists("somewhere/else", "ioi", "noising", "AP-heads")
    (tmp_path / "somewhere" / "else").mkdir(parents=True)
    assert not records.exists("somewhere/else", "ioi", "noising", "AP-heads")


def test_all_records_are_made_and_an_interrupted_run_goes_on(about, monkeypatch, capsys):
    plan = [("ioi", "noising", name) for name in ("AtP", "AP-heads")]
    monkeypatch.setattr(records, "names", lambda: plan)
    monkeypatch.setattr(records, "language_model", lambda: about)
    write, done = records.write, []

    def interrupted(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(write(*arguments))
        return done[0]

    monkeypatch.setattr(records, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records.main()
    kept = sorted(paths.RESULTS.iterdir())
    monkeypatch.setattr(records, "write", write)
    records.main()
    assert sorted(paths.RESULTS.iterdir()) == kept, "nothing was computed twice"
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("2/2 ioi-noising-AP-heads: ") and said.endswith("about 0 min left")


def test_the_plan_has_every_record_once_and_the_cheap_ones_of_all_tasks_first():
    plan = records.names()
    assert len(plan) == len(set(plan)) == 4 * 8 + 1
    assert [name for _, _, name in plan[:16]] == ["AtP"] * 8 + ["AP-heads"] * 8
    assert plan[-1] == ("ioi", "noising", "AP-neurons")


@pytest.mark.parametrize("measurement", EVERY)
def test_a_record_that_was_changed_is_found_out(about, measurement):
    name: records.Name = ("ioi", "noising", measurement)
    _, found = made(about, measurement)
    check_a_sample(found, about.model, name, seed=0)
    moved = {"heads": found.scores.heads + 0.1, "neurons": found.scores.neurons + 0.1}
    with pytest.raises(AssertionError):
        check_a_sample(
            replace(found, scores=replace(found.scores, **moved)), about.model, name, seed=0
        )
