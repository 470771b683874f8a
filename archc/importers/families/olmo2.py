"""`olmo2`: OLMo 2."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, feed_forward, model_fields, uniform
from archc.importers.reader import Reader
from archc.importers.spec import Spec

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    # Not a field of the class, but its modules read the attribute.
    "head_dim": None,
}
"""Those of `Olmo2Config` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c, norm_placement="post")
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    return uniform(
        "OLMo 2: grouped-query attention with normed queries and keys, gated feed-forward, post-norm.",
        fields=fields,
        attention=attention(c, dim=dim, context=context, head_dim=c.whole_or_none("head_dim"), qk_norm="full"),
        ffn=feed_forward(c),
    )
