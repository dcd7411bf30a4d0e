"""Small random models of many architectures, and their scores by bare hooks.

The hooks are PyTorch's own, on transformers' own model: a head is a slice of what enters the
attention's output projection, a neuron a column of what enters the MLP's.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from analysis import PromptPairs, paths

HEADS, LAYERS, VOCABULARY = 4, 2, 3328

Site = tuple[str, int]
Component = tuple[str, int, int]
Edits = Mapping[Site, Callable[[Tensor], Tensor]]
NONE: Edits = {}


class Row(NamedTuple):
    """A configuration, and where in a layer heads and neurons enter their output projection."""

    config: str
    settings: dict
    heads: str = "self_attn.o_proj"
    neurons: str = "mlp.down_proj"


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.3}
SIZES = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": 32, "n_positions": 64}
MPT = {"d_model": 32, "n_layers": LAYERS, "n_heads": HEADS, "expansion_ratio": 2}
NEO = {"hidden_size": 32, "num_layers": LAYERS, "num_heads": HEADS, "max_position_embeddings": 64}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "init_std": 0.3,
}
XGLM = {
    "d_model": 32,
    "ffn_dim": 48,
    "num_layers": LAYERS,
    "attention_heads": HEADS,
    "max_position_embeddings": 64,
    "init_std": 0.3,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
LATENT = {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
}
HALF_LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
SLIDING = {"sliding_window": 3}  # shorter than the prompts
HALF_SLIDING = SLIDING | {"layer_types": ["sliding_attention", "full_attention"]}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def grouped(config: str, **settings) -> Row:
    """Two heads share their keys and values, as in Llama."""
    return Row(config, SMALL | {"num_key_value_heads": 2} | settings)


def wide(config: str, **settings) -> Row:
    """The same with the width of a head in the configuration."""
    return grouped(config, head_dim=8, **settings)


def gpt2(config: str = "GPT2", **settings) -> Row:
    return Row(config, COMMON | SIZES | settings, "attn.c_proj", "mlp.c_proj")


def gptj(config: str, **settings) -> Row:
    return Row(config, COMMON | SIZES | settings, "attn.out_proj", "mlp.fc_out")


def neox(**settings) -> Row:
    return Row("GPTNeoX", SMALL | settings, "attention.dense", "mlp.dense_4h_to_h")


def neo(*attention: str) -> Row:
    settings = {"attention_types": [[list(attention), LAYERS // len(attention)]], "window_size": 3}
    return Row("GPTNeo", COMMON | NEO | settings, "attn.attention.out_proj", "mlp.c_proj")


def falcon(**settings) -> Row:
    return Row("Falcon", SMALL | settings, "self_attention.dense", "mlp.dense_4h_to_h")


def bloom(**settings) -> Row:
    sizes = {"hidden_size": 32, "n_layer": LAYERS, "n_head": HEADS}
    return Row("Bloom", COMMON | sizes | settings, "self_attention.dense", "mlp.dense_4h_to_h")


def opt(**settings) -> Row:
    return Row("OPT", COMMON | OPT | settings, "self_attn.out_proj", "fc2")


def mpt(**attention) -> Row:
    settings = {"attn_config": attention}
    return Row("Mpt", COMMON | MPT | settings, "attn.out_proj", "ffn.down_proj")


def gemma4(**settings) -> Row:
    per_layer = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
    return wide("Gemma4Text", **per_layer | settings)


def phi(**settings) -> Row:
    return Row("Phi", SMALL | settings, "self_attn.dense", "mlp.fc2")


SCORED = {
    "GPT-2": gpt2(),
    "GPT-2, gelu_fast": gpt2(activation_function="gelu_fast"),
    "GPT-2, silu": gpt2(activation_function="silu"),
    "GPT-2, quick_gelu": gpt2(activation_function="quick_gelu"),
    "GPT-2, epsilon of 0.3": gpt2(layer_norm_epsilon=0.3),
    "GPT-2, five neurons": gpt2(n_inner=5),
    "GPT-2, untied": gpt2(tie_word_embeddings=False),
    "GPT-2, attention scaled by layer": gpt2(scale_attn_by_inverse_layer_idx=True),
    "GPT-2, attention upcast": gpt2(reorder_and_upcast_attn=True),
    "GPT": gpt2("OpenAIGPT"),
    "GPT BigCode": gpt2("GPTBigCode"),
    "GPT-J": gptj("GPTJ", rotary_dim=4),
    "CodeGen": gptj("CodeGen", rotary_dim=4),
    "GPT-Neo": neo("global", "local"),
    "GPT-Neo, global": neo("global"),
    "Pythia": neox(),
    "Pythia, MLP after attention": neox(use_parallel_residual=False),
    "Pythia, tied, all rotary": neox(tie_word_embeddings=True, rotary_pct=1.0),
    "OPT": opt(),
    "OPT, no biases": opt(enable_bias=False),
    "OPT, plain norms": opt(layer_norm_elementwise_affine=False),
    "OPT 350m": opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "XGLM": Row("XGLM", COMMON | XGLM, "self_attn.out_proj", "fc2"),
    "BLOOM": bloom(),
    "MPT": mpt(),
    "MPT, clipped": mpt(clip_qkv=0.5),
    "MPT, scale": mpt(softmax_scale=0.1),
    "Falcon 7B": falcon(),
    "Falcon, own keys": falcon(multi_query=False),
    "Falcon, ALiBi": falcon(alibi=True, multi_query=False),
    "Falcon, MLP after attention": falcon(parallel_attn=False),
    "Falcon RW": falcon(alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "Phi": phi(),
    "Phi 3": grouped("Phi3"),
    "Phi 3, sliding": grouped("Phi3", **SLIDING),
    "Phi 3, part rotary": grouped("Phi3", partial_rotary_factor=0.5),
    "Llama": grouped("Llama"),
    "Llama, biases": grouped("Llama", attention_bias=True, mlp_bias=True),
    "Llama, heads of 12": grouped("Llama", head_dim=12),
    "Llama, a window unused": grouped("Llama", sliding_window=3),
    "Llama, tied": grouped("Llama", num_key_value_heads=HEADS, tie_word_embeddings=True),
    "Llama, one key": grouped("Llama", num_key_value_heads=1, hidden_act="gelu"),
    "Llama 3": grouped("Llama", rope_parameters=LLAMA3),
    "Mistral": grouped("Mistral", sliding_window=None),
    "Mistral, sliding": grouped("Mistral", **SLIDING),
    "Ministral": grouped("Ministral3"),
    "Qwen 2": grouped("Qwen2"),
    "Qwen 2, sliding": grouped("Qwen2", use_sliding_window=True, max_window_layers=1, **SLIDING),
    "Qwen 3": wide("Qwen3"),
    "Qwen 3, wide heads": grouped("Qwen3", head_dim=16, attention_bias=True),
    "Gemma": wide("Gemma"),
    "Gemma, one key": grouped("Gemma", head_dim=16, num_key_value_heads=1),
    "Gemma 2": wide(
        "Gemma2",
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=5,
        **SLIDING,
    ),
    "Gemma 3": wide("Gemma3Text", **HALF_SLIDING),
    "Gemma 4": gemma4(**HALF_SLIDING),
    "StableLM": grouped("StableLm"),
    "StableLM, biases": grouped("StableLm", use_qkv_bias=True, partial_rotary_factor=1.0),
    "StableLM 2 12B": grouped("StableLm", use_parallel_residual=True, qk_layernorm=True),
    "OLMo": grouped("Olmo"),
    "OLMo, clipped": grouped("Olmo", clip_qkv=0.5),
    "OLMo 2": grouped("Olmo2"),
    "OLMo 3": grouped("Olmo3", **HALF_SLIDING),
    "Cohere": grouped("Cohere", use_qk_norm=True),
    "Cohere 2": grouped("Cohere2", **HALF_SLIDING),
    "Granite": grouped(
        "Granite",
        embedding_multiplier=3.0,
        logits_scaling=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
    ),
    "StarCoder 2": grouped("Starcoder2")._replace(neurons="mlp.c_proj"),
    "Nemotron": grouped("Nemotron"),
    "SmolLM 3": grouped("SmolLM3", no_rope_layers=[1, 0]),
    "Arcee": grouped("Arcee"),
    "Apertus": grouped("Apertus"),
    "Seed-OSS": wide("SeedOss"),
    "GLM": wide("Glm"),
    "GLM-4": wide("Glm4"),
    "ERNIE 4.5": wide("Ernie4_5"),
    "Hunyuan": wide("HunYuanDenseV1"),
    "Jais 2": grouped("Jais2"),
    "EXAONE 4": grouped("Exaone4", sliding_window_pattern=2, **SLIDING),
    "NanoChat": grouped("NanoChat")._replace(neurons="mlp.fc2"),
    "Youtu, latent attention": grouped("Youtu", pad_token_id=None, **LATENT),
    "ModernBERT decoder": Row("ModernBertDecoder", SMALL, "attn.Wo", "mlp.Wo"),
}

ONLY_HEADS = {
    "Gemma 4, layers of unequal width": gemma4(
        use_double_wide_mlp=True, num_kv_shared_layers=1, layer_types=["full_attention"] * 2
    ),
    "Mixtral": grouped("Mixtral", **EXPERTS),
    "OLMoE": grouped("Olmoe", **EXPERTS),
    "Qwen 3 MoE, one layer dense": wide("Qwen3Moe", mlp_only_layers=[0], **EXPERTS),
    "Granite MoE": grouped("GraniteMoe", **EXPERTS),
    "Llama 4": wide("Llama4Text", moe_layers=[1], intermediate_size_mlp=48, **EXPERTS),
    "AFMoE, gated attention": wide("Afmoe", num_dense_layers=1, **EXPERTS),
    "DeepSeek 3, latent attention": grouped(
        "DeepseekV3", n_routed_experts=4, n_group=1, topk_group=1, **EXPERTS | LATENT
    ),
}

ONLY_NEURONS = {
    "LFM 2": grouped("Lfm2", layer_types=["conv", "full_attention"])._replace(
        neurons="feed_forward.w2"
    ),
    "Qwen 3.5": wide("Qwen3_5Text", **HALF_LINEAR),
}

NOT_SCORED = {
    "Mamba": Row("Mamba", SMALL | {"state_size": 4}),
    "RWKV": Row("Rwkv", SMALL | {"attention_hidden_size": 32, "context_length": 64}),
    "Jamba": grouped(
        "Jamba",
        num_experts=2,
        attn_layer_offset=1,
        attn_layer_period=2,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
    "JetMoE": grouped("JetMoe", kv_channels=8, **EXPERTS),
    "BERT, reading both ways": Row("Bert", SMALL | {"architectures": ["BertLMHeadModel"]}),
}

# TransformerLens's bridge computes something else than transformers, or doesn't run them.
NOT_LOADED = {
    "GPT-2, attention unscaled": gpt2(scale_attn_weights=False),
    "GPT BigCode, own keys": gpt2("GPTBigCode", multi_query=False),
    "Pythia, no attention biases": neox(attention_bias=False),
    "OPT, norms after": opt(do_layer_norm_before=False),
    "OPT, narrow embedding": opt(word_embed_proj_dim=16),
    "BLOOM, residual after norm": bloom(apply_residual_connection_post_layernorm=True),
    "Falcon 40B": falcon(new_decoder_architecture=True, num_kv_heads=2),
    "Phi, norms of queries": phi(qk_layernorm=True),
    "BitNet": grouped("BitNet"),
    "VaultGemma": wide("VaultGemma"),
    "GPT-OSS": wide("GptOss", **EXPERTS | SLIDING),
}


def network_of(row: Row, directory: Path) -> PreTrainedModel:
    """Transformers' model with every weight random, norms and biases too, and saved."""
    config = getattr(transformers, f"{row.config}Config")(**row.settings)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * (0.25 if weight.ndim > 1 else 0.1))
    network.save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(paths.MODELS / "testbed")).save_pretrained(directory)
    return network


class BareHooks:
    """Noising, of pairs of one length."""

    def __init__(self, network: PreTrainedModel, row: Row, pairs: PromptPairs, heads: int = HEADS):
        self.network, self.pairs, self.heads = network, pairs, heads
        self.base, self.source = (
            torch.stack(side) for side in (pairs.clean_tokens, pairs.corrupted_tokens)
        )
        ends = {"heads": f".{row.heads}", "neurons": f".{row.neurons}"}
        self.modules = {
            kind: [module for path, module in network.named_modules() if path.endswith(end)]
            for kind, end in ends.items()
        }

    @torch.no_grad()
    def scale(self) -> float:
        """The largest |metric| of any run."""
        return max(self.metric(tokens).abs().max().item() for tokens in (self.base, self.source))

    @torch.no_grad()
    def patched(self, kind: str, layer: int, component: int) -> Tensor:
        """One component's effect on each prompt."""
        return self.ablated([(kind, layer, component)]) - self.metric(self.base)

    @torch.no_grad()
    def ablated(self, components: list[Component]) -> Tensor:
        """The base run's metric with all of these components at their source activations."""
        values = self.entering_all({component[:2] for component in components}, self.source)
        return self.metric(self.base, self.put_in(values, components))

    @torch.no_grad()
    def mediated(self, patched: Component, mediator: Component) -> list[Tensor]:
        """The total, direct and indirect effect of a patched component by way of another."""
        before, site = self.metric(self.base), mediator[:2]
        source = self.put_in({patched[:2]: self.entering(patched[:2], self.source)}, [patched])
        held = self.put_in({site: self.entering(site, self.base)}, [mediator])
        then = self.put_in({site: self.entering(site, self.base, source)}, [mediator])
        runs = source, {**source, **held}, then
        return [self.metric(self.base, edits) - before for edits in runs]

    def integrated(self, kind: str, layer: int, steps: int) -> Tensor:
        """Layer-joint attributions by the Gauss-Legendre rule, prompt by component."""
        site = kind, layer
        base, source = (self.entering(site, tokens) for tokens in (self.base, self.source))
        total = torch.zeros_like(base)
        for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
            point = (base + (node + 1) / 2 * (source - base)).requires_grad_()
            metric = self.metric(self.base, {site: lambda _, point=point: point})
            total += weight / 2 * torch.autograd.grad(metric.sum(), point)[0]
        return self._by_component(kind, total * (source - base)).sum(dim=(1, 3))

    def put_in(self, values: Mapping[Site, Tensor], components: list[Component]) -> Edits:
        """Edits that put in these components' values, of any layers and kinds."""

        def edit(activations: Tensor, site: Site) -> Tensor:
            changed, kind = activations.clone(), site[0]
            for component in components:
                if component[:2] == site:
                    there = self._by_component(kind, values[site])[:, :, component[2]]
                    self._by_component(kind, changed)[:, :, component[2]] = there
            return changed

        return {site: partial(edit, site=site) for site in values}

    def entering(self, site: Site, tokens: Tensor, edits: Edits = NONE) -> Tensor:
        """What enters a site's output projection; nothing changes what it is given."""
        return self.entering_all([site], tokens, edits)[site]

    @torch.no_grad()
    def entering_all(
        self, sites: Iterable[Site], tokens: Tensor, edits: Edits = NONE
    ) -> dict[Site, Tensor]:
        """The same of several sites, in one run."""
        seen: dict[Site, Tensor] = {}

        def keep(activations: Tensor, site: Site) -> Tensor:
            seen[site] = activations.clone()
            return activations

        self.metric(tokens, {**edits, **{site: partial(keep, site=site) for site in sites}})
        return seen

    def metric(self, tokens: Tensor, edits: Edits = NONE) -> Tensor:
        """Each prompt's metric, with what enters some sites' output projections edited."""
        with ExitStack() as hooks:
            for (kind, layer), edit in edits.items():
                hook = self.modules[kind][layer].register_forward_pre_hook(
                    lambda _, inputs, edit=edit: (edit(inputs[0]),)
                )
                hooks.callback(hook.remove)
            logits = self.network(tokens).logits[:, -1]
        return self.pairs.metric(logits, self.pairs.labels)

    def _by_component(self, kind: str, activations: Tensor) -> Tensor:
        """(prompt, position, component, size), a view."""
        shape = (self.heads, -1) if kind == "heads" else (-1, 1)
        return activations.view(*self.base.shape, *shape)
