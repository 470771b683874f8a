"""Keys that an import calls without effect have none: transformers gives the same logits, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from archc.importers import convert, keys
from tests.built import randomise
from tests.importers.configs import small

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


def logits(config: dict[str, Any]) -> torch.Tensor:
    config = {"attn_implementation": "eager", **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    randomise(model)
    with torch.no_grad():
        return model(torch.arange(24).view(2, 12)).logits


def test_every_silent_key_is_tried() -> None:
    assert LOUD.keys() == keys.IGNORED.keys()


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "olmo2"])
def test_silent_keys_change_nothing(model_type: str) -> None:
    plain = logits(small(model_type, head_dim=8))
    assert not torch.equal(logits(small(model_type, head_dim=8, rope_theta=50.0)), plain)
    for key, value in {**LOUD, "partial_rotary_factor": 0.5, "attention_dropout": 0.4}.items():
        config = small(model_type, head_dim=8, **{key: value})
        assert torch.equal(logits(config), plain), key
        _, diagnostics = convert(config, "model_x")
        assert [d.severity for d in diagnostics] == ["warning"], key
