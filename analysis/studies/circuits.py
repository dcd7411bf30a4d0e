"""Which method finds the better circuit? Faithfulness by the share of components kept, as in MIB.

A circuit keeps components of one kind and takes the others of that kind to the source's
activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import MIB_SHARES, area_to_one, area_under, faithfulness, largest
from analysis.agreement import Estimate
from analysis.forward import KINDS
from analysis.studies.aligned_baselines import PROMPTS
from analysis.studies.cache import cached_frame
from analysis.studies.comparison import ABOVE, BELOW, wide
from analysis.studies.ranking import Ranking, rankings
from analysis.tasks import TASKS

RESAMPLES = 2000
METHODS = ("IG", "AP", "‖Δa‖", "random")
DIFFERENCE = "IG - AP"
_KEYS = ["task", "direction", "kind"]
_AREAS = {"CPR": area_under, "CMD": area_to_one}


@dataclass(frozen=True)
class Circuits:
    """How faithful circuits are that keep the components with the largest scores.

    Attributes:
        curves: columns task, direction, kind, method, share (of components kept), faithfulness.
        areas: columns task, direction, kind, area (CPR or CMD of MIB), method, and the estimate;
            the method `IG - AP` is their paired difference.
    """

    curves: pl.DataFrame
    areas: pl.DataFrame

    def table(self) -> pl.DataFrame:
        """Every area."""
        return wide(self.areas, "method", [*_KEYS, "area"], [*METHODS, DIFFERENCE])

    def verdict(self) -> str:
        """Which method has the larger area, in a sentence."""
        found = self.areas.filter(pl.col("area") == "CPR", pl.col("method") == DIFFERENCE)
        ig, ap = (found.filter(side).height for side in (ABOVE, BELOW))
        return (
            f"By CPR, IG's circuit is the better one in {ig} of {found.height} cases and AP's in "
            f"{ap} (95 % interval of the paired difference); in none do the two differ by more "
            f"than {found['mean'].abs().max():.2f}."
        )


def circuits(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> Circuits:
    """Curves and areas of every task in both directions."""
    kept = [
        cached_frame(
            f"kept-{ranking.ap.task}-{ranking.ap.direction}",
            lambda ranking=ranking: _kept(ranking, seed),
            *(model, ranking.pairs, ranking.ap, ranking.ig, seed),
        )
        for ranking in rankings(model, tasks, n, seed, progress)
    ]
    return Circuits(
        curves=pl.concat(_curves(frame) for frame in kept),
        areas=pl.concat(_areas(frame, seed) for frame in kept),
    )


def _kept(ranking: Ranking, seed: int) -> pl.DataFrame:
    """The tested prompts' metric with a share of the components kept.

    Columns: task, direction, kind, method, share, prompt, metric.
    """
    random = np.random.default_rng(seed)
    frames = []
    for kind in KINDS:
        ranked = ranking.ranked(kind)
        ranked["random"] = random.random(ranked["IG"].shape)
        for method, scores in ranked.items():
            sets = np.stack([largest(scores, round(s * scores.size)) for s in MIB_SHARES])
            metric = ranking.metric(sets, kind, keep=True)
            shares, prompts = np.indices(metric.shape)
            columns = {"share": np.array(MIB_SHARES)[shares], "prompt": prompts, "metric": metric}
            about = ranking.place | {"kind": kind, "method": method}
            frames.append(
                pl.DataFrame({name: values.ravel() for name, values in columns.items()}).select(
                    *(pl.lit(value).alias(name) for name, value in about.items()), pl.all()
                )
            )
    return pl.concat(frames)


def _by_method(
    kept: pl.DataFrame,
) -> Iterator[tuple[dict[str, str], dict[str, Float[np.ndarray, "share prompt"]]]]:
    """The metric of each method's circuits, for each task, direction and kind."""
    for key, rows in kept.group_by(_KEYS, maintain_order=True):
        yield (
            dict(zip(_KEYS, map(str, key), strict=True)),
            {
                str(method): part.sort("share", "prompt")["metric"]
                .to_numpy()
                .reshape(len(MIB_SHARES), -1)
                for (method,), part in rows.group_by(["method"], maintain_order=True)
            },
        )


def _faithful(metric: Float[np.ndarray, "share *batch"]) -> Float[np.ndarray, "share *batch"]:
    """The first share is the empty circuit, the last the whole model."""
    return faithfulness(metric, metric[:1], metric[-1:])


def _curves(kept: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame(
        [
            place | {"method": method, "share": share, "faithfulness": float(value)}
            for place, metrics in _by_method(kept)
            for method, metric in metrics.items()
            for share, value in zip(MIB_SHARES, _faithful(metric.mean(axis=1)), strict=True)
        ]
    )


def _areas(kept: pl.DataFrame, seed: int) -> pl.DataFrame:
    """CPR and CMD with percentile bootstrap intervals over prompts; methods share resamples."""
    rows = []
    for place, metrics in _by_method(kept):
        count = next(iter(metrics.values())).shape[1]
        random = np.random.default_rng(seed)
        drawn = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
        if count < 2:  # one prompt has no interval
            drawn = np.full_like(drawn, np.nan)
        for name, area in _AREAS.items():
            # The first column is the whole of the prompts, the others are its resamples.
            weights = np.vstack([np.full(count, 1 / count), drawn]).T
            found = {m: np.asarray(area(_faithful(v @ weights))) for m, v in metrics.items()}
            found[DIFFERENCE] = found["IG"] - found["AP"]
            rows += [
                place | {"area": name, "method": method} | _estimate(values)._asdict()
                for method, values in found.items()
            ]
    return pl.DataFrame(rows)


def _estimate(values: Float[np.ndarray, " resample"]) -> Estimate:
    resampled = values[1:]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(values[0]), float(resampled.std(ddof=1)), float(low), float(high))
