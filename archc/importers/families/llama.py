"""`llama`: Llama 1 to 3.3, and the many models that use its implementation."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, feed_forward, model_fields, uniform
from archc.importers.reader import Reader
from archc.importers.spec import Spec

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": None,
}
"""Those of `LlamaConfig` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    return uniform(
        "Llama: grouped-query attention, gated feed-forward, pre-norm.",
        fields=fields,
        attention=attention(c, dim=dim, context=context, head_dim=c.whole_or_none("head_dim")),
        ffn=feed_forward(c, bias=c.flag("mlp_bias")),
    )
