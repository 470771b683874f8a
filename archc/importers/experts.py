"""Mixtures of experts: the router, its loss, the experts, and which layers have them."""

from __future__ import annotations

from archc.importers.dense import activation, feed_forward
from archc.importers.reader import Reader, is_count, shown
from archc.importers.spec import Drawer, Layers, Value


def active(c: Reader, experts: int) -> int:
    """How many experts a token goes to; no experts at all are those of a model without sparse layers."""
    count = c.whole("num_experts_per_tok")
    if 0 < experts < count:
        c.bad("num_experts_per_tok", f"`num_experts_per_tok` = {count} is more than the {experts} experts there are")
    return count


def softmax_router(c: Reader, experts: int, *, renormalise: bool, **more: Value) -> Drawer:
    """A router by softmax, with the balance loss of a config that asks for it."""
    fields: dict[str, Value] = {"active": active(c, experts), "renormalise": renormalise}
    return Drawer("softmax", fields | more | _balance(c))


def _balance(c: Reader) -> dict[str, Value]:
    """The fields of the loss over all layers; transformers adds it only where router logits are put out."""
    weight = c.number("router_aux_loss_coef")
    if not c.flag("output_router_logits") or weight == 0:
        return {}
    return {"balance_weight": weight, "balance": "batch"}


def moe(c: Reader, *, experts: int, hidden: int, router: Drawer, names: str, **more: Value) -> Drawer:
    """A mixture of experts with gated feed-forwards; ``names`` is whose parameter names and layout it has."""
    fields: dict[str, Value] = {"experts": experts, "hidden": hidden, **more, **activation(c), "router": router}
    if names != "deepseek":
        fields["names"] = names
    return Drawer("moe", fields)


def mixed(c: Reader, sparse: tuple[bool, ...], experts: Drawer, *, bias: bool = False) -> Layers:
    """The feed-forward of every layer: ``experts`` where it is sparse, else the dense one of the config."""
    dense = feed_forward(c, bias=bias)
    if all(sparse):
        return Layers.all(experts)
    if not any(sparse):
        return Layers.all(dense)
    return Layers({"dense": dense, "moe": experts}, tuple("moe" if s else "dense" for s in sparse))


def qwen_schedule(c: Reader, layers: int, experts: int) -> tuple[bool, ...]:
    """Which layers are sparse: every `decoder_sparse_step`-th, but for `mlp_only_layers`."""
    step, dense = c.whole("decoder_sparse_step"), c.value("mlp_only_layers")
    if dense is None:
        dense = []
    if not isinstance(dense, list) or not all(is_count(i) or i == 0 for i in dense):
        c.bad("mlp_only_layers", f"`mlp_only_layers` must be a list of layer numbers or null, got {shown(dense)}")
        dense = []
    return tuple(experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(layers))
