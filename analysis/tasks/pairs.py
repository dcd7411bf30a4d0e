"""Prompt pairs as tokens: what a tokenizer allows of a task's examples."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from reprlib import Repr
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import whole
from analysis.identity import hash_of, identify
from analysis.metrics import Labels, Metric, name_of
from analysis.tasks.reading import Pair, Reader, Vocabulary
from analysis.tasks.task import Example

Tokens: TypeAlias = Int[Tensor, " _"]  # one prompt's; each has a length of its own
_SHOWN = 3  # prompt pairs, in a repr


@dataclass(frozen=True, repr=False)
class PromptPairs:
    """A data set: `clean[i]` and `corrupted[i]` have the same number of tokens.

    Prompts of different lengths stand side by side, never padded; `groups` gives those of one
    length together. Prompts may have different numbers of answers: `labels` is padded with
    labels of sign 0. `answers` holds each label's text by its token id, as the tokenizer that
    made the pairs spells it. `left_out` counts the examples that it ruled out, by reason. Pairs
    made of tokens instead of texts have empty texts.

    Examples:
        >>> from analysis import load_model, load_task
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=4)
        >>> pairs.select([0])
        PromptPairs(task='ioi', metric=logit_diff, prompts=1, left_out={},
          clean='When Richard and Rose went to the bakery, Richard gave a computer to'
          corrupted='When Richard and Rose went to the bakery, Rose gave a computer to'
          right=(' Rose',) wrong=(' Richard',))
        >>> [len(tokens) for tokens in pairs.clean_tokens], list(pairs.groups())
        ([15, 16, 20, 16], [[0], [1, 3], [2]])
    """

    task: str
    metric: Metric
    clean: list[str]
    corrupted: list[str]
    clean_tokens: list[Tokens]
    corrupted_tokens: list[Tokens]
    labels: Labels
    trained: list[bool]
    left_out: dict[str, int] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        short = Repr()
        short.maxstring, short.maxtuple = 120, 4
        some = self.select(range(min(len(self), _SHOWN)))
        head = f"task={self.task!r}, metric={name_of(self.metric)}, prompts={len(self)}"
        lines = [f"{head}, left_out={self.left_out}"]
        for values in zip(some.clean, some.corrupted, some.right, some.wrong, strict=True):
            texts = map(short.repr, values)
            lines.append("  clean={}\n  corrupted={}\n  right={} wrong={}".format(*texts))
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} more")
        return "PromptPairs(" + ",\n".join(lines) + ")"

    @property
    def right(self) -> list[tuple[str, ...]]:
        """Each prompt's right answers, decoded."""
        return self._decoded(self.labels.signs > 0)

    @property
    def wrong(self) -> list[tuple[str, ...]]:
        """Each prompt's wrong answers, decoded."""
        return self._decoded(self.labels.signs < 0)

    def _decoded(self, chosen: Bool[Tensor, "prompt label"]) -> list[tuple[str, ...]]:
        return [
            tuple(self.answers.get(token, f"token {token}") for token in row[mask].tolist())
            for row, mask in zip(self.labels.tokens, chosen, strict=True)
        ]

    def select(self, prompts: Iterable[int]) -> "PromptPairs":
        """The pairs at these indices, in this order."""
        indices = list(prompts)
        names = ("clean", "corrupted", "clean_tokens", "corrupted_tokens", "trained")
        chosen = {name: [getattr(self, name)[index] for index in indices] for name in names}
        return replace(self, labels=self.labels[torch.tensor(indices, dtype=torch.long)], **chosen)

    def groups(self) -> Iterator[list[int]]:
        """The indices of the prompts of each length, shortest first."""
        lengths = [len(tokens) for tokens in self.clean_tokens]
        for length in sorted(set(lengths)):
            yield [index for index, other in enumerate(lengths) if other == length]

    def fingerprint(self) -> str:
        """A hash of what scores depend on: the tokens, the labels and the metric."""
        tokens = [side.tolist() for side in (*self.clean_tokens, *self.corrupted_tokens)]
        labels = [self.labels.tokens.tolist(), self.labels.signs.tolist()]
        return hash_of([tokens, labels, identify(self.metric)])

    def check(self, model: TransformerBridge) -> None:
        """Raises a ValueError unless these are `model`'s tokens and answers, in its positions."""
        if fault := self._fault(model):
            again = f"load them again with load_task({self.task!r}, model)"
            raise ValueError(f"The pairs of {self.task!r} {fault}: {again}.")

    def _fault(self, model: TransformerBridge) -> str | None:
        """What keeps the pairs from being `model`'s."""
        other = "were made with another model's tokenizer"
        sides = [side.cpu() for side in (*self.clean_tokens, *self.corrupted_tokens)]
        ids = torch.cat([*sides, self.labels.tokens.flatten().cpu()])
        if len(ids) and not 0 <= ids.min() <= ids.max() < model.cfg.d_vocab:
            return f"{other} (an id is outside this model's vocabulary of {model.cfg.d_vocab})"
        if any(len(tokens) > model.cfg.n_ctx for tokens in sides):
            return f"have a prompt longer than this model's {model.cfg.n_ctx} positions"
        if model.tokenizer is None:
            return None
        vocabulary, texts = Vocabulary(model), [*self.clean, *self.corrupted]
        for token, text in self.answers.items():
            if text != (here := vocabulary.decode([token])):
                return f"{other} (answer {text!r} is token {token}, which is {here!r} here)"
        for text, side, here in zip(texts, sides, vocabulary.encode(texts), strict=True):
            if text and tuple(side.tolist()) != here:
                return f"{other} (this model's splits {text!r} differently)"
        return None


def build_pairs(
    name: str,
    metric: Metric,
    candidates: Iterable[Iterable[Example]],
    model: TransformerBridge,
    n: int | None = None,
    first_token: bool = False,
) -> PromptPairs:
    """The first `n` pairs (all, if None) among `candidates` that `model`'s tokenizer allows.

    Each candidate is a clean prompt's alternatives, of which the first usable one is taken. An
    answer is the token that it adds to both prompts; with `first_token`, the first of those.

    Raises:
        ValueError: for an n below 1 or above what there is, and for an id that is not a token.
    """
    wanted = None if n is None else whole("n", n, least=1)
    usable: dict[Any, Pair] = {}
    left_out: Counter[str] = Counter()
    reader = Reader(model, first_token, getattr(metric, "compares", False))
    for alternatives in candidates:
        if len(usable) == wanted:
            break
        pair = reader.first_usable(alternatives)
        if isinstance(pair, str):
            left_out[pair] += 1
            continue
        key = pair.clean, pair.corrupted, frozenset(pair.right), frozenset(pair.wrong)
        if key in usable:
            left_out["the pair occurs twice"] += 1
        else:
            usable[key] = pair
    _check_count(name, wanted, len(usable), left_out)
    pairs = list(usable.values())
    labels = sorted({label for pair in pairs for label in pair.right + pair.wrong})
    return PromptPairs(
        task=name,
        metric=metric,
        clean=[pair.example.clean for pair in pairs],
        corrupted=[pair.example.corrupted for pair in pairs],
        clean_tokens=[torch.tensor(pair.clean) for pair in pairs],
        corrupted_tokens=[torch.tensor(pair.corrupted) for pair in pairs],
        labels=_padded(pairs),
        trained=[pair.example.trained for pair in pairs],
        left_out=dict(left_out),
        answers={label: reader.vocabulary.decode([label]) for label in labels},
    )


def _padded(pairs: list[Pair]) -> Labels:
    """Every prompt's labels, up to the largest number with its first label and the sign 0."""
    ids = [torch.tensor(pair.right + pair.wrong) for pair in pairs]
    signs = [torch.tensor([1.0] * len(pair.right) + [-1.0] * len(pair.wrong)) for pair in pairs]
    tokens, padded = (pad_sequence(rows, batch_first=True) for rows in (ids, signs))
    return Labels(torch.where(padded == 0, tokens[:, :1], tokens), padded)


def _check_count(name: str, n: int | None, usable: int, left_out: Counter[str]) -> None:
    if usable == 0:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        raise ValueError(f"{name}: no prompt pair is usable with this model: {reasons or 'none'}.")
    if n is not None and usable < n:
        raise ValueError(
            f"{name}: n={n} prompts were asked for, but only {usable} exist for this model "
            f"and split ({sum(left_out.values())} left out): ask for at most {usable}."
        )
