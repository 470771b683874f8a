"""`deepseek_v3`: DeepSeek-V3 and R1."""

from __future__ import annotations

from typing import Any

from archc.importers import latent
from archc.importers.dense import model_fields
from archc.importers.experts import mixed, moe
from archc.importers.latent import head_dim, latent_attention, predictor, shared_experts, sigmoid_router, sparse_from
from archc.importers.reader import Reader
from archc.importers.spec import Layers, Spec

DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_interleave": True,
    "attention_bias": False,
    "num_mtp_layers": 1,
}
"""Those of `DeepseekV3Config` in transformers 5.23."""

IRRELEVANT = latent.IRRELEVANT

IGNORED = latent.IGNORED | {
    "scoring_func": ("sigmoid", "transformers scores experts by sigmoid in this type of model"),
    "topk_method": ("noaux_tc", "transformers chooses by biased scores within groups in this type of model"),
}
"""Keys of the published configs that the implementation in transformers does not honour."""

TITLE = "DeepSeek-V3: latent attention, mixture of experts balanced by biases, pre-norm."


def spec(c: Reader, title: str = TITLE) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    head_dim(c, read=True)
    experts = c.whole(c.either("n_routed_experts", "num_local_experts"))
    shared = shared_experts(c)
    width = c.whole("moe_intermediate_size")
    mixture = moe(c, experts=experts, hidden=width, router=sigmoid_router(c, experts), names="deepseek", **shared)
    interleaved = c.value("rope_interleave") is not None and c.flag("rope_interleave")
    modules = c.count(c.either("num_mtp_layers", "num_nextn_predict_layers"))
    return Spec(
        title=title,
        fields=fields,
        attention=Layers.all(latent_attention(c, context=c.whole("max_position_embeddings"), interleaved=interleaved)),
        ffn=mixed(c, sparse_from(c, c.whole("num_hidden_layers")), mixture),
        mtp=predictor(c, modules, mixture),
    )
