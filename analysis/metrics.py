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
    """The answers' token ids, +1 where an answer is right and -1 where it is wrong.

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
    """Logit difference: the right answers' logits minus the wrong answers'.

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
    return _signed_sum(logits, labels)


def prob_diff(
    logits: Float[Tensor, "*batch prompt vocabulary"], labels: Labels
) -> Float[Tensor, "*batch prompt"]:
    """Probability difference: Σ p(right) - Σ p(wrong), softmax over the full vocabulary.

    Examples:
        >>> import torch
        >>> from analysis.metrics import Labels, prob_diff
        >>> labels = Labels(tokens=torch.tensor([[0, 1]]), signs=torch.tensor([[1.0, -1.0]]))
        >>> prob_diff(torch.tensor([[0.6, 0.3, 0.1]]).log(), labels)
        tensor([0.3000])
    """
    return _signed_sum(logits.softmax(dim=-1), labels)


@dataclass(frozen=True)
class Readout:
    """A metric with its labels: what is read of a run.

    Either metric needs one number for each label, the logit or the log-probability, so an engine
    is asked for the labels' columns, `normalised` over the vocabulary or not.

    Examples:
        >>> import torch
        >>> from analysis.metrics import Labels, Readout, logit_diff
        >>> labels = Labels(tokens=torch.tensor([[2, 0]]), signs=torch.tensor([[1.0, -1.0]]))
        >>> readout = Readout(logit_diff, labels)
        >>> logits = torch.tensor([[1.0, 5.0, 4.0]])
        >>> readout.of_vocabulary(logits), readout.of_columns(logits.gather(1, readout.columns))
        (tensor([3.]), tensor([3.]))
    """

    metric: Metric
    labels: Labels

    @property
    def columns(self) -> Int[Tensor, "prompt label"]:
        """The tokens whose logits or log-probabilities the metric needs, for each prompt."""
        return self.labels.tokens

    @property
    def normalised(self) -> bool:
        """Whether it needs log-probabilities."""
        return self.metric is prob_diff

    def of_columns(
        self, values: Float[Tensor, "*batch prompt label"]
    ) -> Float[Tensor, "*batch prompt"]:
        """The metric from what an engine gives for `columns`."""
        numbers = values.exp() if self.normalised else values
        return (numbers * self.labels.signs).sum(dim=-1)

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
