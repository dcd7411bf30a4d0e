"""A small random Llama as a GGUF file, weight by weight as llama.cpp's converter writes it."""

import json
from pathlib import Path

import gguf
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>"]
TEXTS = ["The war lasted from the year 1741 to the year 1776.", "Mary gave a drink to John."] * 9
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def random_llama() -> LlamaForCausalLM:
    """2 layers, 4 heads that share 2 keys and values, every weight random, norms too."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(_tokenizer().get_vocab()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=0,
    )
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return network.eval()


def write(
    path: Path,
    network: LlamaForCausalLM,
    architecture: str = "llama",
    tokenizer: bool = True,
    pre: str = "smollm",
) -> Path:
    """The file, in float32; its tokenizer splits digits as SmolLM2's does, if `pre` says so."""
    writer, config = gguf.GGUFWriter(path, architecture), network.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer, pre)
    for name, weight in network.state_dict().items():
        writer.add_tensor(_name(name), _rotated(name, weight, config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokenizer() -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=300, special_tokens=SPECIAL)
    return tokenizer


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    tokenizer = _tokenizer()
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)


def _merges(tokenizer: ByteLevelBPETokenizer) -> list[str]:
    found = json.loads(tokenizer._tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in found]


def _name(name: str) -> str:
    """What llama.cpp calls this weight."""
    parts = name.removesuffix(".weight").removeprefix("model.layers.").split(".", 1)
    if parts[0].isdigit():
        return f"blk.{parts[0]}.{TENSORS[parts[1]]}.weight"
    return f"{TENSORS[name.removesuffix('.weight')]}.weight"


def _rotated(name: str, weight: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """llama.cpp rotates neighbouring dimensions of queries and keys, transformers two halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            halves = weight.reshape(count, 2, -1, weight.shape[-1])
            return halves.transpose(1, 2).reshape(weight.shape)
    return weight
