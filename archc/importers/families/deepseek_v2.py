"""`deepseek_v2`: DeepSeek-V2 and V2-Lite."""

from __future__ import annotations

from typing import Any

from archc.importers import latent
from archc.importers.dense import model_fields
from archc.importers.experts import active, mixed, moe
from archc.importers.latent import groups, head_dim, latent_attention, shared_experts, sparse_from
from archc.importers.reader import Reader
from archc.importers.spec import Drawer, Layers, Spec, Value

DEFAULTS: dict[str, Any] = {
    "vocab_size": 102400,
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
    "first_k_dense_replace": 0,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "n_group": None,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "routed_scaling_factor": 1.0,
    "topk_group": None,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "v_head_dim": 128,
    "num_experts_per_tok": None,
    "moe_intermediate_size": 1407,
}
"""Those of `DeepseekV2Config` in transformers 5.23."""

IRRELEVANT = latent.IRRELEVANT

IGNORED = latent.IGNORED | {
    "scoring_func": ("softmax", "transformers scores experts by softmax in this type of model"),
}
"""Keys of the published configs that the implementation in transformers does not honour."""

METHODS = {"greedy": "greedy", "group_limited_greedy": "groups"}


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    heads, dim = c.whole("num_attention_heads"), c.whole("hidden_size")
    if dim % heads:
        c.bad("num_attention_heads", f"`num_attention_heads` = {heads} does not divide `hidden_size` = {dim}")
    sparse = sparse_from(c, c.whole("num_hidden_layers"))
    head_dim(c, read=False)
    experts = c.whole(c.either("n_routed_experts", "num_experts"))
    shared = shared_experts(c)
    bias = c.flag("mlp_bias")
    if bias and any(sparse):
        c.unsupported("mlp_bias", "biases of shared experts beside routed ones without any cannot be imported")
    width = c.whole("moe_intermediate_size")
    mixture = moe(c, experts=experts, hidden=width, router=_router(c, experts), names="deepseek", **shared)
    return Spec(
        title="DeepSeek-V2: latent attention, mixture of experts with shared ones, pre-norm.",
        fields=fields,
        attention=Layers.all(latent_attention(c, context=c.whole("max_position_embeddings"), interleaved=True)),
        ffn=mixed(c, sparse, mixture, bias=bias),
    )


def _router(c: Reader, experts: int) -> Drawer:
    """The router: the largest probabilities, or those in the groups with the largest, never renormalised."""
    fields: dict[str, Value] = {"active": active(c, experts), "renormalise": False}
    if c.word("topk_method", METHODS, "the choice of experts") == "groups":
        fields |= groups(c, experts)
    else:
        for key in ("n_group", "topk_group"):
            if (c.whole_or_none(key) or 1) > 1:
                c.ignored(key, "`topk_method = greedy` chooses among all experts")
    scale = c.number("routed_scaling_factor")
    if scale != 1:
        fields["scale"] = scale
    if c.value("norm_topk_prob") and c.flag("norm_topk_prob"):
        c.ignored("norm_topk_prob", "transformers does not renormalise in this type of model")
    return Drawer("softmax", fields)
