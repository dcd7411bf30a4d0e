"""What the methods cost and would cost, from measurements made up by hand."""

from dataclasses import replace
from itertools import product

import polars as pl
import pytest
from studies import made

from analysis.bench.measure import GPT2_SHAPE
from analysis.bench.operations import Network, resumed_run, whole_run
from analysis.bench.results import Bench, MediationBench
from analysis.bench.workloads import SHAPES
from analysis.studies import performance
from analysis.studies.gpt2_small import Expected
from analysis.studies.performance import GPT2_SMALL, Performance, neurons_on_neurons

# Which measurement a number of seconds is of; the smallest ratio is that of gender bias.
MODELS = {"testbed": 1000, GPT2_SHAPE: 2000}
METHODS, KINDS = {"AP": 100, "IG": 200}, {"heads": 10, "neurons": 20}
TASKS = {"ioi": 3, "greater-than": 2, "gender-bias": 1, "capital-country": 4}


def seconds(*names: str) -> float:
    return float(
        sum(of[name] for of, name in zip((MODELS, METHODS, KINDS, TASKS), names, strict=True))
    )


class MadeBench(Bench):
    def ratios(self) -> pl.DataFrame:
        rows = []
        for about in product(MODELS, METHODS, KINDS, TASKS):
            ours = seconds(*about)
            row = dict(zip(("model", "method", "kind", "task"), about, strict=True))
            numbers = {"ours": ours, "theirs": 10 * ours + 0.5, "ratio": ours / 100 + 0.04}
            ends = {"low": ours / 100 - 0.1, "high": ours / 100 + 0.3}
            rows.append(row | numbers | ends | {"share": ours / 1e4, "difference": ours / 1e9})
        return pl.DataFrame(rows)


@pytest.fixture
def bench() -> MadeBench:
    memory = {"testbed": {"process": 1.5 * 2**30}, GPT2_SHAPE: {"process": 2.5 * 2**30}}
    return MadeBench({"settings": {"steps": 8}, "memory": memory})


def test_ratios_stand_beside_what_they_are_against(bench):
    found = Performance(bench).ratios(GPT2_SHAPE)
    assert found.columns == ["method", "kind", "task", "against", "times faster"] + [
        "ms a unit",
        "theirs",
        "matmul rate",
        "difference",
    ]
    assert found.row(0) == (
        *("AP", "heads", "ioi", "hook loop", "21.2 [21.0, 21.4]"),
        *("2.11e+06", "2.11e+07", "21%", "2e-06"),
    )
    assert found.select("method", "kind", "task", "against").rows() == [
        (*about, "hook loop" if about[0] == "AP" else "Captum")
        for about in product(METHODS, KINDS, TASKS)
    ]


def test_the_engine_gains_least_where_the_ratio_is_lowest(bench):
    found = Performance(bench)
    least = {
        ("IG", "neurons"): found.lowest("IG", "neurons"),
        ("AP", "heads"): found.lowest("AP", "heads", "neurons"),
    }
    for (method, kind), row in least.items():
        assert row["ours"] == seconds(GPT2_SHAPE, method, kind, "gender-bias")


def operations(task: str) -> int:
    """Of every neuron patched on one prompt: a probability needs all logits."""
    columns = 50257 + 100 if task == "greater-than" else 2
    layers = (resumed_run(GPT2_SMALL, SHAPES[task], "neurons", of, columns) for of in range(12))
    return 3072 * sum(layers)


def test_hours_are_of_both_directions_of_every_task(bench):
    """A hundred prompts in each of 12 layers, and three times as many steps as measured."""
    found = Performance(bench).whole_study()
    units = 2 * 100 * 12 / 3600
    rows = []
    for task in SHAPES:
        ap, ig = (seconds(GPT2_SHAPE, method, "neurons", task) for method in METHODS)
        on_gpus = (2 * 100 * operations(task) / rate / 3600 for rate in (9.75e12, 33.5e12))
        rows.append((3072 * units * ap, 3072 * units * (10 * ap + 0.5), 3 * units * ig, *on_gpus))
    total = tuple(map(sum, zip(*rows, strict=True)))
    assert found.columns == ["task", "AP, measured", "hook loop, measured"] + [
        "IG, extrapolated to 24 steps",
        "AP, A100 (19.5 TFLOP/s), computed",
        "AP, H100 SXM (67 TFLOP/s), computed",
    ]
    for name, row, expected in zip(
        [*SHAPES, "all four"], found.rows(), [*rows, total], strict=True
    ):
        assert row == (name, *map(pytest.approx, expected))


def test_one_size_grows_and_the_others_stay():
    found = performance.growth("greater-than")
    rows = {tuple(key): operations for *key, operations in found.rows()}
    assert len(rows) == found.height
    ap, loop = operations("greater-than"), 12 * 3072 * whole_run(GPT2_SMALL, 13)
    for grows, size in (("prompts", 100), ("layers", 12), ("neurons in a layer", 3072)):
        assert rows[grows, size, "AP, engine"] == 100 * ap
        assert rows[grows, size, "AP, hook loop"] == 100 * loop
        assert rows[grows, size, "IG, engine, 24 steps"] == 100 * 2 * 24 * ap / 3072
    assert rows["prompts", 1, "AP, engine"] == ap
    for grows, size, network in (
        ("layers", 24, replace(GPT2_SMALL, layers=24)),
        ("neurons in a layer", 6144, replace(GPT2_SMALL, neurons=6144)),
    ):
        whole = network.layers * network.neurons * whole_run(network, 13)
        assert rows[grows, size, "AP, hook loop"] == 100 * whole


def test_cuts_left_out_are_told_by_the_task_that_they_would_save_most_of():
    """The last layer's answers, and of the layer before it a projection of what changes."""
    network = Network(layers=2, width=4, neurons=8, vocabulary=50)
    last, following = [], []
    for task, shape in SHAPES.items():
        columns = 150 if task == "greater-than" else 2
        layers = [resumed_run(network, shape, "neurons", of, columns) for of in (0, 1)]
        last.append(layers[1] / sum(layers))
        following.append((4 * (shape.length - shape.first) + 2) * 4**2 / sum(layers))
    found = performance.saved_by_more_cuts(network)
    assert found == pytest.approx({"last layer": max(last), "next layer": max(following)})


MEDIATION = MediationBench(
    {
        "pairs": 1234,
        "seconds": 360.0,
        "model": "a shape",
        "task": "ioi",
        "machine": {"threads": 2},
        "memory": {"above resident": 2**29, "process": 3.25 * 2**30},
    }
)


def test_a_data_set_of_neurons_is_extrapolated_from_one_prompt():
    assert neurons_on_neurons(MEDIATION) == (
        "All 1,234 pairs of a neuron and one of a later layer, at a shape on one ioi prompt, took "
        "6.0 minutes on 2 threads and 0.50 GiB above the model. Time grows with the prompts: 100 "
        "of that length would take 10 hours (computed, not run)."
    )


def test_hours_on_gpt2_small_are_those_of_its_units(bench):
    """By hand: seconds of a prompt in one direction by AP, and by a step of IG's eight."""
    ap = {
        task: 12 * (12 * seconds(GPT2_SHAPE, "AP", "heads", task))
        + 12 * 3072 * seconds(GPT2_SHAPE, "AP", "neurons", task)
        for task in TASKS
    }
    step = {
        task: 12 * sum(seconds(GPT2_SHAPE, "IG", kind, task) for kind in KINDS) / 8
        for task in TASKS
    }
    longer = {"ioi": 17 / 5, "greater-than": 13 / 5, "gender-bias": 5 / 3, "capital-country": 8 / 7}
    both = sum(ap[task] + 24 * step[task] for task in TASKS)
    parts = {
        "IG and AP in both directions": (50, 50 * 2 * both),
        "the same, trained and untrained": (12, 2 * 12 * 2 * both),
        "neurons on neurons": (12, 4 * 12 * 360),
        "every pair of baselines": (
            8,
            8 * sum((ap[task] + 24 * step[task]) * (1 + 2 * longer[task]) for task in TASKS),
        ),
        "every rule and number of steps": (8, 8 * sum(ap[t] + 5 * 62 * step[t] for t in TASKS)),
    }
    total = sum(of for _, of in parts.values())
    expected = Expected(bench, MEDIATION)
    assert made.table(expected.parts(50)) == [
        ("part", "prompts", "hours"),
        *((part, count, pytest.approx(of / 3600)) for part, (count, of) in parts.items()),
        ("all of these", None, pytest.approx(total / 3600)),
    ]
    assert expected.prompts_in(50.5 * 2 * both / 3600) == 50
    assert expected.memory() == 3.25
