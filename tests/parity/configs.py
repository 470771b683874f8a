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


def cases(family: str) -> list[Case]:
    """The configs of a family."""
    return [Case(family, i, _keywords(family, i)) for i in range(CASES)]


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
    if family == "llama":
        keywords["mlp_bias"] = i % 4 == 1
    if family == "qwen3":
        keywords.setdefault("head_dim", 2 * rng.randint(2, 6))
        keywords |= _windows(i)
    return keywords


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
