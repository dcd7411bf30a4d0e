"""Tokenizers of other kinds than GPT-2's, learnt from the tasks' words, with random models."""

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import detect_tokenizer_bos_eos
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from analysis import load_model
from analysis.tasks.task import read_words
from analysis.testbed.corpus import sentence

SPECIAL = ["<unk>", "<s>", "</s>"]
YEARS = pre_tokenizers.Split(Regex(r"\d{2}"), behavior="isolated")  # as GPT-2 splits them
POSITIONS = 64
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@cache
def texts() -> list[str]:
    """Training sentences, with all of the tasks' names and nouns among them, held out or not."""
    random = Random(0)
    words = [*chain(*read_words("ioi")["names"].values())]
    words += chain(*read_words("capital-country")["capitals"].items())
    words += chain(*read_words("gender-bias")["professions"].values())
    words += [f"{number:02}" for number in range(100)]
    return [sentence(random) for _ in range(2000)] + [f"of {word} to {word}" for word in words * 20]


def trained(pieces: pre_tokenizers.PreTokenizer, letters: Iterable[str] = ()) -> Tokenizer:
    """A BPE of these pieces, which knows these letters and those of the texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pieces
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        special_tokens=SPECIAL,
        initial_alphabet=list(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def with_ends(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """What stands in front of every text and behind it."""
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=ends)
    return tokenizer


def metaspace(scheme: str, template: str) -> Tokenizer:
    """Mistral's, TinyLlama's: a space in front of a text, `always` after special tokens too."""
    space = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = trained(pre_tokenizers.Sequence([space, YEARS]))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return with_ends(tokenizer, template)


def prepended() -> Tokenizer:
    """Llama 1's and 2's: spaces are letters, and bytes stand for what is unknown."""
    learnt = json.loads(metaspace("always", "$A").to_str())["model"]
    pieces = [*SPECIAL, *BYTES, *(piece for piece in learnt["vocab"] if piece not in SPECIAL)]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            [tuple(merge) for merge in learnt["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = YEARS
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return with_ends(tokenizer, "<s> $A")


def unigram() -> Tokenizer:
    """Sentencepiece's other model, of whole words; what it does not know is one token."""
    pieces = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), YEARS])
    found = Counter(piece for text in texts() for piece, _ in pieces.pre_tokenize_str(text))
    scored = [(piece, -20 / (1 + count)) for piece, count in found.items()]
    tokenizer = Tokenizer(models.Unigram([*((piece, 0.0) for piece in SPECIAL), *scored], unk_id=0))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.Metaspace()
    return with_ends(tokenizer, "<s> $A")


def whole_years(space: str) -> Tokenizer:
    """One token for 1776, as GPT-2 has for some years, and two for 1742."""
    words = read_words("greater-than")
    written = words["template"].split() + words["nouns"] + words["centuries"]
    written += ["76", *(f"{century}76" for century in words["centuries"])]
    pieces = ["The", *(f"{space}{word}" for word in written if "{" not in str(word))]
    pieces += [f"{year:02}" for year in range(100)]
    pieces = dict.fromkeys([space + "The", *pieces])
    scored = [*((piece, 0.0) for piece in SPECIAL), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.decoder = decoders.Fuse()
    if space != " ":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(space)
        tokenizer.decoder = decoders.Metaspace(space)
    return with_ends(tokenizer, "<s> $A")


def single_digits() -> Tokenizer:
    """Llama's digits: a year is four tokens."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = trained(pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), digits]))
    tokenizer.decoder = decoders.Metaspace()
    return with_ends(tokenizer, "<s> $A")


def byte_level(template: str) -> Tokenizer:
    """GPT-2's kind, with other ends."""
    pieces = pre_tokenizers.Sequence([YEARS, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer = trained(pieces, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    return with_ends(tokenizer, template)


# How a tokenizer treats a text's beginning and end, and whether its model's architecture wants a
# beginning-of-text token in front (Llama's does, NeoX's doesn't).
KINDS = {
    "a space in front of the first word": (lambda: metaspace("first", "<s> $A"), "llama"),
    "the same, and nothing before it": (lambda: metaspace("first", "$A"), "llama"),
    "a space in front of every piece": (lambda: metaspace("always", "<s> $A"), "llama"),
    "a space that is a letter": (prepended, "llama"),
    "a space in front of unigrams": (unigram, "llama"),
    "an end": (lambda: byte_level("$A </s>"), "llama"),
    "both ends": (lambda: byte_level("<s> $A </s>"), "llama"),
    "both ends and none wanted": (lambda: byte_level("<s> $A </s>"), "neox"),
    "no ends": (lambda: byte_level("$A"), "llama"),
    "no ends and none wanted": (lambda: byte_level("$A"), "neox"),
}
NETWORKS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
}


def random_model(
    directory: Path, fast: Tokenizer, architecture: str = "llama", spare: int = 0
) -> TransformerBridge:
    """A model that has this very tokenizer, and rows in its embedding that are no tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    configuration, network = NETWORKS[architecture]
    torch.manual_seed(0)
    network(
        configuration(
            vocab_size=len(tokenizer) + spare,
            hidden_size=16,
            intermediate_size=24,  # the bridge takes square weights for transposed ones
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
        )
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    model = load_model(directory)
    # Loading puts <s> in front of what has one; other classes of tokenizers keep their ends.
    model.tokenizer.backend_tokenizer.post_processor = fast.post_processor
    ends = detect_tokenizer_bos_eos(model.tokenizer)
    model.cfg.tokenizer_prepends_bos, model.cfg.tokenizer_appends_eos = ends
    text = "to the year 1742"
    assert model.tokenizer(text)["input_ids"] == fast.encode(text).ids
    return model
