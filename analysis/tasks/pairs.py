"""Prompt pairs as tokens: what a tokenizer allows of a task's examples."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import Labels, Metric
from analysis.tasks.example import Example

# One prompt's tokens; the length has no name because it differs from prompt to prompt.
Tokens: TypeAlias = Int[Tensor, " _"]


@dataclass(frozen=True)
class PromptPairs:
    """A data set: `clean[i]` and `corrupted[i]` have the same number of tokens.

    Prompts of different lengths stand side by side, never padded; `groups` gives those of one
    length together. `left_out` counts the examples that the tokenizer ruled out, by reason.

    Examples:
        >>> from analysis import load_model, load_task
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=4)
        >>> pairs.clean[0]
        'When Richard and Rose went to the bakery, Richard gave a computer to'
        >>> model.to_str_tokens(pairs.labels.tokens[0]), pairs.labels.signs[0].tolist()
        ([' Rose', ' Richard'], [1.0, -1.0])
        >>> [len(tokens) for tokens in pairs.clean_tokens], list(pairs.groups())
        ([15, 16, 20, 16], [[0], [1, 3], [2]])
        >>> len(pairs.select([0, 2]))
        2
    """

    task: str
    metric: Metric
    clean: list[str]
    corrupted: list[str]
    clean_tokens: list[Tokens] = field(repr=False)
    corrupted_tokens: list[Tokens] = field(repr=False)
    labels: Labels = field(repr=False)
    templates: list[str] = field(repr=False)
    trained: list[bool] = field(repr=False)
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clean)

    def select(self, prompts: Iterable[int]) -> "PromptPairs":
        """The pairs at these places, in this order."""
        places = list(prompts)
        names = ("clean", "corrupted", "clean_tokens", "corrupted_tokens", "templates", "trained")
        chosen = {name: [getattr(self, name)[place] for place in places] for name in names}
        return replace(self, labels=self.labels[torch.tensor(places, dtype=torch.long)], **chosen)

    def fingerprint(self) -> str:
        """A hash of what scores depend on: the tokens, the labels and the metric."""
        tokens = [side.tolist() for side in (*self.clean_tokens, *self.corrupted_tokens)]
        labels = [self.labels.tokens.tolist(), self.labels.signs.tolist()]
        text = json.dumps([tokens, labels, self.metric.__name__])
        return sha256(text.encode()).hexdigest()[:16]

    def groups(self) -> Iterator[list[int]]:
        """The places of the prompts of each length, shortest first."""
        lengths = [len(tokens) for tokens in self.clean_tokens]
        for length in sorted(set(lengths)):
            yield [place for place, other in enumerate(lengths) if other == length]


class UnusableError(Exception):
    """An example that this tokenizer rules out; the message is the reason."""


def build_pairs(
    name: str,
    metric: Metric,
    candidates: Iterable[Iterable[Example]],
    model: TransformerBridge,
    n: int | None = None,
    first_token: bool = False,
) -> PromptPairs:
    """The first `n` pairs (all, if None) among `candidates` that `model`'s tokenizer allows.

    Raises:
        ValueError: where n is under 1 or above what there is, or where nothing is left.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.metrics import logit_diff
        >>> from analysis.tasks import Example
        >>> from analysis.tasks.pairs import build_pairs
        >>> def runner(name):
        ...     prompts = (f"Mary and {name} ran, {actor} saw" for actor in (name, "Mary"))
        ...     return [Example(*prompts, right=(" Mary",), wrong=(f" {name}",))]

        One name is a single token, the other one is not:

        >>> candidates = [runner("John"), runner("Xyzzy")]
        >>> pairs = build_pairs("runners", logit_diff, candidates, load_model("testbed"))
        >>> len(pairs), pairs.left_out
        (1, {'a label is not a single token': 1})
    """
    if n is not None and n < 1:
        raise ValueError(f"{name}: n={n} prompts were asked for, n must be at least 1.")
    usable, left_out = [], Counter()
    seen: set[str] = set()
    reader = _Reader(model, first_token)
    for alternatives in candidates:
        if len(usable) == n:
            break
        pair, reason = _first_usable(alternatives, reader, seen)
        if pair is None:
            left_out[reason] += 1
        else:
            seen.add(pair.example.clean)
            usable.append(pair)
    _check_count(name, n, len(usable), left_out)
    return PromptPairs(
        task=name,
        metric=metric,
        clean=[pair.example.clean for pair in usable],
        corrupted=[pair.example.corrupted for pair in usable],
        clean_tokens=[pair.clean for pair in usable],
        corrupted_tokens=[pair.corrupted for pair in usable],
        labels=Labels(
            torch.tensor([pair.right + pair.wrong for pair in usable]),
            torch.tensor([[1.0] * len(pair.right) + [-1.0] * len(pair.wrong) for pair in usable]),
        ),
        templates=[pair.example.template for pair in usable],
        trained=[pair.example.trained for pair in usable],
        left_out=dict(left_out),
    )


@dataclass(frozen=True)
class _Pair:
    example: Example
    clean: Tokens
    corrupted: Tokens
    right: list[int]
    wrong: list[int]


class _Reader:
    """Turns an example into tokens, or says why it can't."""

    def __init__(self, model: TransformerBridge, first_token: bool):
        self.model, self.tokenizer, self.first_token = model, model.tokenizer, first_token
        self.encoded: dict[str, list[int]] = {}

    def read(self, example: Example) -> _Pair:
        right = [self._label(label) for label in example.right]
        wrong = [self._label(label) for label in example.wrong]
        if set(right) & set(wrong):
            raise UnusableError("a right and a wrong label are the same token")
        if example.clean == example.corrupted:
            raise UnusableError("the clean and the corrupted prompt are the same")
        clean, corrupted = self._prompt(example.clean), self._prompt(example.corrupted)
        if len(clean) != len(corrupted):
            raise UnusableError(
                "the clean and the corrupted prompt differ in their number of tokens"
            )
        return _Pair(example, clean, corrupted, right, wrong)

    def _prompt(self, text: str) -> Tokens:
        tokens = self.model.to_tokens(text, truncate=False)[0].cpu()
        if len(tokens) > self.model.cfg.n_ctx:
            raise UnusableError(
                f"a prompt is longer than the model's {self.model.cfg.n_ctx} positions"
            )
        # The first token is the one in front of every text, which GPT-2 also uses for the unknown.
        if len(tokens) < 2 or self.tokenizer.unk_token_id in tokens[1:].tolist():
            raise UnusableError("a prompt is empty or has a word unknown to the tokenizer")
        return tokens

    def _label(self, label: str | int) -> int:
        tokens = [label] if isinstance(label, int) else self._encode(label)
        if not tokens or tokens[0] == self.tokenizer.unk_token_id:
            raise UnusableError("a label is empty or unknown to the tokenizer")
        if len(tokens) > 1 and not self.first_token:
            raise UnusableError("a label is not a single token")
        return tokens[0]

    def _encode(self, text: str) -> list[int]:
        if text not in self.encoded:
            self.encoded[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.encoded[text]


def _first_usable(
    alternatives: Iterable[Example], reader: _Reader, seen: set[str]
) -> tuple[_Pair | None, str]:
    """The first alternative that can be read, else None and what was wrong with the last one."""
    reason = "there was no other prompt to corrupt it to"
    for example in alternatives:
        if example.clean in seen:
            return None, "the clean prompt occurs twice"
        try:
            return reader.read(example), ""
        except UnusableError as unusable:
            reason = str(unusable)
    return None, reason


def _check_count(name: str, n: int | None, usable: int, left_out: Counter[str]) -> None:
    if usable == 0:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        raise ValueError(f"{name}: no prompt pair is usable with this model: {reasons or 'none'}.")
    if n is not None and usable < n:
        raise ValueError(
            f"{name}: n={n} prompts were asked for, but only {usable} exist for this model "
            f"and split ({sum(left_out.values())} left out): ask for at most {usable}."
        )
