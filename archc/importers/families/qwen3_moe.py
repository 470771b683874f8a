"""`qwen3_moe`: the mixtures of experts of Qwen 3."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, model_fields
from archc.importers.experts import mixed, moe, qwen_schedule, softmax_router
from archc.importers.reader import Reader
from archc.importers.spec import Layers, Spec, Tokens, Value

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "num_experts": 128,
    "norm_topk_prob": False,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "mlp_only_layers": None,
}
"""Those of `Qwen3MoeConfig` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context, layers = c.whole("hidden_size"), c.whole("max_position_embeddings"), c.whole("num_hidden_layers")
    # Not a field of the class, but its modules read the attribute.
    head_dim = c.whole("head_dim") if "head_dim" in c.values else None
    full = attention(c, dim=dim, context=context, head_dim=head_dim, qk_norm="head", more=_window(c))
    experts = c.count(c.either("num_experts", "num_local_experts"))
    sparse = qwen_schedule(c, layers, experts)
    mixture = moe(
        c,
        experts=experts,
        hidden=c.whole("moe_intermediate_size"),
        router=softmax_router(c, experts, renormalise=c.flag("norm_topk_prob")),
        names="qwen",
    )
    return Spec(
        title="Qwen 3 MoE: grouped-query attention with normed queries and keys, mixture of experts, pre-norm.",
        fields=fields,
        attention=Layers.all(full),
        ffn=mixed(c, sparse, mixture),
    )


def _window(c: Reader) -> dict[str, Value]:
    """The field for a window, which all layers have or none."""
    window = c.whole_or_none("sliding_window")
    slides = c.flag("use_sliding_window") and window is not None
    c.read.add("max_window_layers")
    if slides and c.values.get("max_window_layers") is not None:
        c.ignored("max_window_layers", "transformers gives every layer of this type of model the window")
    return {"window": Tokens(window)} if slides and window is not None else {}
