"""Configs of DeepSeek, and of models made like theirs, as they stand on the model hub."""

from __future__ import annotations

from typing import Any

FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def deepseek(model_type: str, **changes: Any) -> dict[str, Any]:
    """What the `config.json` of all DeepSeeks since V2 have in common, and ``changes``."""
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "kv_lora_rank": 512,
        "model_type": model_type,
        "moe_layer_freq": 1,
        "pretraining_tp": 1,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000,
        "seq_aux": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "v_head_dim": 128,
    } | changes


def yarn(factor: float, mscale: float, beta_fast: float = 32) -> dict[str, Any]:
    """The rotary positions of a DeepSeek."""
    scales = {"mscale": mscale, "mscale_all_dim": mscale}
    ramp = {"beta_fast": beta_fast, "beta_slow": 1, "original_max_position_embeddings": 4096}
    return {"factor": factor, "type": "yarn"} | scales | ramp


DEEPSEEK_V2_LITE = deepseek(
    "deepseek_v2",
    architectures=["DeepseekV2ForCausalLM"],
    first_k_dense_replace=1,
    hidden_size=2048,
    intermediate_size=10944,
    max_position_embeddings=163840,
    moe_intermediate_size=1408,
    n_group=1,
    n_routed_experts=64,
    n_shared_experts=2,
    norm_topk_prob=False,
    num_attention_heads=16,
    num_experts_per_tok=6,
    num_hidden_layers=27,
    num_key_value_heads=16,
    q_lora_rank=None,
    rope_scaling=yarn(40, 0.707),
    routed_scaling_factor=1.0,
    scoring_func="softmax",
    topk_group=1,
    topk_method="greedy",
    vocab_size=102400,
)

DEEPSEEK_V2 = DEEPSEEK_V2_LITE | {
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}

DEEPSEEK_V3 = deepseek(
    "deepseek_v3",
    architectures=["DeepseekV3ForCausalLM"],
    first_k_dense_replace=3,
    hidden_size=7168,
    intermediate_size=18432,
    max_position_embeddings=163840,
    moe_intermediate_size=2048,
    n_group=8,
    n_routed_experts=256,
    n_shared_experts=1,
    norm_topk_prob=True,
    num_attention_heads=128,
    num_experts_per_tok=8,
    num_hidden_layers=61,
    num_key_value_heads=128,
    num_nextn_predict_layers=1,
    q_lora_rank=1536,
    quantization_config=FP8,
    rope_scaling=yarn(40, 1.0),
    routed_scaling_factor=2.5,
    scoring_func="sigmoid",
    topk_group=4,
    topk_method="noaux_tc",
    vocab_size=129280,
)

DEEPSEEK_V3_2 = DEEPSEEK_V3 | {
    "architectures": ["DeepseekV32ForCausalLM"],
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 2048,
    "model_type": "deepseek_v32",
}

GLM_5 = {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 6144,
    "index_head_dim": 128,
    "index_n_heads": 32,
    "index_topk": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "model_type": "glm_moe_dsa",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 78,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "use_cache": True,
    "v_head_dim": 256,
    "vocab_size": 154880,
}

KIMI_K2 = DEEPSEEK_V3 | {
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
    "model_type": "kimi_k2",
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "rope_scaling": yarn(32, 1.0, beta_fast=1),
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 163840,
}


def deepseek_v4(ratios: list[int], **changes: Any) -> dict[str, Any]:
    """The `config.json` of a DeepSeek-V4: ``ratios`` of its layers, and ``changes``."""
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "compress_ratios": [*ratios, 0],
        "compress_rope_theta": 160000,
        "eos_token_id": 1,
        "expert_dtype": "fp4",
        "hc_eps": 1e-06,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "head_dim": 512,
        "hidden_act": "silu",
        "index_head_dim": 128,
        "index_n_heads": 64,
        "initializer_range": 0.02,
        "max_position_embeddings": 1048576,
        "model_type": "deepseek_v4",
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 6,
        "num_hash_layers": 3,
        "num_hidden_layers": len(ratios),
        "num_key_value_heads": 1,
        "num_nextn_predict_layers": 1,
        "o_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "quantization_config": FP8 | {"scale_fmt": "ue8m0"},
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 16,
            "original_max_position_embeddings": 65536,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "scoring_func": "sqrtsoftplus",
        "sliding_window": 128,
        "swiglu_limit": 10.0,
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 129280,
    } | changes


DEEPSEEK_V4_FLASH = deepseek_v4(
    [0, 0, *[4, 128] * 20, 4],
    hidden_size=4096,
    index_topk=512,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    num_attention_heads=64,
    o_groups=8,
    q_lora_rank=1024,
    routed_scaling_factor=1.5,
)

DEEPSEEK_V4_PRO = deepseek_v4(
    [128, 128, *[4, 128] * 29, 4],
    hidden_size=7168,
    index_topk=1024,
    moe_intermediate_size=3072,
    n_routed_experts=384,
    num_attention_heads=128,
    o_groups=16,
    q_lora_rank=1536,
    routed_scaling_factor=2.5,
)
