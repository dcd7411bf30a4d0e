"""What the report would take on GPT-2 small, from kept measurements at its shape.

Nothing of it was run: the model's weights could not be had where the measurements were made.
"""

from dataclasses import dataclass

import polars as pl

from analysis.attribution.integrated_gradients import STEPS
from analysis.attribution.quadrature import RULES
from analysis.bench.measure import GPT2_SHAPE
from analysis.bench.results import Bench, MediationBench
from analysis.bench.workloads import SHAPES, Shape
from analysis.studies import across_models, aligned_baselines, baselines, steps
from analysis.studies.performance import GPT2_SMALL

COUNTS = {"heads": 12, "neurons": GPT2_SMALL.neurons}  # in a layer
DIRECTIONS, MODELS = 2, 2  # of the headline: the model and its untrained control


@dataclass(frozen=True)
class Expected:
    """Time and memory of the parts that take most, on the machine of the measurements."""

    bench: Bench
    mediation: MediationBench

    def parts(self, prompts: int = aligned_baselines.PROMPTS) -> pl.DataFrame:
        """Columns part, prompts (a task), hours (of all tasks), and a last row with their total.

        IG's time is taken to grow with its steps, that of zero and the mean as baselines with the
        positions that change, and that of neurons on neurons with the prompts, at IOI's length.
        """
        few = across_models.PROMPTS
        rows = {
            "IG and AP in both directions": (prompts, prompts * self._both()),
            "the same, trained and untrained": (few, MODELS * few * self._both()),
            "neurons on neurons": (few, len(SHAPES) * few * self.mediation.measured["seconds"]),
            "every pair of baselines": (baselines.PROMPTS, baselines.PROMPTS * self._baselines()),
            "every rule and number of steps": (steps.PROMPTS, steps.PROMPTS * self._steps()),
        }
        frame = pl.DataFrame(
            [(part, count, seconds / 3600) for part, (count, seconds) in rows.items()],
            schema=["part", "prompts", "hours"],
            orient="row",
        )
        total = frame.select(
            part=pl.lit("all of these"), prompts=pl.lit(None, pl.Int64), hours=pl.col("hours").sum()
        )
        return pl.concat([frame, total])

    def prompts_in(self, hours: float) -> int:
        """As many prompts a task as the first part takes so many hours for."""
        return int(hours * 3600 / self._both())

    def memory(self) -> float:
        """The largest peak of a measured process, in GiB."""
        peaks = self.bench.measured["memory"][GPT2_SHAPE], self.mediation.measured["memory"]
        return max(peak["process"] for peak in peaks) / 2**30

    def _both(self) -> float:
        """Seconds a prompt of each task, by both methods in both directions."""
        return DIRECTIONS * sum(ap + STEPS * step for ap, step in self._units().values())

    def _baselines(self) -> float:
        return sum(
            (ap + STEPS * step) * (1 + 2 * _longer(SHAPES[task]))
            for task, (ap, step) in self._units().items()
        )

    def _steps(self) -> float:
        return sum(ap + len(RULES) * sum(steps.STEPS) * s for ap, s in self._units().values())

    def _units(self) -> dict[str, tuple[float, float]]:
        """By task: seconds a prompt and direction of AP, and of one step of IG."""
        rows = self.bench.ratios().filter(pl.col("model") == GPT2_SHAPE)
        unit = {
            (row["method"], row["kind"], row["task"]): GPT2_SMALL.layers * row["ours"]
            for row in rows.iter_rows(named=True)
        }
        measured = self.bench.measured["settings"]["steps"]
        return {
            task: (
                sum(count * unit["AP", kind, task] for kind, count in COUNTS.items()),
                sum(unit["IG", kind, task] for kind in COUNTS) / measured,
            )
            for task in SHAPES
        }


def _longer(shape: Shape) -> float:
    """How many times as many positions change where all of them do."""
    return shape.length / (shape.length - shape.first)
