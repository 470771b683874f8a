"""`qwen2_moe`: Qwen 1.5 and 2 with mixtures of experts."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, model_fields
from archc.importers.experts import mixed, moe, qwen_schedule, softmax_router
from archc.importers.reader import Reader, shown
from archc.importers.spec import Spec
from archc.importers.windows import listed, windowed

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts_per_tok": 4,
    "num_experts": 60,
    "norm_topk_prob": False,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "mlp_only_layers": None,
    "qkv_bias": True,
}
"""Those of `Qwen2MoeConfig` in transformers 5.23."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context, layers = c.whole("hidden_size"), c.whole("max_position_embeddings"), c.whole("num_hidden_layers")
    # Not a field of the class, but its modules read the attribute.
    head_dim = c.whole("head_dim") if "head_dim" in c.values else None
    full = attention(c, dim=dim, context=context, head_dim=head_dim, biases="qkv_bias")
    experts = c.count("num_experts")
    sparse = qwen_schedule(c, layers, experts)
    mixture = moe(
        c,
        experts=experts,
        hidden=c.whole("moe_intermediate_size"),
        router=softmax_router(c, experts, renormalise=c.flag("norm_topk_prob")),
        names="qwen",
        shared=1,
        shared_hidden=c.whole("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    return Spec(
        title="Qwen 2 MoE: grouped-query attention, mixture of experts with a gated shared one, pre-norm.",
        fields=fields,
        attention=windowed(full, *_schedule(c, layers)),
        ffn=mixed(c, sparse, mixture),
    )


def _schedule(c: Reader, layers: int) -> tuple[tuple[str, ...], int | None]:
    """The kind of every layer, and the window of those that slide: the even ones of the first, where none is listed."""
    window = None
    if c.flag("use_sliding_window"):
        window = c.whole_or_none("sliding_window")
    c.read.add("sliding_window")
    last = c.value("max_window_layers")
    schedule = listed(c, layers, window, "`use_sliding_window = true` and a `sliding_window`")
    if schedule is not None:
        return schedule, window
    if not isinstance(last, int) or isinstance(last, bool):
        c.bad("max_window_layers", f"`max_window_layers` must be a whole number, got {shown(last)}")
        last = 0
    if c.flag("use_sliding_window") and window is None and last > 0:
        c.bad("sliding_window", "`use_sliding_window` needs a `sliding_window`")
    return tuple("full" if i % 2 or i >= last else "sliding" for i in range(layers)), window
