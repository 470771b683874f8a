"""A whole model from its drawers: embedding, layers entered and left by the residual drawer, final norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from archc.graph import Builder, BuildError, Graph, Node, Scope, Stack, Value
from archc.plan.names import camel
from archc.schema import LayerSlots, Model, Mtp

EMBEDDING = "model.embed_tokens.weight"
"""The input embedding, which heads and predictions of further tokens share."""

NORM_NAMES = {
    "pre": {"attention": ("input_layernorm", None), "ffn": ("post_attention_layernorm", None)},
    "post": {"attention": (None, "post_attention_layernorm"), "ffn": (None, "post_feedforward_layernorm")},
    "both": {
        "attention": ("input_layernorm", "post_attention_layernorm"),
        "ffn": ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    },
}
"""Names of a layer's norms, (on entering, on leaving) a sub-layer: those that transformers uses."""

MODULES = {"memory": "memory", "attention": "self_attn", "ffn": "mlp"}
"""Names of a layer's sub-layers."""

COMPONENTS = {"memory": "memory", "attention": "attention", "ffn": "dense_ffn"}
"""What they count as, where they say nothing else."""

PLACEMENT = {
    "pre": "what enters a sub-layer is normed (Xiong et al. 2020, arXiv:2002.04745)",
    "post": "what a sub-layer gives back is normed (OLMo 2, arXiv:2501.00656)",
    "both": "what enters a sub-layer and what it gives back is normed (Gemma 2, arXiv:2408.00118)",
}


def assemble(model: Model, *, names: bool = True) -> Graph:
    """The graph of a model. Raises `BuildError` where a drawer's forward does not fit."""
    reads = model.mtp.reads if model.mtp is not None else "hidden"
    g = Builder(model.name, std=lambda role, fan_in: model.init.scale_of(role, fan_in, model.layers), names=names)

    def backbone(g: Builder) -> tuple[Value, Value]:
        with g.component("embedding"):
            x = g.embedding("embed_tokens", g.tokens, rows=model.vocab, dim=model.dim)
        with g.component("residual"):
            state = model.residual.start(g, x)
        state = g.stack("layers", model.schedule, lambda slots: _layer(model, slots), *state, cls=_layer_class)
        with g.component("residual"):
            streams = model.residual.as_streams(g, state) if reads == "streams" else None
            x = model.residual.finish(g, state)
        with g.component("norm"):
            x = model.norm.build(g, x, "norm")
        return x, x if streams is None else streams

    doc = f"The embedding, {model.layers} layers and the final norm."
    x, seen = g.call("model", "Backbone", backbone, doc=doc)
    start = len(g.here.items)
    with g.component("head"):
        logits = model.head.build(g, x, g.parameter(EMBEDDING), model.vocab)
    g.graph.root.returns = [logits]
    g.graph.root.doc = model.doc
    if model.mtp is not None:
        _predictions(g, model, model.mtp, x, seen, logits, g.here.items[start:])
    return g.graph


def _predictions(
    g: Builder,
    model: Model,
    mtp: Mtp,
    hidden: Value,
    carried: Value,
    logits: Value,
    head: Sequence[Node | Scope | Stack],
) -> None:
    """Adds the modules that predict further tokens, with the embedding and the head of the main model.

    ``head`` makes its logits of its last ``hidden`` vectors; the first module reads ``carried``, each other what the
    one before hands on. Module k reads the tokens k + 1 ahead.
    """
    layer = _layer(model, ahead_slots(model, mtp))
    for k in range(mtp.depth):
        with g.component("mtp", sole=True), g.ahead("mtp", k + 1, carried) as scope:
            embedding = g.embed(g.tokens, g.parameter(EMBEDDING))
            name = class_name("mtp", mtp.label)
            g.call(str(k), name, mtp.build, embedding, carried, slot=True, residual=model.residual, layer=layer)
            (module,) = scope.children()
            if [v.shape for v in module.returns] != [hidden.shape, carried.shape]:
                given = ", ".join(str(v.type) for v in module.returns)
                raise BuildError(module, f"gives {given} where the head takes {hidden.type}, a module {carried.type}")
            x, carried = module.returns
            scope.returns = [x, carried, g.repeat(head, x, instead=hidden)[logits]]


def ahead_slots(model: Model, mtp: Mtp) -> LayerSlots:
    """The drawers of a module that predicts further tokens: its own, or those of the last layer."""
    last = model.schedule[-1]
    return LayerSlots.model_construct(attention=mtp.attention or last.attention, ffn=mtp.ffn or last.ffn)


def _layer(model: Model, slots: LayerSlots) -> Callable[..., tuple[Value, ...]]:
    """The forward of one layer."""

    def layer(g: Builder, *state: Value) -> tuple[Value, ...]:
        if slots.memory is not None:
            with g.component(COMPONENTS["memory"]):
                before = model.residual.as_streams(g, state)
                name = class_name("memory", slots.memory.label)
                streams = g.call(MODULES["memory"], name, slots.memory.build, before, slot=True)
                _fits(g, streams, before)
                state = model.residual.with_streams(g, state, streams)
        for slot, mixer in (("attention", slots.attention), ("ffn", slots.ffn)):
            if mixer is None:
                continue
            entering, leaving = NORM_NAMES[model.norm_placement][slot]
            with g.component("residual"):
                h, state = model.residual.enter(g, state, "attn" if slot == "attention" else "ffn")
            with g.component("norm"):
                if entering:
                    h = model.norm.build(g, h, entering)
            with g.component(COMPONENTS[slot]):
                y = g.call(MODULES[slot], class_name(slot, mixer.label), mixer.build, h, slot=True)
                _fits(g, y, h)
            with g.component("norm"):
                if leaving:
                    y = model.norm.build(g, y, leaving)
            with g.component("residual"):
                state = model.residual.leave(g, state, y)
        return state

    layer.__doc__ = f"Attention and feed-forward around the residual stream: {PLACEMENT[model.norm_placement]}."
    return layer


def _fits(g: Builder, given: Value, wanted: Value) -> None:
    """Raises `BuildError` in the module just built unless what it gives has the shape of what it took."""
    if given.shape != wanted.shape:
        made = next(item for item in reversed(g.here.items) if isinstance(item, Scope))
        raise BuildError(made, f"gives {given.type} where the residual stream is {wanted.type}")


def _layer_class(slots: LayerSlots) -> str:
    """Layers of equal sub-layers share a class, whatever drawers fill them."""
    return "MemoryLayer" if slots.memory is not None else "Layer"


def class_name(slot: str, label: str) -> str:
    """The class a drawer's module prints as: from its name in the spec."""
    suffix = {"attention": "Attention", "memory": "Memory", "mtp": "Mtp"}.get(slot, "")
    name = camel(label)
    return name if name.startswith(suffix) or name.endswith(suffix) else name + suffix
