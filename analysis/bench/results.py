"""Measurements as frames, as text and on disk."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import polars as pl

from analysis import paths

Kept = TypeVar("Kept", bound="Measurement")
CONTENDERS = {"AP": "hook loop", "IG": "Captum"}


@dataclass(frozen=True)
class Measurement:
    """What a bench returns; `latest` is the file that the report shows."""

    measured: dict[str, Any]
    latest: ClassVar[str]

    @classmethod
    def read(cls: type[Kept], path: Path | None = None) -> Kept:
        """A kept measurement; by default the one that the report shows."""
        path = path or paths.BENCHMARKS / cls.latest
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Writes every measurement, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.measured, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)


class Bench(Measurement):
    """What `analysis.bench.measure.bench` returns."""

    latest = "cpu.json"

    def layers(self) -> pl.DataFrame:
        """A row a layer: model, task, method, kind, layer, medians over repeats, share, speedup."""
        rows = [
            {name: timing[name] for name in ("model", "task", "method", "kind", "layer")}
            | {name: float(np.median(timing[name])) for name in ("theirs", "ours", "shares")}
            for timing in self.measured["timings"]
        ]
        return pl.DataFrame(rows).with_columns(speedup=pl.col("theirs") / pl.col("ours"))

    def ratios(self) -> pl.DataFrame:
        """A row a model, method, kind and task: summed seconds over summed seconds.

        Every layer weighs the same. `ratio` is the median over repeats, `low` and `high` the
        lowest and the highest; `theirs` and `ours` are mean seconds a unit; `share` is that of the
        middle layers; `difference` the largest.
        """
        groups: dict[tuple[str, ...], list[dict]] = {}
        for timing in self.measured["timings"]:
            key = tuple(timing[name] for name in ("model", "method", "kind", "task"))
            groups.setdefault(key, []).append(timing)
        names = ("model", "method", "kind", "task")
        return pl.DataFrame(
            [dict(zip(names, key, strict=True)) | _summary(of) for key, of in groups.items()]
        )

    def text(self) -> str:
        """The ratios and the memory, a line each."""
        lines = [
            f"{row['model']:20} {row['method']} {row['kind']:8} {row['task']:16} "
            f"{row['ratio']:6.1f} times {CONTENDERS[row['method']]} "
            f"[{row['low']:.1f}, {row['high']:.1f}], "
            f"{row['theirs']:.2e} s against {row['ours']:.2e} s a unit, "
            f"difference {row['difference']:.0e}, {row['share']:.0%} of the matmul rate"
            for row in self.ratios().iter_rows(named=True)
        ]
        lines += [
            f"{model:20} 100 IOI prompts hold {peak['above resident'] / 2**20:.0f} MiB above the "
            f"model; the process peaks at {peak['process'] / 2**20:.0f} MiB"
            for model, peak in self.measured["memory"].items()
        ]
        return "\n".join(lines)


class MediationBench(Measurement):
    """What `analysis.bench.mediation.bench_mediation` returns."""

    latest = "mediation-cpu.json"

    def text(self) -> str:
        """One line."""
        found = self.measured
        return (
            f"{found['model']}: {found['pairs']:,} pairs of neurons on one {found['task']} prompt "
            f"in {found['seconds']:.0f} s, {found['memory']['above resident'] / 2**20:.0f} MiB "
            "above the model"
        )


def _summary(timings: list[dict]) -> dict[str, float]:
    theirs, ours = (
        np.array([timing[side] for timing in timings]).mean(axis=0) for side in ("theirs", "ours")
    )
    ratios = theirs / ours
    middle = timings[len(timings) // 4 : -(len(timings) // 4) or None]
    return {
        "ratio": float(np.median(ratios)),
        "low": float(ratios.min()),
        "high": float(ratios.max()),
        "theirs": float(np.median(theirs)),
        "ours": float(np.median(ours)),
        "share": float(np.median([timing["shares"] for timing in middle])),
        "difference": max(timing["difference"] for timing in timings),
    }
