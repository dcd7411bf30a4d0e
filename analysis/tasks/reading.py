"""Texts as tokens: of a whole data set at once, and of an example that a tokenizer allows."""

from collections.abc import Iterable, Sequence
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple

from transformer_lens.model_bridge import TransformerBridge

from analysis.tasks.task import Example


class Vocabulary:
    """Texts to tokens as `model.to_tokens(text, truncate=False)` has them, and back.

    `to_tokens` pads what it is given together and takes a third of a millisecond alone; a prompt
    with a hundred labels is a hundred texts. `front` tokens stand in front of every text.
    """

    def __init__(self, model: TransformerBridge):
        if getattr(model, "tokenizer", None) is None:
            raise ValueError("The model has no tokenizer: load one that has with load_model.")
        self.tokenizer, self.cfg = model.tokenizer, model.cfg
        bos = self.tokenizer.bos_token
        wanted = getattr(self.cfg, "default_prepend_bos", True)
        added = getattr(self.cfg, "tokenizer_prepends_bos", True)
        alone = bos and self.tokenizer(bos, add_special_tokens=False)["input_ids"]
        self._written = bos if wanted and not added and alone and len(alone) == 1 else ""
        self._dropped = 1 if added and not wanted and bos is not None else 0
        self.front = 1 if self._written or (wanted and added) else 0

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Each text's tokens."""
        written = [self._written + text for text in texts]
        if not written:
            return []
        rows = self.tokenizer(written, return_attention_mask=False, verbose=False)["input_ids"]
        if getattr(self.cfg, "tokenizer_appends_eos", False):
            for row in rows:
                while len(row) > 1 and row[-1] == self.tokenizer.eos_token_id:
                    row.pop()
        return [tuple(row[self._dropped :]) for row in rows]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that these tokens are."""
        return self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    @cached_property
    def tokens(self) -> frozenset[int]:
        """The ids that are tokens; a padded embedding has more rows than these."""
        ids = self.tokenizer.get_vocab().values()
        return frozenset(token for token in ids if token < self.cfg.d_vocab)


class UnusableError(Exception):
    """An example that this tokenizer rules out; the message is the reason."""


class Pair(NamedTuple):
    """An example with its tokens; `right` and `wrong` are the labels' tokens, each once."""

    example: Example
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]


class Reader:
    """Turns an example into tokens, or says why it can't."""

    def __init__(self, model: TransformerBridge, first_token: bool, compares: bool):
        self.vocabulary = Vocabulary(model)
        self.cfg, self.unknown = model.cfg, model.tokenizer.unk_token_id
        self.first_token, self.compares = first_token, compares
        self.tokens = cache(lambda text: self.vocabulary.encode([text])[0])
        # Corrupted prompts recur with the same labels: greater-than has a hundred labels.
        self.following = lru_cache(maxsize=2048)(self._following)

    def first_usable(self, alternatives: Iterable[Example]) -> Pair | str:
        """The first alternative that can be read, or what was wrong with the last one."""
        reason = "there was no other prompt to corrupt it to"
        for example in alternatives:
            try:
                return self.read(example)
            except UnusableError as unusable:
                reason = str(unusable)
        return reason

    def read(self, example: Example) -> Pair:
        """The example's tokens, or an UnusableError."""
        clean, corrupted = self.tokens(example.clean), self.tokens(example.corrupted)
        if clean == corrupted:
            raise UnusableError("the clean and the corrupted prompt are the same tokens")
        self._check_prompt(example.clean, clean)
        self._check_prompt(example.corrupted, corrupted)
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
        if len(tokens) > self.cfg.n_ctx:
            raise UnusableError(f"a prompt is longer than the model's {self.cfg.n_ctx} positions")
        if not rest or self.unknown in rest:
            raise UnusableError("a prompt is empty or has a word unknown to the tokenizer")
        if max(tokens) >= self.cfg.d_vocab:
            raise UnusableError("a prompt has a token that the model has no embedding for")

    def _answers(self, example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The right and the wrong labels' tokens, each once."""
        given: set[Any] = {*example.right, *example.wrong}
        texts = tuple(sorted(label for label in given if isinstance(label, str)))
        found = {label: self._id(label) for label in given.difference(texts)}
        for some in (texts[:1], texts[1:]):  # mostly all labels fail or none: then one is enough
            after = self.following(example.clean, some, example.completes)
            if after != self.following(example.corrupted, some, example.completes):
                raise UnusableError(
                    "a label is not the same token after the clean as after the corrupted prompt"
                )
            found |= zip(some, after, strict=True)
        right = tuple(dict.fromkeys(found[label] for label in example.right))
        wrong = tuple(dict.fromkeys(found[label] for label in example.wrong))
        if set(right) & set(wrong):
            raise UnusableError("a right and a wrong label are the same token")
        if not right + wrong:
            raise UnusableError("there are no labels")
        if self.compares and not (right and wrong):
            raise UnusableError("there are only right labels or only wrong ones: both are compared")
        return right, wrong

    def _id(self, label: int) -> int:
        size = len(self.vocabulary.tokens)
        if label not in self.vocabulary.tokens:
            raise ValueError(f"Label {label!r} is not a token id: the tokenizer has {size} tokens.")
        if label == self.unknown:
            raise UnusableError("a label is empty or unknown to the tokenizer")
        return int(label)

    def _following(self, prompt: str, labels: tuple[str, ...], completes: bool) -> list[int]:
        """The token that each label adds to the prompt."""
        start = self.tokens(prompt)
        wholes = self.vocabulary.encode(prompt + label for label in labels)
        tokens = []
        for label, whole in zip(labels, wholes, strict=True):
            added = list(whole[len(start) :])
            if whole[: len(start)] != start:
                added = [self._completing(start, label, completes)]
            elif not added or self.unknown in added:
                raise UnusableError("a label is empty or unknown to the tokenizer")
            elif len(added) > 1 and not self.first_token:
                raise UnusableError("a label is not a single token after its prompt")
            tokens.append(added[0])
        if max(tokens, default=0) >= self.cfg.d_vocab:
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
