"""Configs as they stand on the model hub."""

from __future__ import annotations

import importlib
import json
from typing import Any

from archc.diagnostics import Diagnostic, Sink
from archc.importers import convert
from archc.importers.source import parse_config
from tests.importers.deepseek import (
    DEEPSEEK_V2,
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    DEEPSEEK_V3_2,
    DEEPSEEK_V4_FLASH,
    DEEPSEEK_V4_PRO,
    GLM_5,
    KIMI_K2,
)


def llama_3_1(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    """The `config.json` of a Llama 3.1."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": 128256,
    }


LLAMA_3_1 = {
    "llama_3_1_8b": llama_3_1(4096, 14336, 32, 32),
    "llama_3_1_70b": llama_3_1(8192, 28672, 80, 64),
    "llama_3_1_405b": llama_3_1(16384, 53248, 126, 128),
}

MIXTRAL_8X7B: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}

QWEN3_235B_A22B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 94,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 1536,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 94,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

OLMOE_1B_7B: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "model_type": "olmoe",
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "output_router_logits": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 50304,
}


def gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    """The `config.json` of a gpt-oss."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "num_local_experts": experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": 201088,
    }


MIXTURES = {
    "mixtral_8x7b": MIXTRAL_8X7B,
    "qwen3_235b_a22b": QWEN3_235B_A22B,
    "olmoe_1b_7b": OLMOE_1B_7B,
    "gpt_oss_20b": gpt_oss(24, 32),
    "gpt_oss_120b": gpt_oss(36, 128),
    "deepseek_v2_lite": DEEPSEEK_V2_LITE,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v3_2": DEEPSEEK_V3_2,
    "glm_5": GLM_5,
    "kimi_k2": KIMI_K2,
    "deepseek_v4_flash": DEEPSEEK_V4_FLASH,
    "deepseek_v4_pro": DEEPSEEK_V4_PRO,
}

PUBLISHED = LLAMA_3_1 | MIXTURES

PARAMETERS = {
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_1_405b": 405_853_388_800,
    "mixtral_8x7b": 46_702_792_704,
    "qwen3_235b_a22b": 235_093_634_560,
    "olmoe_1b_7b": 6_919_161_856,
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "deepseek_v2_lite": 15_706_484_224,
    "deepseek_v2": 235_741_434_880,
    "deepseek_v3": 671_026_404_352,
    "deepseek_v3_2": 671_877_929_216,
    "glm_5": 743_911_199_232,
    "kimi_k2": 1_026_408_209_408,
    "deepseek_v4_flash": 284_332_230_231,
    "deepseek_v4_pro": 1_572_997_179_491,
}
"""Counted on transformers' models on the meta device."""

CLASSES = {
    "llama": "Llama",
    "qwen3": "Qwen3",
    "olmo2": "Olmo2",
    "mixtral": "Mixtral",
    "qwen2_moe": "Qwen2Moe",
    "qwen3_moe": "Qwen3Moe",
    "olmoe": "Olmoe",
    "deepseek_v2": "DeepseekV2",
    "deepseek_v3": "DeepseekV3",
    "kimi_k2": "DeepseekV3",
    "deepseek_v32": "DeepseekV32",
    "glm_moe_dsa": "GlmMoeDsa",
    "gpt_oss": "GptOss",
    "deepseek_v4": "DeepseekV4",
}
"""What the classes of each type of model begin with in transformers."""

_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
_LATENT = _EXPERTS | {
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
}
_PICKED = _LATENT | {"n_group": 4, "topk_group": 2, "index_n_heads": 9, "index_head_dim": 6, "index_topk": 5}
_SMALL: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 12},
    "qwen3_moe": _EXPERTS | {"num_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT | {"n_group": 4, "topk_group": 2},
    "kimi_k2": _LATENT | {"n_group": 1, "topk_group": 1},
    "deepseek_v32": _PICKED,
    "glm_moe_dsa": _PICKED,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "head_dim": 12,
        "qk_rope_head_dim": 4,
        "q_lora_rank": 10,
        "o_groups": 2,
        "o_lora_rank": 6,
        "sliding_window": 5,
        "index_n_heads": 3,
        "index_head_dim": 6,
        "index_topk": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "num_hash_layers": 1,
        "compress_ratios": [0, 4, 128, 0],
        "compress_rate_hca": 8,
    },
}


def class_of(model_type: str, kind: str = "Config") -> Any:
    """A class of transformers for a type of model: its config, or a `ForCausalLM`."""
    home = {"kimi_k2": "deepseek_v3"}.get(model_type, model_type)
    return getattr(importlib.import_module(f"transformers.models.{home}"), CLASSES[model_type] + kind)


def converted(config: dict[str, Any], **options: Any) -> tuple[str, tuple[Diagnostic, ...]]:
    """The import of a config as it comes from a file: every finding at its key."""
    file = parse_config(json.dumps(config, indent=2), "config.json", Sink())
    assert file is not None
    return convert(file.values, "model_x", spans=file.spans, **options)


def small(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config that says only what it must, and ``changes``."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    return {"model_type": model_type, **sizes, **heads} | _SMALL.get(model_type, {}) | changes
