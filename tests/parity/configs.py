"""Small configs of every family: odd sizes, and every feature that an importer knows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

CASES = 13
"""Configs of each family. Features go round with different periods, so that these many meet in many ways."""

ORIGINAL = 16
"""The context before stretching: tests look at more positions than this."""

ROPES: tuple[dict[str, Any], ...] = (
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "factor": 3.5, "rope_theta": 10_000.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 300.0,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL, "rope_theta": 100.0},
    {
        "rope_type": "yarn",
        "factor": 6.0,
        "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 50.0,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "truncate": False,
    },
    {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 1000.0,
        "attention_factor": 1.21,
    },
)

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "silu", "relu", "gelu")


@dataclass(frozen=True, slots=True)
class Case:
    """One config, as keywords of the config class of its family."""

    family: str
    index: int
    keywords: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}-{self.index}"


FEWER = {"kimi_k2": 3, "deepseek_v32": 7, "glm_moe_dsa": 5}
"""Types of models that are others under a name of their own, or with another attention."""


def cases(family: str) -> list[Case]:
    """The configs of a family."""
    return [Case(family, i, _keywords(family, i)) for i in range(FEWER.get(family, CASES))]


def _keywords(family: str, i: int) -> dict[str, Any]:
    rng = random.Random(f"{family} {i}")
    groups = (1, 2, 3)[i % 3]
    kv_heads = (1, 2, 1, 3)[i % 4]
    heads = groups * kv_heads
    # Llama demands that heads divide the width, even where the width of a head is given.
    hidden = heads * rng.choice([5, 6, 8, 9, 11])
    if ROPES[i % 6]["rope_type"] == "yarn":
        # Wide enough that a ramp has channels inside.
        head_dim = rng.choice([10, 14, 16])
    elif hidden // heads % 2 or i % 2:
        head_dim = rng.choice([2, 4, 6, 10, 14])
    else:
        head_dim = None
    keywords: dict[str, Any] = {
        "vocab_size": rng.randint(31, 120),
        "hidden_size": hidden,
        "intermediate_size": rng.randint(7, 60),
        "num_hidden_layers": 1 + i % 3,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": ACTIVATIONS[i % 5],
        "max_position_embeddings": 200 + i,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "attention_bias": i % 5 in (1, 2),
        "tie_word_embeddings": i % 7 in (2, 3, 6),
        "initializer_range": rng.choice([0.02, 0.006]),
        "rope_parameters": dict(ROPES[i % 6]),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if head_dim is not None:
        keywords["head_dim"] = head_dim
    return OWN[family](keywords, i, rng) if family in OWN else keywords


def _llama(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    return keywords | {"mlp_bias": i % 4 == 1}


def _qwen3(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    return {"head_dim": 2 * rng.randint(2, 6)} | keywords | _windows(i)


def _mixtral(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    del keywords["attention_bias"]
    own = {"num_local_experts": rng.randint(3, 7), "sliding_window": (None, 3, 11, 1)[i % 4]}
    return keywords | own | _routed(i)


def _qwen2_moe(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    own = {"num_experts": rng.randint(3, 7), "shared_expert_intermediate_size": rng.randint(3, 20)}
    own |= {"qkv_bias": keywords.pop("attention_bias"), "norm_topk_prob": i % 2 == 0}
    keywords |= own | _routed(i) | _windows(i) | _sparse(i, rng)
    # Where none is listed, the even ones of the first layers slide.
    return keywords | {"max_window_layers": 1 + i % 4}


def _qwen3_moe(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    window = {"use_sliding_window": i % 3 == 1, "sliding_window": (3, 11, 1, 64)[i % 4]}
    own = {"num_experts": rng.randint(3, 7), "norm_topk_prob": i % 2 == 0}
    return keywords | own | _routed(i) | window | _sparse(i, rng)


def _olmoe(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    keywords.pop("head_dim", None)
    width = rng.choice([10, 14, 16]) if ROPES[i % 6]["rope_type"] == "yarn" else rng.choice([2, 4, 6, 10])
    own = {"hidden_size": keywords["num_attention_heads"] * width, "clip_qkv": (None, 0.7, None, 0.2)[i % 4]}
    return keywords | own | {"num_experts": rng.randint(3, 7), "norm_topk_prob": i % 2 == 0} | _routed(i)


def _gpt_oss(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    window, layers = (3, 11, 1, 64)[i % 4], keywords["num_hidden_layers"]
    own = {"num_local_experts": rng.randint(3, 7), "sliding_window": window}
    own |= {"swiglu_alpha": (1.702, 0.6)[i % 2], "swiglu_limit": (7.0, 0.5, 1.1)[i % 3], "hidden_act": "silu"}
    if i % 4 == 3:
        own |= {"layer_types": ["full_attention"] * layers}
    if i % 4 == 2:
        own |= {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"][:layers]}
    return {"head_dim": 2 * rng.randint(2, 6)} | keywords | own | _routed(i)


def _deepseek(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    keywords.pop("head_dim", None)
    heads = (1, 2, 3, 4, 6)[i % 5]
    rope = dict(ROPES[i % 6])
    # The logits are scaled where cos and sin are not: with a pair of corrections, and with one that only they read.
    if i % 6 == 5:
        rope["mscale_all_dim"] = 0.8
    return keywords | {
        "hidden_size": heads * rng.choice([5, 6, 8, 9, 11]),
        "num_attention_heads": heads,
        "num_key_value_heads": (heads, None)[i % 2],
        "q_lora_rank": (None, 7, 12)[i % 3],
        "kv_lora_rank": rng.choice([3, 8, 11]),
        "qk_nope_head_dim": rng.choice([3, 4, 7]),
        "qk_rope_head_dim": rng.choice([10, 14]) if rope["rope_type"] == "yarn" else rng.choice([2, 4, 6]),
        "v_head_dim": rng.choice([3, 5, 8]),
        "rope_parameters": rope,
        "first_k_dense_replace": (0, i % 2, 1 + i % 2)[i % 3],
        "n_shared_experts": (1, 2, 0)[i % 3] if i % 5 else 3,
        "moe_intermediate_size": rng.randint(3, 20),
        "routed_scaling_factor": (1.0, 2.5, 0.7)[i % 3],
    }


def _deepseek_v2(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    method = ("greedy", "group_limited_greedy")[i % 2]
    groups, kept, size = ((2, 1, 3), (4, 2, 2), (3, 1, 2), (3, 3, 2))[i // 2 % 4]
    own = {"n_group": groups, "topk_group": kept, "n_routed_experts": groups * size, "topk_method": method}
    if method == "greedy":
        own |= {"n_group": 1, "topk_group": 1, "num_experts_per_tok": min(1 + i % 4, groups * size)}
    else:
        # The best of a group is its worth, so that only those beyond the first of every group may be cut off.
        own["num_experts_per_tok"] = min(kept + 1 + i % 2, kept * size)
    own["mlp_bias"] = i % 6 == 4
    keywords = _deepseek(keywords, i, rng) | own
    # transformers views channels as complex numbers where they lie, which odd widths before them do not allow.
    for width in ("kv_lora_rank", "qk_nope_head_dim"):
        keywords[width] += keywords[width] % 2
    if keywords["mlp_bias"]:
        keywords["first_k_dense_replace"] = keywords["num_hidden_layers"]
    return keywords


def _deepseek_v3(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    groups, kept, size = ((1, 1, 6), (2, 1, 3), (4, 2, 2), (3, 2, 4), (3, 3, 2))[i % 5]
    own = {"n_group": groups, "topk_group": kept, "n_routed_experts": groups * size}
    own |= {"num_experts_per_tok": min(1 + i % 4, kept * size), "norm_topk_prob": i % 3 != 1}
    return _deepseek(keywords, i, rng) | own | {"rope_interleave": i % 4 != 3}


def _picked(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    """Fewer picks than tokens; so many index heads that few scores are zero."""
    keywords = _deepseek_v3(keywords, i, rng)
    del keywords["rope_interleave"]
    layers = keywords["num_hidden_layers"]
    if i % 3 == 2:
        keywords |= {"mlp_layer_types": ["sparse", "dense", "sparse"][:layers]}
    return keywords | {
        "num_key_value_heads": keywords["num_attention_heads"],
        "q_lora_rank": (7, 12, 9)[i % 3],
        "n_shared_experts": (1, 2, 3)[i % 3],
        "index_n_heads": (9, 8, 11)[i % 3],
        "index_head_dim": keywords["qk_rope_head_dim"] + rng.randint(0, 4),
        "index_topk": (5, 17, 2, 11, 30)[i % 5],
    }


def _glm_moe_dsa(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    keywords = _picked(keywords, i, rng)
    listed = {"indexer_types": ["full"] * keywords["num_hidden_layers"]}
    return keywords | (listed if i % 2 else {})


_SLIDING, _SPARSE, _HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
_LAYERS: tuple[dict[str, Any], ...] = (
    {"compress_ratios": [0, 4, 128, 4, 0], "num_hidden_layers": 4},
    {"layer_types": [_SPARSE, _HEAVY, _SLIDING], "num_hidden_layers": 3},
    {"num_hidden_layers": 4},
    {"layer_types": [_SPARSE, _SPARSE], "num_hidden_layers": 2},
    {"compress_ratios": [0, 0, 128], "num_hidden_layers": 3},
)
"""Layers by ratios (with one for a module behind them), as listed, and as the class lays them out."""


def _deepseek_v4(keywords: dict[str, Any], i: int, rng: random.Random) -> dict[str, Any]:
    """All kinds of layers, with several closed groups in 41 tokens, and fewer picks than entries."""
    heads, groups, head_dim = ((3, 3, 10), (5, 1, 14), (4, 2, 12), (3, 5, 10), (7, 7, 16))[i % 5]
    rope_dim = (10, 6, 4)[i % 3] if i % 6 else 8
    rope = dict(ROPES[i % 6])
    scale = {"partial_rotary_factor": rope_dim / head_dim}
    if i % 4 == 1:
        rope = {"main": dict(ROPES[(i + 2) % 6]) | scale, "compress": rope | scale}
    experts = rng.randint(3, 7)
    layers = _LAYERS[i % 5]
    hashed = (1, 0, 2, 4, 1)[i % 5] if i % 6 != 3 else 0
    table: dict[str, Any] = {"num_hash_layers": hashed}
    if i % 3 == 2:
        table = {"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"][: layers["num_hidden_layers"]]}
    own: dict[str, Any] = {
        "head_dim": head_dim,
        "hidden_size": rng.randint(15, 40),
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "q_lora_rank": rng.randint(5, 13),
        "o_groups": groups,
        "o_lora_rank": rng.randint(3, 8),
        "sliding_window": (5, 3, 11, 1, 64, 8)[i % 6],
        "index_n_heads": (9, 7, 8, 11)[i % 4],
        "index_head_dim": rope_dim + rng.randint(0, 4),
        "index_topk": (2, 3, 1)[i % 3],
        "compress_rope_theta": (160.0, 5000.0)[i % 2],
        "rope_theta": (10000.0, 70.0, 300.0)[i % 3],
        "moe_intermediate_size": rng.randint(5, 20),
        "n_routed_experts": experts,
        "num_experts_per_tok": 1 + i % 3,
        "routed_scaling_factor": (1.5, 2.5, 1.0)[i % 3],
        "hc_mult": (4, 2, 3)[i % 3],
        "hc_sinkhorn_iters": (20, 3, 1, 7)[i % 4],
        "hc_eps": (1e-6, 1e-3)[i % 2],
        "swiglu_limit": (10.0, 0.4, 1.1)[i % 3],
        "hidden_act": "silu",
        "scoring_func": "sqrtsoftplus" if hashed or i % 3 == 2 else "sigmoid",
        "rope_parameters": rope,
    }
    rates: dict[str, Any] = (
        {"compress_rate_hca": 6},
        {"compress_rates": {_SPARSE: 3, _HEAVY: 9}},
        {"compress_rate_csa": 5, "compress_rate_hca": 13},
    )[i % 3]
    del keywords["attention_bias"], keywords["intermediate_size"]
    if "main" not in rope:
        own |= {"qk_rope_head_dim": rope_dim} if i % 2 else scale
    return keywords | own | layers | rates | table


OWN = {
    "llama": _llama,
    "qwen3": _qwen3,
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "olmoe": _olmoe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
    "deepseek_v32": _picked,
    "glm_moe_dsa": _glm_moe_dsa,
    "gpt_oss": _gpt_oss,
    "deepseek_v4": _deepseek_v4,
}
"""What a family adds to the keywords that all have."""


def _routed(i: int) -> dict[str, Any]:
    """One expert for a token, and several; a loss for their balance, and none."""
    loss = {"output_router_logits": i % 3 == 1, "router_aux_loss_coef": (0.3, 0.02)[i % 2]}
    return {"num_experts_per_tok": 1 + i % 3} | loss


def _sparse(i: int, rng: random.Random) -> dict[str, Any]:
    """All layers sparse, every second one, and some dense by name."""
    forms = ({}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [0]})
    return {"moe_intermediate_size": rng.randint(3, 20), **forms[i % 3]}


def _windows(i: int) -> dict[str, Any]:
    """Full layers, sliding ones, and both: by a list, or from a layer on."""
    window = (3, 11, 1, 64)[i % 4]
    listed = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    layers = 2 + i % 4
    return (
        {"use_sliding_window": False, "sliding_window": window},
        {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1, "num_hidden_layers": layers},
        {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": window, "layer_types": listed, "num_hidden_layers": 5},
    )[i * 7 % 4]
