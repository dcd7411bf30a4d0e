"""The report's question in one screen: its studies' answers beside one another."""

from dataclasses import dataclass

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward import KINDS
from analysis.studies import comparison
from analysis.studies.aligned_baselines import AlignedBaselines, aligned_baselines
from analysis.studies.baselines import Baselines, baselines
from analysis.studies.consequences import Consequences, consequences
from analysis.studies.facts import Facts, facts

TOP = 10
# How the lowest correlation of all is put into words.
_WORDS = ((0.95, "agree closely"), (0.7, "largely agree"), (-1.0, "agree in part"))
_UNDEFINED = "cannot be compared everywhere"


@dataclass(frozen=True)
class Answer:
    """The studies that answer when the methods agree, why they differ and whether that matters."""

    aligned: AlignedBaselines
    alignment: Baselines
    facts: Facts
    different: Consequences

    def claim(self) -> str:
        """The answer, in Markdown: a sentence each for when, why and whether it matters."""
        return "\n\n".join([self._when(), self._why(), self._whether()])

    def table(self) -> pl.DataFrame:
        """The tasks' numbers, a row a task, noising."""
        return pl.DataFrame(
            [
                {
                    "task": task,
                    "prompts": prompts,
                    "clean": str(self.aligned.mean_metric(task, "clean")),
                    "corrupted": str(self.aligned.mean_metric(task, "corrupted")),
                    "r, heads": str(self.aligned.estimate(task, "heads")),
                    "r, neurons": str(self.aligned.estimate(task, "neurons")),
                    f"same of top {TOP}": str(
                        self.aligned.estimate(task, "neurons", "overlap", k=TOP)
                    ),
                }
                for task, prompts in self.aligned.prompts.items()
            ]
        )

    def labels(self) -> dict[str, dict[str, str]]:
        """The correlation of each task and kind, as a chart's labels."""
        return {task: self.aligned.labels(task) for task in self.aligned.prompts}

    def _when(self) -> str:
        lowest = {kind: self.aligned.lowest(kind) for kind in KINDS}
        least = comparison.lowest(lowest.values()).mean
        words = next((words for bound, words in _WORDS if least >= bound), _UNDEFINED)
        apart = self.alignment.lowest("neurons", "zero", "source")
        return (
            f"**Asked the same question, they {words}.** Between the same two activations the "
            f"scores of the two methods correlate at r = {lowest['heads']} or more for heads and "
            f"{lowest['neurons']} or more for neurons, on {len(self.aligned.prompts)} tasks and in "
            "both directions. Asked different questions they need not: IG from zero, the usual "
            f"default, against patching from the other prompt goes down to {apart} for neurons."
        )

    def _why(self) -> str:
        layer = self.facts.most_different()
        return (
            "**They differ by company.** IG moves a whole layer together, patching one component "
            f"alone. In layer {layer['layer']}, where heads differ most on IOI, the difference is "
            f"{layer['IG - AP']:.1%} of the total effect a head: what heads do to one another "
            f"({layer['Shapley - AP']:.1%}) and what only the path between sees "
            f"({layer['IG - Shapley']:.1%})."
        )

    def _whether(self) -> str:
        own, shared, matched = (
            f"{self.different.median(*names):.1%}"
            for names in (("IG only", "AP only"), ("shared",), ("matched",))
        )
        return (
            "**What only one of them names does little, but not nothing.** Such components "
            f"together move the metric by {own} of the total effect (median over cases), those "
            f"that both name by {shared}, others that change as much by {matched}."
        )


def answer(model: TransformerBridge) -> Answer:
    """The answers of the studies, which have been computed before."""
    return Answer(aligned_baselines(model), baselines(model), facts(model), consequences(model))
