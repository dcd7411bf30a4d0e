"""What the methods cost: measured by `analysis bench`, and computed for what was not run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import polars as pl

from analysis.attribution.integrated_gradients import STEPS
from analysis.bench.measure import GPT2_SHAPE
from analysis.bench.operations import Network, resumed_run, whole_run
from analysis.bench.results import CONTENDERS, Bench, MediationBench
from analysis.bench.workloads import SHAPES
from analysis.metrics import prob_diff
from analysis.tasks import TASKS

GPT2_SMALL = Network(layers=12, width=768, neurons=3072, vocabulary=50257)
PROMPTS = 100
# Single-precision matrix products, by their makers' data sheets, and the share of it assumed here.
LARGER_MACHINES = {"A100 (19.5 TFLOP/s)": 19.5e12, "H100 SXM (67 TFLOP/s)": 67e12}
ASSUMED_SHARE = 0.5


@dataclass(frozen=True)
class Performance:
    """The kept measurement, and what follows from it."""

    bench: Bench

    def ratios(self, model: str) -> pl.DataFrame:
        """A row a method, kind and task: how many times faster, for a page's table."""
        rows = self.bench.ratios().filter(pl.col("model") == model)
        return pl.DataFrame(
            [
                {
                    "method": row["method"],
                    "kind": row["kind"],
                    "task": row["task"],
                    "against": CONTENDERS[row["method"]],
                    "times faster": f"{row['ratio']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
                    "ms a unit": f"{1e3 * row['ours']:.3g}",
                    "theirs": f"{1e3 * row['theirs']:.3g}",
                    "matmul rate": f"{row['share']:.0%}",
                    "difference": f"{row['difference']:.0e}",
                }
                for row in rows.iter_rows(named=True)
            ]
        )

    def speedups(self, model: str, method: str) -> pl.DataFrame:
        """A row a task, kind and sampled layer."""
        return self.bench.layers().filter(pl.col("model") == model, pl.col("method") == method)

    def lowest(self, method: str, *kinds: str) -> dict:
        """Where the engine gains least at GPT-2 small's shape."""
        rows = self.bench.ratios().filter(
            pl.col("model") == GPT2_SHAPE, pl.col("method") == method, pl.col("kind").is_in(kinds)
        )
        return rows.sort("ratio").row(0, named=True)

    def whole_study(self) -> pl.DataFrame:
        """Hours of scoring every neuron of GPT-2 small, both directions, a row a task and a total.

        On the measured machine from the measured seconds a unit, IG extrapolated from the
        measured steps to `STEPS`; on larger ones from the operations, at `ASSUMED_SHARE` of their
        rate.
        """
        measured = {
            (row["method"], row["task"]): row
            for row in self.bench.ratios().iter_rows(named=True)
            if row["model"] == GPT2_SHAPE and row["kind"] == "neurons"
        }
        steps = STEPS / self.bench.measured["settings"]["steps"]
        layers = 2 * PROMPTS * GPT2_SMALL.layers
        rows = []
        for task in SHAPES:
            patched, integrated = measured["AP", task], measured["IG", task]
            hours = {
                "AP, measured": layers * GPT2_SMALL.neurons * patched["ours"],
                "hook loop, measured": layers * GPT2_SMALL.neurons * patched["theirs"],
                f"IG, extrapolated to {STEPS} steps": layers * steps * integrated["ours"],
            }
            operations = 2 * PROMPTS * patching_operations(GPT2_SMALL, task)
            for machine, rate in LARGER_MACHINES.items():
                hours[f"AP, {machine}, computed"] = operations / (ASSUMED_SHARE * rate)
            rows.append({"task": task} | {name: value / 3600 for name, value in hours.items()})
        frame = pl.DataFrame(rows)
        total = frame.select(pl.lit("all four").alias("task"), pl.exclude("task").sum())
        return pl.concat([frame, total])


def neurons_on_neurons(found: MediationBench) -> str:
    """What every pair of neurons cost on one prompt, and a data set by it, in Markdown."""
    measured = found.measured
    minutes = measured["seconds"] / 60
    return (
        f"All {measured['pairs']:,} pairs of a neuron and one of a later layer, at "
        f"{measured['model']} on one {measured['task']} prompt, took {minutes:.1f} minutes on "
        f"{measured['machine']['threads']} threads and "
        f"{measured['memory']['above resident'] / 2**30:.2f} GiB above the model. Time grows with "
        f"the prompts: {PROMPTS} of that length would take {PROMPTS * minutes / 60:.0f} hours "
        "(computed, not run)."
    )


def saved_by_more_cuts(network: Network = GPT2_SMALL) -> dict[str, float]:
    """What two cuts that were left out would save of a task's operations, at most, as shares.

    The last layer's neurons patched by a rank-one change would cost nothing; the next layer's
    queries, keys and values, from products computed once, would cost nothing.
    """
    shares: dict[str, list[float]] = {"last layer": [], "next layer": []}
    for task, shape in SHAPES.items():
        changed, last = shape.length - shape.first, network.layers - 1
        whole = _all_layers(network, task)
        shares["last layer"].append(
            resumed_run(network, shape, "neurons", last, _columns(task, network)) / whole
        )
        inner = (last - 1) * 6 * changed * network.width**2
        outer = (4 * changed + 2) * network.width**2
        shares["next layer"].append((inner + outer) / whole)
    return {name: max(values) for name, values in shares.items()}


def growth(task: str = "ioi") -> pl.DataFrame:
    """Operations by formula as one size grows and the others stay GPT-2 small's.

    Columns grows, size, method, operations; neurons alone are scored, in one direction.

    Examples:
        >>> from analysis.studies.performance import growth
        >>> operations = growth("ioi")
        >>> operations["grows"].unique(maintain_order=True).to_list()
        ['prompts', 'layers', 'neurons in a layer']
        >>> operations["method"].unique(maintain_order=True).to_list()
        ['AP, hook loop', 'AP, engine', 'IG, engine, 24 steps']
    """
    return pl.DataFrame(list(_growth(task)))


def _growth(task: str) -> Iterator[dict]:
    sizes = {
        "prompts": (1, 10, 100, 1000),
        "layers": (3, 6, 12, 24, 48),
        "neurons in a layer": (768, 1536, 3072, 6144, 12288),
    }
    for grows, values in sizes.items():
        for size in values:
            prompts = size if grows == "prompts" else PROMPTS
            network = GPT2_SMALL
            if grows == "layers":
                network = replace(network, layers=size)
            if grows == "neurons in a layer":
                network = replace(network, neurons=size)
            runs = network.layers * network.neurons
            counts = {
                "AP, hook loop": runs * whole_run(network, SHAPES[task].length),
                "AP, engine": patching_operations(network, task),
                f"IG, engine, {STEPS} steps": integrating_operations(network, task),
            }
            for method, count in counts.items():
                yield {
                    "grows": grows,
                    "size": size,
                    "method": method,
                    "operations": float(prompts * count),
                }


def patching_operations(network: Network, task: str) -> int:
    """Every neuron patched alone on one prompt."""
    return network.neurons * _all_layers(network, task)


def integrating_operations(network: Network, task: str) -> int:
    """Every layer's neurons attributed on one prompt; the backward pass costs one more forward."""
    return 2 * STEPS * _all_layers(network, task)


def _all_layers(network: Network, task: str) -> int:
    return sum(
        resumed_run(network, SHAPES[task], "neurons", layer, _columns(task, network))
        for layer in range(network.layers)
    )


def _columns(task: str, network: Network) -> int:
    """The right and the wrong answer's, or all and a hundred years'."""
    return network.vocabulary + 100 if TASKS[task].metric is prob_diff else 2
