"""What a run is scored by: one number per prompt from the logits at its last token.

A metric is any function of those logits and the answers. One that needs no logits but the answers'
says so, by `LabelMetric`, and gets the fast way; any other gets the whole vocabulary's, slower and
right.

Examples:
    Tokens 2 and 1 are the first prompt's answers, 0 and 2 the second's, the right one first:

    >>> import torch
    >>> from analysis.metrics import LabelMetric, Labels, Readout, logit_diff, name_of, prob_diff
    >>> signs = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    >>> labels = Labels(torch.tensor([[2, 1], [0, 2]]), signs)
    >>> logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]).log()
    >>> logit_diff(logits, labels), prob_diff(logits, labels)
    (tensor([1.2528, 0.9163]), tensor([0.5000, 0.3000]))

    A metric of one's own, of the right answer's probability; an engine is asked for `columns`:

    >>> surprise = LabelMetric(lambda values, labels: -values[..., 0].log(), normalised=True)
    >>> readout = Readout(surprise, labels)
    >>> readout.of_vocabulary(logits), readout.read(logits.gather(1, readout.columns))
    (tensor([0.3567, 0.6931]), tensor([0.3567, 0.6931]))
    >>> name_of(surprise), name_of(prob_diff)
    ('<lambda>', 'prob_diff')
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """The answers' token ids, +1 where an answer is right and -1 where it is wrong.

    Where prompts have unequal numbers of answers, rows are filled up with a sign of 0.
    """

    tokens: Int[Tensor, "prompt label"]
    signs: Float[Tensor, "prompt label"]

    def __getitem__(self, prompts: Int[Tensor, " chosen"] | slice) -> "Labels":
        return Labels(self.tokens[prompts], self.signs[prompts])

    def to(self, device: torch.device | str) -> "Labels":
        """The same labels on another device."""
        return Labels(self.tokens.to(device), self.signs.to(device))


Metric: TypeAlias = Callable[
    [Float[Tensor, "*batch prompt vocabulary"], Labels], Float[Tensor, "*batch prompt"]
]


class LabelMetric:
    """A metric that needs the answers' columns alone: their logits, or their probabilities.

    Called as any metric is, on the logits of the whole vocabulary; an engine computes just the
    columns, and calls `of_columns` on them.

    Args:
        of_columns: a function of these columns and the labels.
        normalised: whether it takes probabilities, the softmax over the full vocabulary.
        compares: whether it needs a right and a wrong answer for every prompt.
    """

    def __init__(
        self,
        of_columns: Callable[[Float[Tensor, "*batch prompt label"], Labels], Tensor],
        normalised: bool = False,
        compares: bool = False,
    ):
        self.of_columns, self.normalised, self.compares = of_columns, normalised, compares
        self.__qualname__ = of_columns.__qualname__
        update_wrapper(self, of_columns)

    def __call__(
        self, logits: Float[Tensor, "*batch prompt vocabulary"], labels: Labels
    ) -> Float[Tensor, "*batch prompt"]:
        values = logits.softmax(dim=-1) if self.normalised else logits
        tokens = labels.tokens.expand(*values.shape[:-1], -1)
        return self.of_columns(values.gather(-1, tokens), labels)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by its name, as a function is

    def __repr__(self) -> str:
        return f"<metric {self.__qualname__}>"


@partial(LabelMetric, compares=True)
def logit_diff(
    logits: Float[Tensor, "*batch prompt label"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Logit difference: the right answers' mean logit minus the wrong answers'.

    Means, so that a constant added to every logit changes nothing, however many answers there are.
    """
    right, wrong = ((labels.signs == sign).to(logits) for sign in (1, -1))
    weights = right / right.sum(-1, keepdim=True) - wrong / wrong.sum(-1, keepdim=True)
    return (logits * weights).sum(dim=-1)


@partial(LabelMetric, normalised=True)
def prob_diff(
    probabilities: Float[Tensor, "*batch prompt label"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Probability difference: Σ p(right) - Σ p(wrong), softmax over the full vocabulary."""
    return (probabilities * labels.signs).sum(dim=-1)


@dataclass(frozen=True)
class Readout:
    """A metric with its labels: what is read of a run.

    An engine is asked for the tokens of `columns`, None for the whole vocabulary, as logits or, if
    `normalised`, as log-probabilities; `read` gives the metric of what it returns.
    """

    metric: Metric
    labels: Labels

    @property
    def columns(self) -> Int[Tensor, "prompt label"] | None:
        """The tokens that the metric needs for each prompt; None for the whole vocabulary."""
        return self.labels.tokens if isinstance(self.metric, LabelMetric) else None

    @property
    def normalised(self) -> bool:
        """Whether it needs log-probabilities."""
        return isinstance(self.metric, LabelMetric) and self.metric.normalised

    def select(self, prompts: list[int]) -> "Readout":
        """The same metric of some of the prompts, by their rows."""
        return Readout(self.metric, self.labels[torch.tensor(prompts)])

    def width(self, vocabulary: int) -> int:
        """How many numbers of a prompt are read."""
        return vocabulary if self.columns is None else self.columns.shape[1]

    def read(self, values: Float[Tensor, "*batch prompt column"]) -> Float[Tensor, "*batch prompt"]:
        """The metric from what an engine gives for `columns`."""
        if isinstance(self.metric, LabelMetric):
            numbers = values.exp() if self.normalised else values
            return self.metric.of_columns(numbers, self.labels)
        return self.of_vocabulary(values)

    def of_vocabulary(
        self, logits: Float[Tensor, "*batch prompt vocabulary"]
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric from all logits; a user's sees one axis of prompts, each with its labels."""
        if isinstance(self.metric, LabelMetric):
            return self.metric(logits, self.labels)
        shape = logits.shape[:-1]
        prompts = torch.arange(shape[-1], device=logits.device).repeat(shape[:-1].numel())
        found = self.metric(logits.flatten(0, -2), self.labels[prompts])
        if not isinstance(found, Tensor) or found.shape != prompts.shape:
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"The metric {name_of(self.metric)} returned {given} for {len(prompts)} prompts: "
                "it must return a tensor of one number for each prompt."
            )
        return found.unflatten(0, shape)


def name_of(metric: Metric) -> str:
    """What a metric is called."""
    return getattr(metric, "__name__", type(metric).__name__)
