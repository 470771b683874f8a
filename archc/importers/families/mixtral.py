"""`mixtral`: Mistral's mixtures of experts."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, model_fields, uniform
from archc.importers.experts import moe, softmax_router
from archc.importers.reader import Reader
from archc.importers.spec import Spec, Tokens, Value

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "rope_theta": 1_000_000.0,
}
"""Those of `MixtralConfig` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    window = c.whole_or_none("sliding_window")
    sliding: dict[str, Value] = {} if window is None else {"window": Tokens(window)}
    experts = c.whole(c.either("num_local_experts", "num_experts"))
    router = softmax_router(c, experts, renormalise=True)
    return uniform(
        "Mixtral: grouped-query attention, mixture of experts, pre-norm.",
        fields=fields,
        attention=attention(
            c, dim=dim, context=context, head_dim=c.whole_or_none("head_dim"), biases=None, more=sliding
        ),
        ffn=moe(c, experts=experts, hidden=c.whole("intermediate_size"), router=router, names="deepseek"),
    )
