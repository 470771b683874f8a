"""Configs as they stand on the model hub."""

from __future__ import annotations

from typing import Any


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

PARAMETERS = {
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_1_405b": 405_853_388_800,
}
"""Counted on transformers' models on the meta device."""


def small(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config that says only what it must, and ``changes``."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    return {"model_type": model_type, **sizes, **heads} | changes
