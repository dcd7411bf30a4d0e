"""Do latent components change later components more than others that are like them?

A component is latent when IG, averaged over prompts, highlights it in one direction only. Each is
compared with controls of its own layer with about its |IG|, |AP| and ‖Δa‖, see
`analysis.latent.compare_with_controls`; both are patched alone, noising.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import activation_differences
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.parts import DIRECTIONS
from analysis.forward import KINDS
from analysis.latent import compare_with_controls, latent_components, log_covariates
from analysis.mediation import MEASURES, Effects, component_effects
from analysis.studies import UNTRAINED, loaded
from analysis.studies.across_models import PROMPTS, models_compared
from analysis.studies.cache import cached_frame, cached_scores
from analysis.tasks import TASKS, PromptPairs, load_task

OUTCOMES = ("norm", "reach", "projection")
LEVEL = 0.05
# The usual bound on a covariate's mean difference, in standard deviations.
BALANCED = 0.1
_METHODS = {"IG": integrated_gradients, "AP": activation_patching}


@dataclass(frozen=True)
class LatentQuestion:
    """Latent components beside their controls, a row a test.

    Attributes:
        tests: columns model, task, kind (of the latent components), target (of what they change),
            outcome, the effect, low, high, p, latent, controls and unmatched of a `Comparison`,
            imbalance (the largest |balance| of a covariate), and q, p adjusted for the rate of
            false discoveries among all tests. Without latent components or controls there is no
            test, and its numbers are null.
    """

    tests: pl.DataFrame

    def defined(self) -> pl.DataFrame:
        """The tests in which something was compared."""
        return self.tests.drop_nulls("p")

    def counts(self) -> pl.DataFrame:
        """How many tests of each outcome are above zero and below it with q under 5 %.

        Columns outcome, tests, above, below, neither, the lowest, median and highest effect, and
        unbalanced (tests).
        """
        found = pl.col("q") < LEVEL
        return (
            self.defined()
            .group_by("outcome", maintain_order=True)
            .agg(
                tests=pl.len(),
                above=(found & (pl.col("effect") > 0)).sum(),
                below=(found & (pl.col("effect") < 0)).sum(),
                neither=(~found).sum(),
                lowest=pl.col("effect").min(),
                median=pl.col("effect").median(),
                highest=pl.col("effect").max(),
                unbalanced=(pl.col("imbalance") > BALANCED).sum(),
            )
        )

    def verdict(self) -> str:
        """The answer: yes, where more than half of all tests are above zero with q under 5 % and
        at most a tenth below; no, where at most a tenth are above; else it depends.
        """
        counts = self.counts()
        total, above, below = (int(counts[name].sum()) for name in ("tests", "above", "below"))
        if total == 0:
            return "There is no answer: no latent component can be compared."
        if above <= total / 10:
            answer = (
                "No: latent components do not change later ones detectably more than others do."
            )
        elif above > total / 2 and below <= total / 10:
            answer = "Yes: latent components change later ones more than others do."
        else:
            answer = "It depends: some latent components change later ones more, others do not."
        return (
            f"{answer} Of {total} tests {above} find them above matched controls and {below} below "
            f"(q < {LEVEL:.0%}), {total - above - below} neither; the median effect is "
            f"{self.defined()['effect'].median():.2f} standard deviations."
        )

    def by_outcome(self) -> str:
        """The counts and the range of effects, a sentence an outcome, in Markdown."""
        return "\n".join(
            f"- {row['outcome']}: above in {row['above']} of {row['tests']} tests, below in "
            f"{row['below']}; effects from {row['lowest']:.2f} to {row['highest']:.2f} standard "
            f"deviations, their median {row['median']:.2f}"
            for row in self.counts().iter_rows(named=True)
        )

    def balance(self) -> str:
        """On how many tests the controls are no good controls."""
        defined = self.defined()
        missing = self.tests.height - defined.height
        if defined.is_empty():
            return f"There are no controls: none of {missing} tests has anything to compare."
        bad = defined.filter(pl.col("imbalance") > BALANCED)
        good = defined.filter(pl.col("imbalance") <= BALANCED)
        above = good.filter(pl.col("q") < LEVEL, pl.col("effect") > 0).height
        return (
            f"In {bad.height} of {defined.height} tests a covariate still differs by more than "
            f"{BALANCED} standard deviations between latent components and controls (by "
            f"{defined['imbalance'].max():.2f} at most), so that the effect may be the "
            f"covariate's; of the other {good.height}, {above} find latent components above."
            + (f" {missing} more have no latent component to compare." if missing else "")
        )

    def heads(self) -> str:
        """In how many cases there are latent heads at all, in Markdown."""
        cases = self.tests.filter(pl.col("kind") == "heads").group_by("model", "task")
        latent = cases.agg((pl.col("latent") + pl.col("unmatched")).max())["latent"]
        none = (latent == 0).sum()
        return (
            f"Heads are few: {none} of {latent.len()} cases of a model and a task have no latent "
            "head" + (f", and the others {latent.max()} at most." if none < latent.len() else ".")
        )

    def between(self, kind: str, target: str) -> pl.DataFrame:
        """The defined tests of one kind of latent components and one of targets."""
        return self.defined().filter(pl.col("kind") == kind, pl.col("target") == target)

    def table_of_heads(self) -> pl.DataFrame:
        """Both tables of latent heads, where there are any."""
        tables = [
            self.table("heads", target).select(pl.lit(target).alias("on"), pl.all())
            for target in KINDS
        ]
        return pl.concat(tables).filter(pl.col("latent") + pl.col("unmatched") > 0)

    def table(self, kind: str, target: str) -> pl.DataFrame:
        """Effects with their intervals, p and q, a row a model and task, a column an outcome."""
        rows = self.tests.filter(pl.col("kind") == kind, pl.col("target") == target)
        text = pl.struct("effect", "low", "high", "p", "q").map_elements(
            _text, return_dtype=pl.String
        )
        keys = ["model", "task", "latent", "unmatched", "imbalance"]
        worst = pl.col("imbalance").map_elements("{:.2f}".format, return_dtype=pl.String)
        return (
            rows.with_columns(pl.col(keys[2:]).max().over("model", "task"))
            .with_columns(text, worst.fill_null("–"))
            .pivot("outcome", index=keys, values="effect", maintain_order=True)
        )


def _text(row: dict) -> str:
    if row["q"] is None:
        return "–"
    interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['effect']:.2f} {interval}, p {row['p']:.2g}, q {row['q']:.2g}"


def latent_question(
    names: list[str] | None = None,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> LatentQuestion:
    """The question on n prompts of every task and model, on the scores of `across_models`.

    The untrained control, which it leaves out, has no circuit that a component could be latent in.
    """
    frames = []
    for name in trained_models() if names is None else names:
        model = loaded(name)
        frames += [
            _of_task(model, task, n, seed, progress).select(
                pl.lit(name).alias("model"), pl.lit(task).alias("task"), pl.all()
            )
            for task in tasks
        ]
    return LatentQuestion(with_false_discovery_rate(pl.concat(frames)))


def trained_models() -> list[str]:
    """The models that `across_models` compares, without the control."""
    return [name for name in models_compared() if name != UNTRAINED]


def with_false_discovery_rate(tests: pl.DataFrame) -> pl.DataFrame:
    """Adds q, Benjamini and Hochberg's adjusted p, over the tests whose p is not null."""
    p = tests["p"].to_numpy()
    defined = np.isfinite(p)
    q = np.full(len(p), np.nan)
    q[defined] = false_discovery_control(p[defined])
    return tests.with_columns(q=pl.Series(q).fill_nan(None))


def _of_task(
    model: TransformerBridge, task: str, n: int, seed: int, progress: bool | None
) -> pl.DataFrame:
    """One model's tests on one task."""
    pairs = load_task(task, model, n=n, seed=seed)
    facts = model, pairs
    scores = {
        (name, direction): cached_scores(
            method, model, pairs, direction=direction, progress=progress
        )
        for name, method in _METHODS.items()
        for direction in DIRECTIONS
    }
    changes = pl.concat(
        cached_frame(
            f"changes-{task}-{kind}",
            lambda kind=kind: changes_by(model, pairs, kind, progress),
            *facts,
        )
        for kind in KINDS
    )
    return cached_frame(
        f"latent-{task}",
        lambda: _tests(model, pairs, scores, changes, seed),
        *(*facts, *scores.values(), seed),
    )


def changes_by(
    model: TransformerBridge, pairs: PromptPairs, kind: str, progress: bool | None = None
) -> pl.DataFrame:
    """What each component of a kind, patched alone, changes in all later ones, noising.

    Columns kind, target, prompt, layer, component, and the measures of `Effects.of_sources`:
    means over targets, and how many are reached; null where there is no later component.
    """
    effects = component_effects(model, pairs, kind, strongest=0, progress=progress)
    return pl.concat(_of_sources(kind, target, found) for target, found in effects.items())


def _of_sources(kind: str, target: str, effects: Effects) -> pl.DataFrame:
    values = {name: effects.of_sources(name) for name in MEASURES}
    none = values["norm"].isnan()
    values["reach"] = values["reach"].masked_fill(none, torch.nan)
    places = dict(zip(("prompt", "layer", "component"), np.indices(none.shape), strict=True))
    columns = places | {name: found.numpy() for name, found in values.items()}
    frame = pl.DataFrame({name: found.ravel() for name, found in columns.items()})
    about = pl.lit(kind).alias("kind"), pl.lit(target).alias("target")
    return frame.fill_nan(None).select(*about, pl.all())


def _tests(
    model: TransformerBridge,
    pairs: PromptPairs,
    scores: dict[tuple[str, str], Scores],
    changes: pl.DataFrame,
    seed: int,
) -> pl.DataFrame:
    rows = []
    for kind in KINDS:
        means = {key: found.of(kind).mean(dim=0).numpy() for key, found in scores.items()}
        ig, ap = ([means[name, direction] for direction in DIRECTIONS] for name in _METHODS)
        moved = activation_differences(model, pairs, kind)
        covariates = log_covariates(**{"IG": tuple(ig), "AP": tuple(ap), "‖Δa‖": (moved,)})
        (latent,) = latent_components(ig[0][None], ig[1][None])
        for target, outcome in product(KINDS, OUTCOMES):
            of = changes.filter(pl.col("kind") == kind, pl.col("target") == target)
            values = _as_array(of[outcome], (len(pairs), *latent.shape))
            found = compare_with_controls(latent, values, covariates, seed=seed)._asdict()
            balance = found.pop("balance").values()
            row = {"kind": kind, "target": target, "outcome": outcome} | found
            rows.append(row | {"imbalance": max(abs(value) for value in balance)})
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def _as_array(
    column: pl.Series, shape: tuple[int, ...]
) -> Float[np.ndarray, "prompt layer component"]:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy().reshape(shape)
