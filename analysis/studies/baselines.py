"""Does alignment make the agreement? IG and AP from every pair of baselines."""

from dataclasses import dataclass

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import Estimate, correlation_of_means
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.attribution.parts import BASELINES, FEWEST_FOR_A_MEAN
from analysis.forward import KINDS
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.comparison import lowest
from analysis.tasks import TASKS, PromptPairs, load_task

# A mean needs prompts of one length: so many prompts, of so many lengths at most.
PROMPTS, LENGTHS = 8, 1
DRAWN = 100


@dataclass(frozen=True)
class Baselines:
    """How far IG with one baseline agrees with AP with another.

    Attributes:
        prompts: how many are behind each task.
        agreement: columns task, kind, ig and ap (the baselines), and the estimate (mean, sd, low,
            high) of Pearson's r of the prompt-averaged scores.
    """

    prompts: dict[str, int]
    agreement: pl.DataFrame

    def estimate(self, task: str, kind: str, ig: str, ap: str) -> Estimate:
        """r between IG from one baseline and AP from another."""
        row = self.agreement.row(
            by_predicate=(pl.col("task") == task)
            & (pl.col("kind") == kind)
            & (pl.col("ig") == ig)
            & (pl.col("ap") == ap),
            named=True,
        )
        return Estimate(*(row[name] for name in Estimate._fields))

    def of(self, kind: str) -> pl.DataFrame:
        """One kind's rows."""
        return self.agreement.filter(pl.col("kind") == kind)

    def finding(self) -> str:
        """What alignment makes, in Markdown: the lowest r of any task, with it and without."""
        return " ".join(
            f"For {kind}, r of the prompt-averaged scores is at least "
            f"{self.lowest(kind, 'source')} with the source as both baselines, "
            f"{self.lowest(kind, 'mean')} with the mean as both and {self.lowest(kind, 'zero')} "
            "with zero as both; of IG from zero, which libraries default to, and AP from the "
            f"source it is as low as {self.lowest(kind, 'zero', 'source')}."
            for kind in KINDS
        )

    def lost_table(self) -> pl.DataFrame:
        """r with AP from the source by IG's baseline, a row a task and kind."""
        return pl.DataFrame(
            [
                {"task": task, "kind": kind, "prompts": self.prompts[task]}
                | {
                    f"IG from {ig}": str(self.estimate(task, kind, ig, "source"))
                    for ig in ("source", "mean", "zero")
                }
                for task in self.prompts
                for kind in KINDS
            ]
        )

    def lowest(self, kind: str, ig: str, ap: str | None = None) -> Estimate:
        """The lowest r of any task between IG and AP from these baselines; AP's is IG's if None."""
        return lowest(self.estimate(task, kind, ig, ap or ig) for task in self.prompts)


def baselines(
    model: TransformerBridge,
    n: int = DRAWN,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> Baselines:
    """The full 3 × 3 of every task, noising, on prompts of its most frequent length."""
    data = {task: frequent_lengths(load_task(task, model, n=n, seed=seed)) for task in tasks}
    return Baselines(
        prompts={task: len(pairs) for task, pairs in data.items()},
        agreement=pl.concat(_one_task(model, pairs, seed, progress) for pairs in data.values()),
    )


def frequent_lengths(
    pairs: PromptPairs, prompts: int = PROMPTS, lengths: int = LENGTHS
) -> PromptPairs:
    """The first prompts of the most frequent lengths, as many of each, enough for a mean.

    Raises:
        ValueError: where no length has enough prompts.
    """
    groups = sorted(pairs.groups(), key=len, reverse=True)[:lengths]
    long = [group for group in groups if len(group) >= FEWEST_FOR_A_MEAN]
    enough = [group[: prompts // len(long)] for group in long]
    if not enough:
        raise ValueError(
            f"{pairs.task}: no length has {FEWEST_FOR_A_MEAN} of the {len(pairs)} prompts, which a "
            "mean needs: use more prompts."
        )
    return pairs.select(sorted(place for group in enough for place in group))


def _one_task(
    model: TransformerBridge, pairs: PromptPairs, seed: int, progress: bool | None
) -> pl.DataFrame:
    ap, ig = (
        {
            baseline: cached_scores(method, model, pairs, baseline=baseline, progress=progress)
            for baseline in BASELINES
        }
        for method in (activation_patching, integrated_gradients)
    )
    return cached_frame(
        f"baselines-{pairs.task}",
        lambda: _compare(ap, ig, seed),
        *ap.values(),
        *ig.values(),
        seed,
    )


def _compare(ap: dict[str, Scores], ig: dict[str, Scores], seed: int) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"task": patched.task, "kind": kind, "ig": first, "ap": second}
            | correlation_of_means(integrated.of(kind), patched.of(kind), seed)._asdict()
            for kind in KINDS
            for first, integrated in ig.items()
            for second, patched in ap.items()
        ]
    )
