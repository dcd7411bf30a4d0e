"""The plan has every study that pages show once, and processes compute what one process does."""

import numpy as np
import polars as pl
import pytest

from analysis import paths
from analysis.studies import UNTRAINED, Studied, exact_model, run
from analysis.studies.run import ALL_TASKS, WHOLE_RUN, Unit
from analysis.tasks import TASKS


@pytest.fixture
def of_tiny(tiny_directory, monkeypatch, tmp_path):
    """The tiny model in place of both, and an empty folder of results."""
    monkeypatch.setenv("ANALYSIS_TESTBED", str(tiny_directory))
    monkeypatch.setenv("ANALYSIS_MODEL", str(tiny_directory))
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    return tmp_path


def of(study: str, plan: list[Unit]) -> set[tuple[str, str]]:
    return {(unit.model, unit.task) for unit in plan if unit.study == study}


def test_the_plan_has_every_study_once_on_each_model_and_task(monkeypatch):
    monkeypatch.delenv("ANALYSIS_MODEL", raising=False)
    plan = [unit for chain in run.units(Studied("testbed", 100)) for unit in chain]
    assert len(set(plan)) == len(plan)
    assert {unit.study for unit in plan} == set(run.STUDIES)
    here = {("testbed", task) for task in TASKS}
    trained = {(name, task) for name in ("testbed", "testbed-2", "testbed-3") for task in TASKS}
    for study in ("aligned_baselines", "consequences", "circuits", "baselines", "steps"):
        assert of(study, plan) == here, study
    assert of("head_to_head", plan) == of("every_neuron", plan) == here
    assert of("sampled_neurons", plan) == {("smollm2", task) for task in TASKS}
    assert of("name_readers", plan) == {("testbed", "ioi")}
    assert of("latent_question", plan) == trained
    assert of("across_models", plan) == trained | {(UNTRAINED, task) for task in TASKS}
    assert of("original", plan) == of("reproduction", plan) == {("testbed", ALL_TASKS)}


def test_another_seed_leaves_out_the_language_model_whose_records_have_their_own():
    plan = [unit for chain in run.units(Studied("testbed", 100), seed=1) for unit in chain]
    assert not of("sampled_neurons", plan) and of("every_neuron", plan)


def test_units_that_share_scores_are_in_one_chain_and_the_last_one_waits():
    *chains, last = run.units(Studied("testbed", 100))
    about = [{(unit.model, unit.task) for unit in chain} for chain in chains]
    assert all(len(of_chain) == 1 for of_chain in about)
    assert {unit.task for unit in last} == {ALL_TASKS}
    assert [unit.study for unit in chains[0]] == [
        *("aligned_baselines", "every_neuron", "consequences", "circuits", "name_readers")
    ]


def test_another_model_is_compared_with_its_control_alone(monkeypatch):
    monkeypatch.setenv("ANALYSIS_TESTBED", "gpt2-small")
    plan = [unit for chain in run.units(exact_model()) for unit in chain]
    assert {unit.model for unit in plan if unit.study != "sampled_neurons"} == {
        *("gpt2-small", UNTRAINED)
    }


def test_processes_compute_what_one_process_does(of_tiny, monkeypatch):
    """One study of it: processes find the code and the model by themselves, and keep results."""
    name = exact_model().name
    plan = [(Unit("baselines", name, task),) for task in ("gender-bias", "greater-than")]
    last = (Unit("original", name, ALL_TASKS),)
    monkeypatch.setattr(run, "units", lambda about, seed: [*plan, last])
    monkeypatch.setitem(run.STUDIES, "original", lambda model, seed, progress: None)
    kept = {}
    for processes in (1, 2):
        results = of_tiny / str(processes)
        monkeypatch.setattr(paths, "RESULTS", results)
        monkeypatch.setenv("ANALYSIS_RESULTS", str(results))
        done = run.run(n=2, processes=processes)
        assert set(done["study"][:2]) == {"baselines"}
        assert done["study"][2:].to_list() == ["original", WHOLE_RUN]
        assert done["task"][-1] == str(processes)
        assert done["seconds"][-1] >= done["seconds"][:-1].max()
        frames = sorted(results.glob("baselines-*.parquet"))
        kept[processes] = pl.concat(map(pl.read_parquet, frames))
        assert len(frames) == 2
    numbers = pl.selectors.float()
    # Numbers of threads differ, and with them the order of sums.
    one, two = (of.sort("task").select(numbers).to_numpy() for of in kept.values())
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_was_computed_is_not_computed_again(of_tiny, monkeypatch):
    told = []
    monkeypatch.setattr(
        run, "units", lambda about, seed: [(Unit("original", about.name, ALL_TASKS),)]
    )
    monkeypatch.setitem(run.STUDIES, "original", lambda model, **settings: told.append(settings))
    assert run.seconds_taken(3).is_empty() and not list(of_tiny.iterdir())
    first = run.run(n=3, seed=5)
    assert told == [{"seed": 5, "progress": None}]
    assert run.run(n=3, seed=5).equals(first)
    assert run.seconds_taken(3, seed=5).equals(first)
    assert run.seconds_taken(3).is_empty() and len(told) == 1


def test_a_unit_is_computed_on_its_model_and_task_with_the_runs_prompts(of_tiny, monkeypatch):
    told = {}

    def noted(study, name):
        def note(about, **settings):
            told[name] = about, settings

        return note

    notes = {study: noted(study, name) for name, study in run.STUDIES.items()}
    for group in ("_ON_ALL_PROMPTS", "_OVER_MODELS"):
        monkeypatch.setattr(run, group, tuple(notes[study] for study in getattr(run, group)))
    for name, study in list(run.STUDIES.items()):
        monkeypatch.setitem(run.STUDIES, name, notes[study])
        monkeypatch.setattr(run, name, notes[study])
    model = exact_model().name
    chain = tuple(Unit(study, model, "ioi") for study in run.STUDIES)
    rows = run._in_turn(chain, n=7, seed=3, progress=False)
    assert [row[:3] for row in rows] == list(chain)
    for study, (about, settings) in told.items():
        several = study in ("across_models", "latent_question", "sampled_neurons")
        assert about == [model] if several else about is exact_model().model
        assert settings.pop("seed") == 3 and settings.pop("progress") is False
        few = study in ("baselines", "steps", "head_to_head", "across_models", "latent_question")
        assert settings.pop("n", None) == (None if few else 7)
        assert settings == ({} if study == "name_readers" else {"tasks": ("ioi",)})


def test_a_study_that_fails_ends_the_run_with_its_error(of_tiny, monkeypatch):
    name = exact_model().name
    monkeypatch.setattr(run, "units", lambda about, seed: [(Unit("none", name, "ioi"),)] * 3)
    with pytest.raises(KeyError, match="none"):
        run.run(n=2, processes=1)
    assert run.seconds_taken(2).is_empty()


def test_bad_input_ends_before_any_work(of_tiny, monkeypatch):
    monkeypatch.setattr(run, "_seconds_of", lambda *_: pytest.fail("begun"))
    with pytest.raises(ValueError, match="n=999999"):
        run.run(n=999_999)
