"""An example as tokens, or the reason why a tokenizer rules it out."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from transformer_lens.model_bridge import TransformerBridge

from analysis.tasks.example import Example
from analysis.tasks.vocabulary import Vocabulary


class UnusableError(Exception):
    """An example that this tokenizer rules out; the message is the reason."""


@dataclass(frozen=True)
class Pair:
    """An example with its tokens; `right` and `wrong` are the labels' tokens, each once."""

    example: Example
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def key(self) -> tuple:
        """What makes it the pair that it is."""
        return self.clean, self.corrupted, frozenset(self.right), frozenset(self.wrong)


class Reader:
    """Turns an example into tokens, or says why it can't."""

    def __init__(self, model: TransformerBridge, first_token: bool, compares: bool):
        self.vocabulary = Vocabulary(model)
        self.config, self.unknown = model.cfg, model.tokenizer.unk_token_id
        self.first_token, self.compares = first_token, compares
        self.tokens = cache(lambda text: self.vocabulary.encode([text])[0])
        # Corrupted prompts recur with the same labels: greater-than has a hundred labels.
        self.following = lru_cache(maxsize=2048)(self._following)

    def read(self, example: Example) -> Pair:
        clean, corrupted = self.tokens(example.clean), self.tokens(example.corrupted)
        if clean == corrupted:
            raise UnusableError("the clean and the corrupted prompt are the same tokens")
        for text, tokens in ((example.clean, clean), (example.corrupted, corrupted)):
            self._check_prompt(text, tokens)
        if len(clean) != len(corrupted):
            raise UnusableError(
                "the clean and the corrupted prompt differ in their number of tokens"
            )
        return Pair(example, clean, corrupted, *self._answers(example))

    def _check_prompt(self, text: str, tokens: tuple[int, ...]) -> None:
        front, rest = tokens[: self.vocabulary.front], tokens[self.vocabulary.front :]
        if front and text.lstrip().startswith(self.vocabulary.decode(front)):
            raise UnusableError(
                "a prompt begins with the beginning-of-text token, which is added to every "
                "prompt: leave it off"
            )
        if len(tokens) > self.config.n_ctx:
            positions = self.config.n_ctx
            raise UnusableError(f"a prompt is longer than the model's {positions} positions")
        if not rest or self.unknown in rest:
            raise UnusableError("a prompt is empty or has a word unknown to the tokenizer")
        if max(tokens) >= self.config.d_vocab:
            raise UnusableError("a prompt has a token that the model has no embedding for")

    def _answers(self, example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The right and the wrong labels' tokens, each once."""
        given = {*example.right, *example.wrong}
        found: dict[str | int, int] = {
            label: self._id(label) for label in given if not isinstance(label, str)
        }
        texts = tuple(sorted(label for label in given if isinstance(label, str)))
        for some in (texts[:1], texts[1:]):  # mostly all labels fail or none: then one is enough
            after = self.following(example.clean, some, example.completes)
            if after != self.following(example.corrupted, some, example.completes):
                raise UnusableError(
                    "a label is not the same token after the clean as after the corrupted prompt"
                )
            found.update(zip(some, after, strict=True))
        right, wrong = (
            tuple(dict.fromkeys(found[label] for label in side))
            for side in (example.right, example.wrong)
        )
        self._check_answers(right, wrong)
        return right, wrong

    def _check_answers(self, right: tuple[int, ...], wrong: tuple[int, ...]) -> None:
        if set(right) & set(wrong):
            raise UnusableError("a right and a wrong label are the same token")
        if not right + wrong:
            raise UnusableError("there are no labels")
        if self.compares and not (right and wrong):
            raise UnusableError("there are only right labels or only wrong ones: both are compared")

    def _following(self, prompt: str, labels: tuple[str, ...], completes: bool) -> list[int]:
        """The token that each label adds to the prompt."""
        start = self.tokens(prompt)
        wholes = self.vocabulary.encode(prompt + label for label in labels)
        tokens = []
        for label, whole in zip(labels, wholes, strict=True):
            added = list(whole[len(start) :])
            if whole[: len(start)] != start:
                tokens.append(self._completing(start, label, completes))
            elif not added or self.unknown in added:
                raise UnusableError("a label is empty or unknown to the tokenizer")
            elif len(added) > 1 and not self.first_token:
                raise UnusableError("a label is not a single token after its prompt")
            else:
                tokens.append(added[0])
        if max(tokens, default=0) >= self.config.d_vocab:
            raise UnusableError("a label is a token that the model has no logit for")
        return tokens

    def _completing(self, start: tuple[int, ...], label: str, completes: bool) -> int:
        """The token that makes the prompt's tokens read as the prompt with the label."""
        tokenizer, decode = self.vocabulary.tokenizer, self.vocabulary.decode
        alone = tokenizer(label, add_special_tokens=False)["input_ids"]
        for token in (*alone[-1:], tokenizer.convert_tokens_to_ids(label)):
            if completes and token is not None and decode([*start, token]) == decode(start) + label:
                return token
        raise UnusableError(
            "a label changes how the prompt's end is tokenised (is its leading space missing?)"
        )

    def _id(self, label: int) -> int:
        if label not in self.vocabulary.tokens:
            raise ValueError(
                f"Label {label!r} is not a token id: the model's tokenizer has "
                f"{len(self.vocabulary.tokens)} tokens."
            )
        if label == self.unknown:
            raise UnusableError("a label is empty or unknown to the tokenizer")
        return int(label)


def first_usable(alternatives: Iterable[Example], reader: Reader) -> tuple[Pair | None, str]:
    """The first alternative that can be read, else None and what was wrong with the last one."""
    reason = "there was no other prompt to corrupt it to"
    for example in alternatives:
        try:
            return reader.read(example), ""
        except UnusableError as unusable:
            reason = str(unusable)
    return None, reason
