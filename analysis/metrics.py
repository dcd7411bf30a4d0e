"""What a run is scored by: one number per prompt from the logits at its last token.

A metric is any function of those logits and the answers. One that needs no logits but the answers'
says so, by `LabelMetric`, and gets the fast way; any other gets the whole vocabulary's, slower and
right.
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

    Examples:
        >>> import torch
        >>> from analysis.metrics import Labels, logit_diff

        Token 7 is right for the first prompt, token 3 for the second:

        >>> tokens = torch.tensor([[7, 3], [3, 7]])
        >>> labels = Labels(tokens, signs=torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        >>> logits = torch.arange(10.0).repeat(2, 1)
        >>> logit_diff(logits, labels)
        tensor([ 4., -4.])
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

    Wraps a function of these columns and the labels. Called as any metric is, on the logits of the
    whole vocabulary; an engine computes just the columns, and calls `of_columns` on them.

    Args:
        of_columns: what is wrapped.
        normalised: whether it takes probabilities, the softmax over the full vocabulary.
        compares: whether it needs a right and a wrong answer for every prompt.

    Examples:
        >>> import torch
        >>> from analysis.metrics import LabelMetric, Labels
        >>> surprise = LabelMetric(lambda values, labels: -values[..., 0].log(), normalised=True)
        >>> labels = Labels(tokens=torch.tensor([[1]]), signs=torch.tensor([[1.0]]))
        >>> surprise(torch.tensor([[0.5, 0.25, 0.25]]).log(), labels)
        tensor([1.3863])
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
        return self.of_columns(
            values.gather(-1, labels.tokens.expand(*values.shape[:-1], -1)), labels
        )

    def __reduce__(self) -> str:
        """By its name, as a function is."""
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<metric {self.__qualname__}>"


@partial(LabelMetric, compares=True)
def logit_diff(
    logits: Float[Tensor, "*batch prompt label"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Logit difference: the right answers' mean logit minus the wrong answers'.

    Means, so that a constant added to every logit changes nothing, however many answers there are.

    Examples:
        >>> from analysis import load_model, load_task
        >>> from analysis.metrics import logit_diff
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=1)
        >>> for tokens in (pairs.clean_tokens[0], pairs.corrupted_tokens[0]):
        ...     logits = model(tokens[None])[:, -1]
        ...     print(f"{logit_diff(logits, pairs.labels).item():.1f}")
        3.6
        -5.9
    """
    right, wrong = ((labels.signs == sign).to(logits) for sign in (1, -1))
    weights = right / right.sum(-1, keepdim=True) - wrong / wrong.sum(-1, keepdim=True)
    return (logits * weights).sum(dim=-1)


@partial(LabelMetric, normalised=True)
def prob_diff(
    probabilities: Float[Tensor, "*batch prompt label"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Probability difference: Σ p(right) - Σ p(wrong), softmax over the full vocabulary.

    Examples:
        >>> import torch
        >>> from analysis.metrics import Labels, prob_diff
        >>> labels = Labels(tokens=torch.tensor([[0, 1]]), signs=torch.tensor([[1.0, -1.0]]))
        >>> prob_diff(torch.tensor([[0.6, 0.3, 0.1]]).log(), labels)
        tensor([0.3000])
    """
    return (probabilities * labels.signs).sum(dim=-1)


@dataclass(frozen=True)
class Readout:
    """A metric with its labels: what is read of a run.

    An engine is asked for the tokens of `columns`, None for the whole vocabulary, as logits or, if
    `normalised`, as log-probabilities; `read` gives the metric of what it returns.

    Examples:
        >>> import torch
        >>> from analysis.metrics import Labels, Readout, logit_diff
        >>> labels = Labels(tokens=torch.tensor([[2, 0]]), signs=torch.tensor([[1.0, -1.0]]))
        >>> logits = torch.tensor([[1.0, 5.0, 4.0]])
        >>> readout = Readout(logit_diff, labels)
        >>> readout.of_vocabulary(logits), readout.read(logits.gather(1, readout.columns))
        (tensor([3.]), tensor([3.]))

        Of a metric that says nothing of what it needs, an engine is asked for everything:

        >>> Readout(lambda logits, labels: logits.max(dim=-1).values, labels).columns is None
        True
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
        """The metric from all logits.

        A metric of the user's own sees one axis of prompts, each with its labels.

        Raises:
            ValueError: where it doesn't return one number for each prompt.
        """
        shape = logits.shape[:-1]
        if isinstance(self.metric, LabelMetric):
            return self.metric(logits, self.labels)
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
    """What a metric is called.

    Examples:
        >>> from analysis.metrics import name_of, prob_diff
        >>> name_of(prob_diff)
        'prob_diff'
    """
    return getattr(metric, "__name__", type(metric).__name__)
