"""How well cheap methods stand in for activation patching, on a language model and the testbed.

On the testbed every neuron is patched. On the language model every head is, and of its neurons a
sample of each layer, and on IOI all of them on a few prompts; where its scores ship as records they
are read, without the model.

Both studies return the same frame. Columns: model, task, direction, method (what is compared: AtP
or IG), against (AP, or AtP where IG is compared with it), kind, layer (null for all together),
statistic, k (the size of the compared top sets, null for other statistics), components (how many
were measured), of (how many there are), estimate, low, high, n (prompts).

The statistics are of prompt-averaged scores: "Pearson", "slope" (of the method on what it is
compared with: 1.1 says that it is a tenth larger), and "overlap" at k. For heads the first two are
those of the means, with bootstrap intervals; for neurons they are made of products of different
prompts, with jackknife intervals that count the sampling of neurons where these were sampled, see
`agreement.of_sampled_components`. "Pearson over prompts" is the mean of r on single prompts, where
all components were patched. IG against AtP is Pearson's r of the means of all neurons, over the
prompts that both have, without an interval.

Examples:
    >>> import polars as pl
    >>> from analysis import load_model
    >>> from analysis.studies.stand_ins import every_neuron, sampled_neurons
    >>> exact = every_neuron(load_model("testbed"), n=4, tasks=("ioi",))
    >>> sampled = sampled_neurons(["testbed"], n=4, tasks=("ioi",))
    >>> about = {"direction": "noising", "statistic": "slope", "method": "IG", "kind": "neurons"}
    >>> for frame in (exact, sampled):
    ...     together = frame.filter(pl.col("layer").is_null(), **about)
    ...     together.select("components", "of", "n").row(0)
    (3072, 3072, 4)
    (96, 3072, 4)
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import agreement
from analysis.agreement import Estimate, of_means
from analysis.attribution import Scores, attribution_patching
from analysis.choices import DIRECTIONS, KINDS, Kind
from analysis.identity import hash_of
from analysis.studies import PROMPTS, Studied, both_methods, records, store, tidy
from analysis.studies.records import Recorded
from analysis.tasks import TASKS

TOP: dict[Kind, tuple[int, ...]] = {"heads": (5, 10, 20), "neurons": (10, 50, 200)}
Values = Float[np.ndarray, "prompt component"]
Rows = Iterator[dict[str, Any]]


class Means(NamedTuple):
    """Both methods' scores of every neuron, averaged over the same n prompts."""

    atp: Float[Tensor, "layer neuron"]
    ig: Float[Tensor, "layer neuron"]
    n: int


def every_neuron(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """The study of a model in which every component is patched."""
    frames = []
    for pairs, ap, ig in both_methods(model, n, seed, progress, tasks):
        settings: dict[str, Any] = {"direction": ap.direction, "progress": progress}
        atp = store.scores(attribution_patching, model, pairs, **settings)
        frame = store.frame(
            f"every_neuron-{ap.task}-{ap.direction}",
            lambda of=(ap, atp, ig): _compare_everything(*of, seed),
            *(ap, atp, ig, seed),
        )
        frames.append(frame.select(pl.lit(model.cfg.model_name).alias("model"), pl.all()))
    return pl.concat(frames)


def sampled_neurons(
    names: Sequence[str],
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """The study of models by their names, with as many neurons patched as a record has.

    A model's scores are those of its records where these ship, on their prompts, and else computed
    on `n` prompts or as many as a record would have, whichever is less.
    """
    frames = []
    for name, task, direction in product(names, tasks, DIRECTIONS):
        about = Studied(name, n)
        found = {
            measurement: records.measured(about, task, direction, measurement, seed, progress)
            for measurement in records.measurements(task, direction)
        }
        frame = store.frame(
            f"sampled_neurons-{task}-{direction}",
            lambda found=found: _compare_recorded(found, seed),
            *(fact for record in found.values() for fact in _identity(record)),
            seed,
        )
        frames.append(frame.select(pl.lit(name).alias("model"), pl.all()))
    return pl.concat(frames)


def _identity(record: Recorded) -> tuple[str, str]:
    """The model's fingerprint, by which what is kept of it is found, and everything together."""
    key = json.loads(record.metadata["key"])
    return key["model"], hash_of(key)


def _compare_everything(ap: Scores, atp: Scores, ig: Scores, seed: int) -> pl.DataFrame:
    means = Means(atp.neurons.mean(dim=0), ig.neurons.mean(dim=0), len(ig.prompts))
    return compare([ap], atp, ig, means, seed)


def _compare_recorded(found: dict[str, Recorded], seed: int) -> pl.DataFrame:
    patched = [record.scores for name, record in found.items() if name.startswith("AP")]
    atp, ig = found["AtP"], found["IG"]
    means = Means(atp.mean, ig.mean, ig.averaged)
    return compare(patched, atp.scores, ig.scores, means, seed)


def compare(
    patched: Sequence[Scores], atp: Scores, ig: Scores, means: Means, seed: int = 0
) -> pl.DataFrame:
    """The frame of the study without the model, of one task in one direction.

    Each of `patched` has AP's scores of some components, NaN elsewhere. Two methods are compared on
    the first prompts, as many as both have.
    """
    rows = [
        {"method": method.method, "against": "AP"} | row
        for ap, method, kind in product(patched, (atp, ig), KINDS)
        for row in _compare_kind(ap, method, kind, seed)
    ]
    about = {"task": atp.task, "direction": atp.direction}
    return tidy(about | row for row in [*rows, *_foretold(means)])


def _foretold(means: Means) -> Rows:
    """IG against AtP, which takes no patch to know."""
    about = {"method": "IG", "against": "AtP", "kind": "neurons"}
    sides = [of.double().numpy() for of in means[:2]]
    for layer in (None, *range(len(means.ig))):
        one, other = (of.reshape(1, -1) if layer is None else of[[layer]] for of in sides)
        found = {"layer": layer, "statistic": "Pearson", "k": None, "components": one.size}
        found |= {"of": one.size, "estimate": agreement.pearson(one, other).item(), "n": means.n}
        yield about | found


def _compare_kind(ap: Scores, method: Scores, kind: Kind, seed: int) -> Rows:
    """All together, where all or equally many of each layer were patched; then whole layers."""
    prompts = min(len(ap.prompts), len(method.prompts))
    a, b = (scores.of(kind)[:prompts].numpy() for scores in (ap, method))
    if not a.size:
        return
    measured: np.ndarray = np.logical_not(np.isnan(a).any(axis=0))
    counts, width = measured.sum(axis=1), measured.shape[1]

    def rows(layer: int | None, of: np.ndarray, estimates: Iterable[tuple]) -> Rows:
        for statistic, k, estimate in estimates:
            about = {"kind": kind, "layer": layer, "statistic": statistic, "k": k}
            how_many = {"components": int(of.sum()), "of": of.size, "n": len(a)}
            yield about | how_many | {"estimate": estimate}

    chosen = a[:, measured], b[:, measured]
    if measured.all():
        yield from rows(None, measured, _of_all(kind, *chosen, seed, TOP[kind]))
        over = agreement.average_correlation(*chosen, seed)
        yield from rows(None, measured, [("Pearson over prompts", None, over)])
    elif counts.min() == counts.max() > 1:
        layers = np.repeat(np.arange(len(counts)), counts)
        r, slope = agreement.of_sampled_components(*chosen, layers, width)
        yield from rows(None, measured, [("Pearson", None, r), ("slope", None, slope)])
    for layer in np.flatnonzero(counts == width).tolist():
        sides, of = (a[:, layer], b[:, layer]), measured[layer]
        yield from rows(layer, of, _of_all(kind, *sides, seed))
        over = agreement.average_correlation(*sides, seed)
        yield from rows(layer, of, [("Pearson over prompts", None, over)])


def _of_all(
    kind: Kind, a: Values, b: Values, seed: int, top: tuple[int, ...] = ()
) -> Iterator[tuple[str, int | None, Estimate]]:
    """Statistic, k and estimate, of components that were all measured."""
    statistics: dict[tuple[str, int | None], agreement.Statistic] = {}
    statistics |= {("overlap", k): agreement.overlap_at(k) for k in top if k < a.shape[1]}
    if kind == "heads":
        statistics |= {("Pearson", None): agreement.pearson, ("slope", None): agreement.slope}
    else:
        yield "Pearson", None, agreement.correlation_across_prompts(a, b)
        yield "slope", None, agreement.slope_across_prompts(a, b)
    if statistics:
        for (statistic, k), estimate in of_means(statistics, a, b, seed).items():
            yield statistic, k, estimate
