"""Long runs: what is finished is never lost, and never different."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from analysis import (
    Scores,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_model,
    load_task,
)
from analysis import sweep as sweeping
from analysis.bench.workloads import SHAPES, random_pairs
from analysis.metrics import Labels, prob_diff
from analysis.sweep import Checkpoints

KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from analysis import activation_patching, load_model, paths
from analysis.studies import store
from analysis.bench.workloads import SHAPES, random_pairs
model = load_model(sys.argv[1])
pairs = random_pairs("ioi", SHAPES["ioi"], 24, 3328)
print("ready", flush=True)
for line in sys.stdin:
    paths.RESULTS = Path(line.strip())
    if child := __import__("os").fork():
        print(child, flush=True)
        __import__("os").waitpid(child, 0)
        print("ended", flush=True)
    else:
        store.scores(activation_patching, model, pairs, memory=2**21)
        __import__("os")._exit(0)
"""


@pytest.fixture
def pairs():
    return random_pairs("ioi", SHAPES["ioi"], 4, 3328)


def same(first: Scores, second: Scores) -> None:
    for name in ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source"):
        exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(getattr(first, name), getattr(second, name), **exactly)


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_run_goes_on_without_redoing_units(tiny, pairs, tmp_path, monkeypatch, seed):
    whole = activation_patching(tiny, pairs)
    scored = sweeping._score
    calls, stop_at = [], random.Random(seed).randrange(1, 6)

    def score(method, scorer, site, *bar):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append((site.kind, site.layer))
        return scored(method, scorer, site, *bar)

    monkeypatch.setattr(sweeping, "_score", score)
    with pytest.raises(KeyboardInterrupt):
        activation_patching(tiny, pairs, checkpoints=tmp_path)
    stop_at = None
    same(activation_patching(tiny, pairs, checkpoints=tmp_path), whole)
    assert len(calls) == len(set(calls)) == 6, "each of 3 layers' heads and neurons once"


def test_a_killed_run_goes_on_to_the_same_file(tiny_directory, tmp_path):
    """kill -9 at random units; one process forks each run, so that all load the library once."""
    kept: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tiny_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:

        def run(folder: str, units: int | None) -> None:
            process.stdin.write(f"{tmp_path / folder}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if units is not None:
                while len(finished(tmp_path / folder)) < units:
                    time.sleep(0.001)
                os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "ended\n"

        assert process.stdout.readline() == "ready\n"
        run("whole", None)
        for units in sorted(random.Random(0).sample(range(1, 40), 4)):
            run("killed", units)
            now = finished(tmp_path / "killed")
            assert kept.items() <= now.items(), "finished units are not written again"
            kept = now
        run("killed", None)
        process.stdin.close()
    (expected,), (found,) = (list((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    assert expected.name == found.name
    assert pl.read_parquet(found).equals(pl.read_parquet(expected))
    described, again = map(pl.read_parquet_metadata, (expected, found))
    assert described | {"made": ""} == again | {"made": ""}, "all but when and how fast"


def finished(folder: Path) -> dict[str, int]:
    """The finished units and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.partial/*.safetensors")}


def test_a_unit_that_cannot_be_read_is_computed_again(tiny, pairs, tmp_path):
    (tmp_path / "unit.safetensors").write_bytes(b"broken")
    unit = {"values": torch.ones(2)}
    with tqdm(total=1, disable=True) as bar:
        found = Checkpoints(tmp_path, tiny, pairs).keep("unit", bar, 1, lambda: unit)
    assert torch.equal(found["values"], unit["values"])
    assert torch.equal(load_file(tmp_path / "unit.safetensors")["values"], unit["values"])


@pytest.mark.parametrize(
    "other", [{"direction": "denoising"}, {"memory": 2**20}, {"baseline": "zero"}, {"steps": 3}]
)
def test_another_runs_units_are_not_taken_over(tiny, pairs, tmp_path, other):
    settings = {"steps": 2, "checkpoints": tmp_path, "kinds": ("heads",)}
    integrated_gradients(tiny, pairs, **settings)
    with pytest.raises(ValueError, match="other arguments: delete"):
        integrated_gradients(tiny, pairs, **settings | other)


def test_units_of_a_model_that_computed_something_else_are_refused(
    tiny, pairs, tmp_path, monkeypatch
):
    """Though it has the same weights and configuration."""
    activation_patching(tiny, pairs, checkpoints=tmp_path, kinds=("heads",))
    here = sweeping.Provenance.of(tiny)
    moved = [[value - 0.1 for value in row] for row in here.log_probabilities]
    monkeypatch.setattr(
        sweeping.Provenance, "of", lambda model: replace(here, log_probabilities=moved)
    )
    with pytest.raises(ValueError, match="computed something else"):
        activation_patching(tiny, pairs, checkpoints=tmp_path, kinds=("heads",))


@pytest.mark.parametrize("changed", ["metric", "labels", "tokens", "weights", "algorithm"])
def test_units_of_another_model_or_data_set_are_not_taken_over(
    tiny_directory, tmp_path, monkeypatch, changed
):
    model = load_model(tiny_directory)
    pairs = load_task("ioi", model, n=2)
    activation_patching(model, pairs, checkpoints=tmp_path, kinds=("heads",))
    if changed == "metric":
        pairs = replace(pairs, metric=prob_diff)
    if changed == "labels":
        pairs = replace(pairs, labels=Labels(pairs.labels.tokens, -pairs.labels.signs))
    if changed == "tokens":
        pairs = pairs.select([1, 0])
    if changed == "weights":
        with torch.no_grad():
            model.blocks[1].mlp.out.original_component.bias[0] += 1
    if changed == "algorithm":
        monkeypatch.setattr(sweeping, "ALGORITHM", "another")
    with pytest.raises(ValueError, match="other arguments: delete"):
        activation_patching(model, pairs, checkpoints=tmp_path, kinds=("heads",))


def test_a_folder_may_be_a_text(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = load_task("ioi", tiny, n=1)
    activation_patching(tiny, pairs, checkpoints="runs", kinds=("heads",))
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 3


@pytest.mark.parametrize(
    ("place", "error"), [("save_file", SafetensorError), ("os.replace", OSError)]
)
def test_a_full_disk_costs_the_unit_not_the_run(tiny, tmp_path, monkeypatch, place, error):
    pairs = load_task("gender-bias", tiny, n=2)
    expected = activation_patching(tiny, pairs)

    def full(*_):
        raise error("No space left on device")

    monkeypatch.setattr(f"analysis.sweep.{place}", full)
    with pytest.warns(UserWarning, match="No space left"):
        same(activation_patching(tiny, pairs, checkpoints=tmp_path), expected)


RUNS = {
    "AP": activation_patching,
    "AtP": attribution_patching,
    "AtP at both ends": partial(attribution_patching, ends="both"),
    "AtP with repairs": partial(attribution_patching, repairs=("qk-fix", "grad-drop")),
    "AP of some": partial(
        activation_patching, components={"heads": [(2, 1), (0, 3)], "neurons": [(1, 5)]}
    ),
    "IG": partial(integrated_gradients, steps=3),
    "single IG": partial(integrated_gradients, steps=2, path="single", kinds=("heads",)),
    "AP from zero": partial(activation_patching, baseline="zero", kinds=("neurons",)),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_progress_bar_ends_at_its_total(tiny, monkeypatch, tmp_path, name):
    """Of a run from the start, of one whose first half is read, and of one that is all read."""
    bars, mixed = [], load_task("ioi", tiny, n=6)

    def recorded(*arguments, **settings):
        bars.append(tqdm(*arguments, **settings, file=StringIO()))
        return bars[-1]

    monkeypatch.setattr(sweeping, "tqdm", recorded)
    for _ in range(3):
        RUNS[name](tiny, mixed, memory=2**21, progress=True, checkpoints=tmp_path)
        finished = sorted(tmp_path.glob("*.safetensors"))
        assert bars[-1].n == bars[-1].total
        for unit in finished[::2] if len(bars) == 1 else []:
            unit.unlink()
    assert [bar.total > 0 for bar in bars] == [True, True, False]
    assert bars[1].total < bars[0].total
