"""A model's tokenizer, as a data set needs it: whole texts in, tokens out, many at a time."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from transformer_lens.model_bridge import TransformerBridge


class Vocabulary:
    """Texts to tokens as `model.to_tokens(text, truncate=False)` has them, and back.

    `to_tokens` pads what it is given together and takes a third of a millisecond alone; a prompt
    with a hundred labels is a hundred texts.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.tasks.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(load_model("testbed"))
        >>> prompt, whole = vocabulary.encode(["Mary and John", "Mary and John were"])
        >>> whole[: len(prompt)] == prompt, vocabulary.decode(whole[len(prompt) :])
        (True, ' were')

    Raises:
        ValueError: for a model without a tokenizer.
    """

    def __init__(self, model: TransformerBridge):
        if getattr(model, "tokenizer", None) is None:
            raise ValueError(
                "The model has no tokenizer: load a model that has one with load_model."
            )
        self.tokenizer, self.config = model.tokenizer, model.cfg
        bos = self.tokenizer.bos_token
        wanted = getattr(self.config, "default_prepend_bos", True)
        added = getattr(self.config, "tokenizer_prepends_bos", True)
        self._written = bos if wanted and not added and self._is_token(bos) else ""
        self._dropped = 1 if added and not wanted and bos is not None else 0
        self.front = 1 if self._written or (wanted and added) else 0
        """How many tokens stand in front of every text."""

    def encode(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        """Each text's tokens."""
        written = [self._written + text for text in texts]
        if not written:
            return []
        rows = self.tokenizer(written, return_attention_mask=False, verbose=False)["input_ids"]
        if getattr(self.config, "tokenizer_appends_eos", False):
            rows = [self._without_end(row) for row in rows]
        return [tuple(row[self._dropped :]) for row in rows]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that these tokens are."""
        return self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    @cached_property
    def tokens(self) -> frozenset[int]:
        """The ids that are tokens; a padded embedding has more rows than these."""
        ids = self.tokenizer.get_vocab().values()
        return frozenset(token for token in ids if token < self.config.d_vocab)

    def _is_token(self, text: str | None) -> bool:
        if text is None:
            return False
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) == 1

    def _without_end(self, row: list[int]) -> list[int]:
        """Without the end-of-text tokens that some tokenizers put behind every text."""
        end = len(row)
        while end > 1 and row[end - 1] == self.tokenizer.eos_token_id:
            end -= 1
        return row[:end]
