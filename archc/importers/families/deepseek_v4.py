"""`deepseek_v4`: DeepSeek-V4-Flash and V4-Pro."""

from __future__ import annotations

from typing import Any

from archc.importers import latent
from archc.importers.compressed import attention, listed
from archc.importers.dense import model_fields
from archc.importers.experts import active
from archc.importers.reader import Reader
from archc.importers.spec import Drawer, Layers, Spec, Value

DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "num_experts_per_tok": 6,
    "n_routed_experts": 256,
    "scoring_func": "sqrtsoftplus",
    "routed_scaling_factor": 1.5,
    "max_position_embeddings": 1048576,
    "rope_theta": 10000.0,
    "layer_types": None,
    "compress_rates": None,
    "compress_rope_theta": 160000.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "mlp_layer_types": None,
    "swiglu_limit": 10.0,
    "sliding_window": 128,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "num_nextn_predict_layers": 1,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "mlp_bias": False,
}
"""Those of `DeepseekV4Config` in transformers 5.23."""

COMPUTED = frozenset({"layer_types", "compress_rates", "mlp_layer_types", "rope_parameters", "partial_rotary_factor"})
"""Keys without a default for which the class computes a value."""

IRRELEVANT = frozenset({"ep_size", "expert_dtype", "seq_aux"})
"""Where experts are kept, how a checkpoint stores them, and the form of a loss that transformers does not have."""

_DSPARK = "transformers has no modules that draft blocks of tokens"

IGNORED = latent.IGNORED | {
    "attention_bias": (False, "transformers gives attention no biases in this type of model"),
    "first_k_dense_replace": (0, "transformers makes every layer a mixture of experts in this type of model"),
    "n_group": (1, "transformers chooses among all experts in this type of model"),
    "n_shared_experts": (1, "transformers makes one shared expert in this type of model"),
    "norm_topk_prob": (True, "transformers divides weights by their sum in this type of model"),
    "num_key_value_heads": (1, "transformers makes one key-value head in this type of model"),
    "topk_group": (1, "transformers chooses among all experts in this type of model"),
    "topk_method": ("noaux_tc", "transformers chooses by biased scores in this type of model"),
    "dspark_block_size": (None, _DSPARK),
    "dspark_markov_rank": (None, _DSPARK),
    "dspark_noise_token_id": (None, _DSPARK),
    "dspark_target_layer_ids": (None, _DSPARK),
}
"""Keys of the published configs that the implementation in transformers does not honour."""

SCORES = {"sqrtsoftplus": "sqrtsoftplus", "sigmoid": "sigmoid"}
ACTIVATIONS = {"silu": "silu", "swish": "silu"}
FFN = {"hash_moe": "hash_moe", "moe": "moe"}
HASH_LAYERS = 3
"""How many layers choose experts by hash in a config that does not say."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    init = fields.pop("init")
    layers, behind = attention(c, c.whole("max_position_embeddings"))
    return Spec(
        title="DeepSeek-V4: attention over a window and compressed entries, residual streams, mixture of experts.",
        fields=fields | {"residual": _streams(c), "init": init},
        attention=layers,
        ffn=_ffn(c),
        mtp=_mtp(c, layers, behind),
    )


def _streams(c: Reader) -> Drawer:
    """The residual streams."""
    fields: dict[str, Value] = {
        "streams": c.whole("hc_mult"),
        "sinkhorn_iters": c.whole("hc_sinkhorn_iters"),
        "hc_eps": c.number("hc_eps"),
    }
    eps = c.number("rms_norm_eps")
    return Drawer("mhc", fields if eps == 1e-6 else fields | {"norm_eps": eps})


def _mtp(c: Reader, layers: Layers, behind: str) -> Drawer | None:
    """The modules for multi-token prediction, which choose experts by score; those that draft blocks are others."""
    depth = c.count("num_nextn_predict_layers")
    if not depth or any(key.startswith("dspark_") for key in c.values):
        return None
    named: dict[str, Value] = {"attention": behind} if len(layers.drawers | layers.ahead) > 1 else {}
    if "hash_moe" in _types(c, c.whole("num_hidden_layers")):
        named["ffn"] = "moe"
    return Drawer("mtp_streams", {"depth": depth, **named})


# --- experts -------------------------------------------------------------------------------------
def _ffn(c: Reader) -> Layers:
    """The experts of every layer: chosen by score, or by a table of token ids."""
    types = _types(c, c.whole("num_hidden_layers"))
    _losses(c, types)
    if "hash_moe" not in types:
        return Layers.all(_mixture(c, _router(c)))
    if c.values.get("scoring_func", "sqrtsoftplus") != "sqrtsoftplus":
        c.unsupported("scoring_func", "layers that choose experts by hash weigh them by `sqrtsoftplus` only")
    scored, table = _router(c), _router(c, "hash")
    if "moe" not in types:
        return Layers({"hash_moe": _mixture(c, table)}, types, {"moe": _mixture(c, scored)})
    return Layers({"moe": _mixture(c, scored), "hash_moe": Drawer("moe", {"router": table})}, types)


def _types(c: Reader, layers: int) -> tuple[str, ...]:
    """How every layer chooses experts: as listed, or by hash in the first ones."""
    c.read.add("num_hash_layers")
    given = listed(c, "mlp_layer_types", FFN, layers)
    counted = c.values.get("num_hash_layers") is not None
    first = c.count("num_hash_layers") if counted else HASH_LAYERS
    by_hash = ("hash_moe",) * min(first, layers) + ("moe",) * max(0, layers - first)
    if given is None:
        if not counted:
            c.value("mlp_layer_types")
        return by_hash
    if counted and given != by_hash:
        c.ignored("num_hash_layers", "`mlp_layer_types` goes before it")
    return given


def _losses(c: Reader, types: tuple[str, ...]) -> None:
    """Refuses the balance loss of transformers, which is one over the softmax of logits that here have another use."""
    weight = c.number("router_aux_loss_coef")
    if c.flag("output_router_logits") and weight and "moe" in types:
        message = "the balance loss that transformers adds scores experts by softmax, which no router here does"
        c.unsupported("output_router_logits", message, "set it to false; `balance_weight` of a router is another loss")


def _mixture(c: Reader, router: Drawer) -> Drawer:
    """A mixture of experts with one that every token goes to, activations cut."""
    width = c.whole(c.either("moe_intermediate_size", "intermediate_size"))
    if c.flag("mlp_bias"):
        c.unsupported("mlp_bias", "biases of shared experts beside routed ones without any cannot be imported")
    c.word("hidden_act", ACTIVATIONS, "the clamped activation")
    limit = c.number("swiglu_limit")
    if limit <= 0:
        c.unsupported("swiglu_limit", f"`swiglu_limit` = {limit:g} lets nothing through")
    fields: dict[str, Value] = {"experts": _experts(c), "hidden": width, "shared": 1}
    return Drawer("moe", fields | {"activation": Drawer("glu", {"clamp": limit}), "router": router})


def _experts(c: Reader) -> int:
    return c.whole(c.either("n_routed_experts", "num_local_experts"))


def _router(c: Reader, kind: str | None = None) -> Drawer:
    """A router of a kind, by default the one that the config's scores are named after."""
    fields: dict[str, Value] = {"active": active(c, _experts(c))}
    scale = c.number("routed_scaling_factor")
    if scale != 1:
        fields["scale"] = scale
    if c.values.get("scoring_func") == "softmax":
        c.read.add("scoring_func")
        c.bad("scoring_func", "`scoring_func` = `softmax` is none of transformers' activations, for all that it says")
        return Drawer("sqrtsoftplus", fields)
    scores = c.word("scoring_func", SCORES, "the score")
    return Drawer(kind or scores, fields)
