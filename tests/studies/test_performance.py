"""What the methods cost and would cost, from measurements made up by hand: the pages' cells."""

from functools import cache
from itertools import product

import polars as pl
import pytest
from studies import made

from analysis.bench import measure
from analysis.bench.measure import GPT2_SHAPE
from analysis.bench.workloads import GPT2_SMALL, SHAPES, resumed_run, whole_run

# Which measurement a number of seconds is of.
OF_MODEL = {"testbed": 1000, GPT2_SHAPE: 2000}
OF_METHOD, OF_KIND = {"AP": 100, "IG": 200}, {"heads": 10, "neurons": 20}
OF_TASK = {"ioi": 3, "greater-than": 2, "gender-bias": 1, "capital-country": 4}
MEDIATION = {"seconds": 360.0}


def seconds(*about: str) -> float:
    digits = (OF_MODEL, OF_METHOD, OF_KIND, OF_TASK)
    return float(sum(of[name] for of, name in zip(digits, about, strict=True)))


@pytest.fixture
def measured() -> dict:
    """One layer a sample, in eight steps."""
    timings = []
    for about in product(OF_MODEL, OF_METHOD, OF_KIND, OF_TASK):
        ours = seconds(*about)
        row = dict(zip(("model", "method", "kind", "task"), about, strict=True))
        times = {"layer": 0, "theirs": [10 * ours + 0.5] * 2, "ours": [ours] * 2}
        timings.append(row | times | {"shares": [0.1] * 2, "difference": 0.0})
    return {"settings": {"steps": 8}, "timings": timings}


@cache
def counted() -> dict:
    """The cell that counts operations."""
    return made.cell("performance", "sizes = ")


def hours(measured: dict) -> pl.DataFrame:
    settings, count = measured["settings"], counted()["operations"]
    names = made.cell(
        "performance", "larger = ", measured=measured, settings=settings, operations=count
    )
    return pl.DataFrame(names["rows"])


def hours_of_report(measured: dict, mediation: dict, prompts: int, monkeypatch) -> pl.DataFrame:
    kept = {measure.METHODS: measured, measure.MEDIATION: mediation}
    monkeypatch.setattr(measure, "read", kept.get)
    return made.cell("reproduce", "seconds = ", prompts=prompts)["expected"]


def operations(task: str) -> int:
    """Of every neuron patched on one prompt: a probability needs all logits."""
    columns = 50257 + 100 if task == "greater-than" else 2
    layers = (resumed_run(GPT2_SMALL, SHAPES[task], "neurons", of, columns) for of in range(12))
    return 3072 * sum(layers)


def test_hours_are_of_both_directions_of_every_task(measured):
    """A hundred prompts in each of 12 layers, and three times as many steps as measured."""
    found = hours(measured)
    units = 2 * 100 * 12 / 3600
    assert found.columns == ["task", "AP, measured", "hook loop, measured"] + [
        "IG, extrapolated to 24 steps",
        "AP, A100 (19.5 TFLOP/s), computed",
        "AP, H100 SXM (67 TFLOP/s), computed",
    ]
    for task, row in zip(SHAPES, found.rows(), strict=True):
        ap, ig = (seconds(GPT2_SHAPE, method, "neurons", task) for method in OF_METHOD)
        on_gpus = [2 * 100 * operations(task) / rate / 3600 for rate in (9.75e12, 33.5e12)]
        expected = [3072 * units * ap, 3072 * units * (10 * ap + 0.5), 3 * units * ig, *on_gpus]
        assert row == (task, *map(pytest.approx, expected))


def test_one_size_grows_and_the_others_stay():
    given = {name: counted()[name] for name in ("sizes", "operations")}
    found = made.cell("performance", "growth = ", **given)["growth"]
    rows = {tuple(key): count for *key, count in found.rows()}
    assert len(rows) == found.height == 3 * (4 + 5 + 5)
    ap, loop = operations("ioi"), 12 * 3072 * whole_run(GPT2_SMALL, 17)
    for grows, size in (("prompts", 100), ("layers", 12), ("neurons", 3072)):
        assert rows[grows, size, "AP, engine"] == 100 * ap
        assert rows[grows, size, "AP, hook loop"] == 100 * loop
        assert rows[grows, size, "IG, engine, 24 steps"] == 100 * 2 * 24 * ap / 3072
    assert rows["prompts", 1, "AP, engine"] == ap
    for grows, size in (("layers", 24), ("neurons", 6144)):
        network = GPT2_SMALL._replace(**{grows: size})
        whole = network.layers * network.neurons * whole_run(network, 17)
        assert rows[grows, size, "AP, hook loop"] == 100 * whole


def test_a_layers_speedup_is_of_medians_over_repeats():
    row = {"model": GPT2_SHAPE, "method": "AP", "kind": "heads", "task": "ioi", "layer": 3}
    row |= {"theirs": [6.0, 1.0, 9.0], "ours": [2.0, 4.0, 3.0]}
    others = [row | {"model": "testbed"}, row | {"method": "IG"}]
    found = made.cell("performance", "speedup = ", measured={"timings": [row, *others]})
    assert found["by_layer"].rows() == [("heads", "ioi", 3, 2.0)]


def test_a_cut_saves_what_it_leaves_out():
    """The last layer's answers, and of every layer before it a projection of what changes."""
    saved = counted()["saved"]
    for number, (task, shape) in enumerate(SHAPES.items()):
        whole, changed = operations(task) / 3072, shape.length - shape.first
        columns = 50257 + 100 if task == "greater-than" else 2
        last = resumed_run(GPT2_SMALL, shape, "neurons", 11, columns)
        assert saved["last layer"][number] == pytest.approx(last / whole)
        # Layer 11 resumes nothing, 10 its keys and values, and of a query the last position's.
        projected = ((4 * changed + 2) + 10 * 6 * changed) * 768**2
        assert saved["next layer"][number] == pytest.approx(projected / whole)
    assert all(len(shares) == len(SHAPES) for shares in saved.values())


def of_gradients(timings: list[dict], **more: list[dict]) -> dict:
    """The cell on the language model and on gradients."""
    found = {"timings": timings} | {getattr(measure, name): rows for name, rows in more.items()}
    names = {"measured": found, "ratios": measure.ratios(found)}
    return made.cell("performance", "schemas = ", **names)


def test_what_was_not_measured_is_a_dash_and_an_empty_table(measured):
    found = of_gradients(measured["timings"])
    values = ("language_ratio", "fixed_ratio", "captum_ratio", "language_nodes", "atp_passes")
    assert {found[name] for name in values} == {"–"}
    assert len(found["by_gradients"]) == len(found["by_atp"]) == 0


def test_the_slowest_task_speaks_for_all(measured):
    """By hand, two tasks of each model: the lowest ratio and share, the most nodes and passes."""
    tolerance, atp, timings = [], [], []
    for number, task in enumerate(("ioi", "gender-bias"), start=1):
        for model, ours in ((measure.SMOLLM2, 2.0), (GPT2_SHAPE, 1.0)):
            about = {"model": model, "task": task, "kind": "heads", "layer": 0, "layers": 1.0}
            row = about | {"rival": "another", "theirs": 20.0 * number, "ours": ours}
            tolerance.append(row | {"nodes": 4.0 * number, "gap": 1e-4, "difference": 0.0})
        passes = {"forward": [1.0, 1.0], "ours": [2.0 * number] * 2}
        atp.append({"model": GPT2_SHAPE, "task": task, "prompts": 8} | passes)
        about = {"model": measure.SMOLLM2, "method": "AP", "kind": "neurons", "task": task}
        times = {"layer": 0, "theirs": [9.0 * number] * 2, "ours": [1.0] * 2}
        timings.append(about | times | {"shares": [0.4 * number] * 2, "difference": 0.0})
    found = of_gradients(measured["timings"] + timings, TOLERANCE=tolerance, ATP=atp)
    expected = {"language_ratio": "9.0", "language_share": "40%", "atp_passes": "4.0"}
    expected |= {"fixed_ratio": "10.0", "captum_ratio": "20.0"}
    expected |= {"language_nodes": "8", "random_nodes": "8"}
    assert {name: found[name] for name in expected} == expected


def test_hours_on_gpt2_small_are_those_of_its_units(measured, monkeypatch):
    """By hand: seconds of a prompt in one direction by AP, and by a step of IG's eight."""
    ap = {
        task: 12 * (12 * seconds(GPT2_SHAPE, "AP", "heads", task))
        + 12 * 3072 * seconds(GPT2_SHAPE, "AP", "neurons", task)
        for task in OF_TASK
    }
    step = {
        task: 12 * sum(seconds(GPT2_SHAPE, "IG", kind, task) for kind in OF_KIND) / 8
        for task in OF_TASK
    }
    longer = {"ioi": 17 / 5, "greater-than": 13 / 5, "gender-bias": 5 / 3, "capital-country": 8 / 7}
    both = sum(ap[task] + 24 * step[task] for task in OF_TASK)
    baselines = sum((ap[task] + 24 * step[task]) * (1 + 2 * longer[task]) for task in OF_TASK)
    parts = {
        "IG and AP in both directions": (50, 50 * 2 * both),
        "the same, trained and untrained": (12, 2 * 12 * 2 * both),
        "neurons on neurons": (12, 4 * 12 * 360),
        "every pair of baselines": (8, 8 * baselines),
        "every rule and number of steps": (8, 8 * sum(ap[t] + 5 * 62 * step[t] for t in OF_TASK)),
    }
    found = hours_of_report(measured, MEDIATION, 50, monkeypatch)
    assert found.columns == ["part", "prompts", "hours"]
    assert found.rows() == [
        (part, count, pytest.approx(of / 3600)) for part, (count, of) in parts.items()
    ]


def test_the_kept_measurements_are_the_pages(monkeypatch):
    """What is counted or measured there, in ranges that a reader would expect."""
    kept, mediation = measure.read(measure.METHODS), measure.read(measure.MEDIATION)
    by_task = hours(kept)
    assert (by_task["AP, measured"] < by_task["hook loop, measured"]).all()
    saved = counted()["saved"]
    assert 0 < max(saved["last layer"]) < 0.02 and 0 < max(saved["next layer"]) < 0.05
    # Of 144 heads beside 36,864 neurons: they add little to AP, and double IG.
    ap, ig = by_task["AP, measured"].sum(), by_task["IG, extrapolated to 24 steps"].sum()
    first = hours_of_report(kept, mediation, 100, monkeypatch)["hours"][0]
    assert ap + 1.9 * ig < first < 1.02 * ap + 2.5 * ig


def test_only_the_first_parts_hours_grow_with_the_prompts(measured, monkeypatch):
    few, many = (
        hours_of_report(measured, MEDIATION, prompts, monkeypatch)["hours"] for prompts in (10, 30)
    )
    assert many[0] == pytest.approx(3 * few[0])
    assert many[1:].equals(few[1:])
