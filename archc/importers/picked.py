"""What models that attend to picked tokens have in common: DeepSeek-V3.2, and those made after it."""

from __future__ import annotations

from typing import Any

from archc.importers import latent
from archc.importers.dense import model_fields
from archc.importers.experts import mixed, moe
from archc.importers.latent import head_dim, latent_attention, predictor, shared_experts, sigmoid_router
from archc.importers.reader import Reader, shown
from archc.importers.spec import Drawer, Layers, Spec, Value

IRRELEVANT = latent.IRRELEVANT

IGNORED = latent.IGNORED | {
    "mlp_bias": (False, "transformers gives feed-forwards of this type of model no biases"),
    "rope_interleave": (True, "transformers takes neighbouring channels of queries and keys for pairs"),
    "scoring_func": ("sigmoid", "transformers scores experts by sigmoid in this type of model"),
    "topk_method": ("noaux_tc", "transformers chooses by biased scores within groups in this type of model"),
}
"""Keys of the published configs that the implementation in transformers does not honour."""


def spec(c: Reader, *, title: str, pairs: str) -> Spec:
    """The model that a config means, whose indexers take ``pairs`` of channels."""
    fields = model_fields(c)
    head_dim(c, read=False)
    key = c.either("n_routed_experts", "num_local_experts")
    if "num_experts" in c.values:
        key = c.either(key, "num_experts")
    experts = c.whole(key)
    shared = shared_experts(c)
    width = c.whole("moe_intermediate_size")
    mixture = moe(c, experts=experts, hidden=width, router=sigmoid_router(c, experts), names="deepseek", **shared)
    modules = c.count("num_nextn_predict_layers") if "num_nextn_predict_layers" in c.values else 0
    layers = c.whole("num_hidden_layers")
    _all_indexed(c, layers)
    return Spec(
        title=title,
        fields=fields,
        attention=Layers.all(_attention(c, pairs)),
        ffn=mixed(c, _sparse(c, layers), mixture),
        mtp=predictor(c, modules, mixture),
    )


def _attention(c: Reader, pairs: str) -> Drawer:
    """The latent attention of a config, and its indexer."""
    c.whole("q_lora_rank")
    mla = latent_attention(c, context=c.whole("max_position_embeddings"), interleaved=True)
    width, rope_dim = c.whole("index_head_dim"), c.whole("qk_rope_head_dim")
    if width < rope_dim:
        c.bad("index_head_dim", f"`index_head_dim` = {width} is less than `qk_rope_head_dim` = {rope_dim}")
    index: dict[str, Value] = {
        "heads": c.whole("index_n_heads"),
        "head_dim": width,
        "topk": c.whole("index_topk"),
        "end": "first",
    }
    if pairs != "interleaved":
        index["pairs"] = pairs
    index["key_norm"] = Drawer("layer", {"eps": 1e-6})
    return Drawer("dsa", mla.fields | {"indexer": Drawer("lightning", index)})


def _all_indexed(c: Reader, layers: int) -> None:
    """Demands that every layer attends to picked tokens."""
    kinds = c.value("layer_types")
    if kinds is not None and kinds != ["indexed_attention"] * layers:
        c.bad("layer_types", f"`layer_types` must be `indexed_attention` for each of the {layers} layers")


def _sparse(c: Reader, layers: int) -> tuple[bool, ...]:
    """Which layers are mixtures of experts: those that a list says, or all but the first."""
    kinds = c.value("mlp_layer_types")
    if kinds is None:
        return latent.sparse_from(c, layers)
    c.read.add("first_k_dense_replace")
    fits = isinstance(kinds, list) and len(kinds) == layers and set(kinds) <= {"dense", "sparse"}
    if not fits:
        message = f"`mlp_layer_types` must say `dense` or `sparse` for each of the {layers} layers, got {shown(kinds)}"
        c.bad("mlp_layer_types", message)
        return (True,) * layers
    return tuple(kind == "sparse" for kind in kinds)


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
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "max_position_embeddings": 163840,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "head_dim": 64,
    "layer_types": None,
    "mlp_layer_types": None,
    "attention_bias": False,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "first_k_dense_replace": 3,
}
"""Those of `DeepseekV32Config` in transformers 5.23."""
