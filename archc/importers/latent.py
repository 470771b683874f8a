"""What DeepSeek's models from V2 on have in common: latent attention, and dense layers before sparse ones."""

from __future__ import annotations

from typing import Any

from archc.importers.experts import active
from archc.importers.reader import Reader
from archc.importers.rope import rope
from archc.importers.spec import Drawer, Value

IRRELEVANT = frozenset({"ep_size", "output_router_logits", "seq_aux"})
"""Where experts are kept, what a call returns, and the form of a loss that transformers does not have here."""

IGNORED: dict[str, tuple[Any, str]] = {
    "aux_loss_alpha": (0, "transformers adds no balance loss in this type of model"),
    "moe_layer_freq": (1, "transformers makes every layer from first_k_dense_replace on a mixture of experts"),
}
"""Keys of the published configs that the implementation in transformers does not honour."""


def latent_attention(c: Reader, *, context: int, interleaved: bool) -> Drawer:
    """The latent attention that a config means."""
    heads = c.whole("num_attention_heads")
    _same_heads(c, heads)
    rank = c.whole_or_none("q_lora_rank")
    fields: dict[str, Value] = {"heads": heads}
    if rank is not None:
        fields["q_rank"] = rank
    rope_dim = c.whole("qk_rope_head_dim")
    fields |= {
        "kv_rank": c.whole("kv_lora_rank"),
        "nope_dim": c.whole("qk_nope_head_dim"),
        "rope_dim": rope_dim,
        "v_dim": c.whole("v_head_dim"),
    }
    if c.flag("attention_bias"):
        fields["bias"] = True
    fields["rope"] = rope(c, context, latent=True, pairs="interleaved" if interleaved else "half")
    _derived(c, "qk_head_dim", c.whole("qk_nope_head_dim") + rope_dim)
    return Drawer("mla", fields)


def _same_heads(c: Reader, heads: int) -> None:
    """Demands that keys have as many heads as queries: transformers repeats heads that are not there to repeat."""
    kv_heads = c.whole_or_none("num_key_value_heads")
    if kv_heads not in (None, heads):
        message = f"`num_key_value_heads` = {kv_heads} must be `num_attention_heads` = {heads} in latent attention"
        c.bad("num_key_value_heads", message)


def _derived(c: Reader, key: str, value: int) -> None:
    """Warns where a key that transformers computes says something else."""
    c.read.add(key)
    if c.values.get(key) not in (None, value):
        c.ignored(key, f"transformers computes it: {value}")


def head_dim(c: Reader, *, read: bool) -> None:
    """Accounts for `head_dim`, which is the width of the rotated part; ``read`` says that transformers honours it."""
    rope_dim = c.whole("qk_rope_head_dim")
    if not read:
        _derived(c, "head_dim", rope_dim)
        return
    c.read.add("head_dim")
    if c.values.get("head_dim", rope_dim) != rope_dim:
        c.bad("head_dim", f"`head_dim` must be `qk_rope_head_dim` = {rope_dim}: rotary positions are computed for it")


def shared_experts(c: Reader) -> dict[str, Value]:
    """The field for experts that every token goes to."""
    count = c.count("n_shared_experts")
    return {"shared": count} if count else {}


def groups(c: Reader, experts: int, *, smallest: int = 1) -> dict[str, Value]:
    """The fields for choosing among groups of experts first, each of at least ``smallest``."""
    count, kept = c.whole("n_group"), c.whole("topk_group")
    if experts % count:
        c.bad("n_group", f"`n_group` = {count} does not divide the {experts} experts")
    elif experts // count < smallest:
        c.bad("n_group", f"`n_group` = {count} leaves {experts // count} of {experts} experts to a group")
    if kept > count:
        c.bad("topk_group", f"`topk_group` = {kept} is more than `n_group` = {count}")
    return {"groups": count, "keep_groups": kept} if count > 1 else {}


def sigmoid_router(c: Reader, experts: int) -> Drawer:
    """The router: sigmoid scores, chosen with a bias within the best groups."""
    fields: dict[str, Value] = {"active": active(c, experts)} | groups(c, experts, smallest=2)
    if c.value("norm_topk_prob") is None or not c.flag("norm_topk_prob"):
        fields["renormalise"] = False
    scale = c.number("routed_scaling_factor")
    if scale != 1:
        fields["scale"] = scale
    return Drawer("sigmoid", fields)


def predictor(c: Reader, modules: int, experts: Drawer) -> Drawer | None:
    """The modules of prediction that a checkpoint keeps behind its layers, and counts as further ones: where exactly
    those before them are dense, they have ``experts``. Where a list says which layers are sparse, it does not say what
    modules are, and they are as the last layer.
    """
    if not modules:
        return None
    listed = c.values.get("mlp_layer_types") is not None
    behind = not listed and c.count("first_k_dense_replace") == c.whole("num_hidden_layers")
    fields: dict[str, Value] = {"depth": modules}
    if behind:
        fields["ffn"] = experts
    return Drawer("concat", fields)


def sparse_from(c: Reader, layers: int) -> tuple[bool, ...]:
    """Which layers are sparse: all but the first."""
    dense = c.count("first_k_dense_replace")
    return tuple(i >= dense for i in range(layers))
