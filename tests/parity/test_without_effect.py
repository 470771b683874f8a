"""Keys that an import calls without effect have none: transformers gives the same logits, bit for bit."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from archc.importers import convert, keys
from tests.built import randomise
from tests.importers.configs import CLASSES, converted, small

TYPES = sorted(CLASSES.keys() - {"kimi_k2"})
"""Types of models that transformers itself knows."""

LOUD: dict[str, Any] = {
    "add_cross_attention": True,
    "auto_map": {"AutoModelForCausalLM": "modeling_other.Other"},
    "chunk_size_feed_forward": 3,
    "cross_attention_hidden_size": 3,
    "is_decoder": True,
    "max_sequence_length": 4,
    "pretraining_tp": 2,
    "pruned_heads": {"0": [0]},
    "rope_interleaved": True,
    "tie_encoder_decoder": True,
}
"""A value that would say something, for every key that an import takes for silent."""


_PICKED: dict[str, Any] = {
    "aux_loss_alpha": 0.5,
    "mlp_bias": True,
    "moe_layer_freq": 2,
    "rope_interleave": False,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "head_dim": 6,
    "qk_head_dim": 6,
}
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v32": _PICKED,
    "glm_moe_dsa": _PICKED | {"indexer_rope_interleave": False},
    "mixtral": {"router_jitter_noise": 0.5},
    "qwen3_moe": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "deepseek_v2": {
        "aux_loss_alpha": 0.5,
        "moe_layer_freq": 2,
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "n_group": 2,
        "topk_group": 2,
        "head_dim": 6,
        "qk_head_dim": 6,
    },
    "deepseek_v3": {
        "aux_loss_alpha": 0.5,
        "moe_layer_freq": 2,
        "scoring_func": "softmax",
        "topk_method": "greedy",
        "qk_head_dim": 6,
    },
    "gpt_oss": {"hidden_act": "gelu"},
    "deepseek_v4": {
        "attention_bias": True,
        "aux_loss_alpha": 0.5,
        "dspark_block_size": 5,
        "dspark_markov_rank": 8,
        "dspark_noise_token_id": 1,
        "dspark_target_layer_ids": [1, 2],
        "first_k_dense_replace": 1,
        "moe_layer_freq": 2,
        "n_group": 2,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_key_value_heads": 2,
        "topk_group": 2,
        "topk_method": "greedy",
    },
}
"""The same for keys of one type of model."""

BARE = {"qwen3_moe": {"use_sliding_window": True, "sliding_window": 4}}
"""What a key of one type needs beside it."""


def logits(config: dict[str, Any]) -> torch.Tensor:
    config = {"attn_implementation": "eager", "experts_implementation": "eager", **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    randomise(model)
    with torch.no_grad():
        return model(torch.arange(24).view(2, 12)).logits


def typed(model_type: str, **changes: Any) -> dict[str, Any]:
    """A small config whose heads have a width in every type of model that may say it."""
    width = {} if model_type.startswith(("deepseek", "glm")) else {"head_dim": 8}
    return small(model_type, **width, **changes)


def test_every_silent_key_is_tried() -> None:
    assert LOUD.keys() == keys.IGNORED.keys()
    for model_type in TYPES:
        family = importlib.import_module(f"archc.importers.families.{model_type}")
        assert getattr(family, "IGNORED", {}).keys() <= OWN.get(model_type, {}).keys()


@pytest.mark.parametrize("model_type", TYPES)
def test_silent_keys_change_nothing(model_type: str) -> None:
    plain = logits(typed(model_type))
    assert not torch.equal(logits(typed(model_type, rope_theta=50.0)), plain)
    more = {"attention_dropout": 0.4} | ({} if model_type == "deepseek_v4" else {"partial_rotary_factor": 0.5})
    for key, value in {**LOUD, **more}.items():
        config = typed(model_type, **{key: value})
        if key == "partial_rotary_factor" and model_type == "gpt_oss":
            # Scaled positions cannot be partial; those of gpt-oss are scaled unless a config says otherwise.
            config["rope_parameters"] = {"rope_type": "default", "rope_theta": 100.0}
            assert torch.equal(logits(config), logits(config | {key: 1.0}))
        else:
            assert torch.equal(logits(config), plain), key
        _, diagnostics = convert(config, "model_x")
        assert [d.severity for d in diagnostics] == ["warning"], key


@pytest.mark.parametrize("model_type", OWN)
def test_silent_keys_of_one_type_change_nothing(model_type: str) -> None:
    bare = BARE.get(model_type, {})
    plain = logits(typed(model_type, **bare))
    silent = {key: value for key, value in OWN[model_type].items() if key not in bare}
    for key, value in silent.items():
        config = typed(model_type, **(bare | {key: value}))
        assert torch.equal(logits(config), plain), key
        _, diagnostics = converted(config)
        assert [d.severity for d in diagnostics] == ["warning"], key


@pytest.mark.parametrize(
    "model_type", ["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "deepseek_v4", "gpt_oss"]
)
def test_irrelevant_keys_of_one_type_change_nothing(model_type: str) -> None:
    family = importlib.import_module(f"archc.importers.families.{model_type}")
    plain = logits(typed(model_type))
    for key in family.IRRELEVANT:
        config = typed(model_type, **{key: "fp4" if key == "expert_dtype" else True})
        assert torch.equal(logits(config), plain), key
        assert converted(config) == converted(typed(model_type)), key
