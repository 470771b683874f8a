"""`olmoe`: OLMoE."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, model_fields, uniform
from archc.importers.experts import moe, softmax_router
from archc.importers.reader import Reader
from archc.importers.spec import Spec, Value

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "clip_qkv": None,
    "num_experts_per_tok": 8,
    "num_experts": 64,
    "norm_topk_prob": False,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.01,
}
"""Those of `OlmoeConfig` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    _head_dim(c, dim)
    clip = c.number_or_none("clip_qkv")
    clipped: dict[str, Value] = {} if clip is None else {"clip": clip}
    experts = c.whole(c.either("num_experts", "num_local_experts"))
    router = softmax_router(c, experts, renormalise=c.flag("norm_topk_prob"))
    return uniform(
        "OLMoE: attention with normed queries and keys, mixture of experts, pre-norm.",
        fields=fields,
        attention=attention(c, dim=dim, context=context, head_dim=None, qk_norm="full", more=clipped),
        ffn=moe(c, experts=experts, hidden=c.whole("intermediate_size"), router=router, names="deepseek"),
    )


def _head_dim(c: Reader, dim: int) -> None:
    """Demands that heads divide the width: the norm of all queries has as many weights as the stream."""
    heads = c.whole("num_attention_heads")
    if dim % heads:
        c.bad("num_attention_heads", f"`num_attention_heads` = {heads} does not divide `hidden_size` = {dim}")
    c.read.add("head_dim")
    if c.values.get("head_dim", dim // heads) != dim // heads:
        c.bad("head_dim", f"`head_dim` must be `hidden_size` / `num_attention_heads` = {dim // heads}")
