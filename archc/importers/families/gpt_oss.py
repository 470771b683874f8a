"""`gpt_oss`: OpenAI's open weights."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, model_fields
from archc.importers.experts import softmax_router
from archc.importers.reader import Reader
from archc.importers.spec import Drawer, Layers, Spec
from archc.importers.windows import listed, windowed

DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "num_experts_per_tok": 4,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "router_aux_loss_coef": 0.001,
    "output_router_logits": False,
    "layer_types": None,
    "attention_bias": True,
    "rope_theta": 150_000.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
"""Those of `GptOssConfig` in transformers 5.23."""

IRRELEVANT = frozenset({"experts_per_token", "initial_context_length"})
"""What the published configs say twice: `num_experts_per_tok`, and the original context of the rotary positions."""

IGNORED: dict[str, tuple[Any, str]] = {
    "hidden_act": ("silu", "the experts of this type of model have an activation of their own"),
}
"""Keys that the implementation in transformers does not honour."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context, layers = c.whole("hidden_size"), c.whole("max_position_embeddings"), c.whole("num_hidden_layers")
    full = attention(c, dim=dim, context=context, head_dim=c.whole_or_none("head_dim"), more={"sinks": True})
    window = c.whole_or_none("sliding_window")
    schedule = listed(c, layers, window, "a `sliding_window`")
    if schedule is None:
        schedule = tuple("full" if i % 2 else "sliding" for i in range(layers))
        if window is None:
            c.bad("sliding_window", "every other layer needs a `sliding_window`, unless `layer_types` says otherwise")
    experts = c.whole(c.either("num_local_experts", "num_experts"))
    return Spec(
        title="gpt-oss: grouped-query attention with sinks, every other layer in a window, mixture of experts.",
        fields=fields,
        attention=windowed(full, schedule, window),
        ffn=Layers.all(_experts(c, experts)),
    )


def _experts(c: Reader, experts: int) -> Drawer:
    """Experts with biases and a clamped activation; the router takes the softmax of the logits it has chosen."""
    glu = {"alpha": c.number("swiglu_alpha"), "shift": 1, "clamp": c.number("swiglu_limit")}
    return Drawer(
        "moe",
        {
            "experts": experts,
            "hidden": c.whole("intermediate_size"),
            "bias": True,
            "activation": Drawer("glu", {**glu}),
            "router": softmax_router(c, experts, renormalise=False, topk_first=True, bias=True),
            "names": "gpt_oss",
        },
    )
