"""What a run is scored by: one number per prompt from the logits at its last token.

Both metrics are a sum over right answers minus a sum over wrong ones, so a data set's labels are
token ids with signs. Larger means more right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """The answers' token ids, +1 where an answer is right and -1 where it is wrong."""

    tokens: Int[Tensor, "prompt label"]
    signs: Float[Tensor, "prompt label"]

    def __getitem__(self, prompts: Int[Tensor, " chosen"]) -> "Labels":
        return Labels(self.tokens[prompts], self.signs[prompts])

    def to(self, device: torch.device | str) -> "Labels":
        """The same labels on another device."""
        return Labels(self.tokens.to(device), self.signs.to(device))


Metric: TypeAlias = Callable[
    [Float[Tensor, "*batch prompt vocabulary"], Labels], Float[Tensor, "*batch prompt"]
]


def logit_diff(
    logits: Float[Tensor, "*batch prompt vocabulary"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Logit difference: the right answers' logits minus the wrong answers'."""
    return _signed_sum(logits, labels)


def prob_diff(
    logits: Float[Tensor, "*batch prompt vocabulary"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Probability difference: Σ p(right) - Σ p(wrong), softmax over the full vocabulary."""
    return _signed_sum(logits.softmax(dim=-1), labels)


LABELS_SUFFICE = frozenset({logit_diff})


@dataclass(frozen=True)
class Readout:
    """A metric with its labels: what is read of a run.

    `columns` are the tokens whose logits the metric needs for each prompt; None is all of them.
    """

    metric: Metric
    labels: Labels

    @property
    def columns(self) -> Int[Tensor, "prompt label"] | None:
        return self.labels.tokens if self.metric in LABELS_SUFFICE else None

    def of_columns(
        self, logits: Float[Tensor, "*batch prompt column"]
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric from the logits of `columns`."""
        if self.columns is None:
            return self.metric(logits, self.labels)
        places = torch.arange(logits.shape[-1], device=logits.device)
        return self.metric(logits, Labels(places.expand_as(self.labels.tokens), self.labels.signs))

    def of_vocabulary(
        self, logits: Float[Tensor, "*batch prompt vocabulary"]
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric from all logits."""
        return self.metric(logits, self.labels)


def _signed_sum(
    values: Float[Tensor, "*batch prompt vocabulary"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    tokens = labels.tokens.expand(*values.shape[:-1], -1)
    return (values.gather(-1, tokens) * labels.signs).sum(dim=-1)
