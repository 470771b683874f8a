"""A whole model from its drawers: embedding, layers entered and left by the residual drawer, final norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from archc.graph import Builder, BuildError, Graph, Node, Scope, Stack, Value
from archc.plan.names import camel
from archc.schema import Bypass, LayerSlots, Model, Mtp

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

MODULES = {"memory": "memory", "bypass": "bypass", "attention": "self_attn", "ffn": "mlp"}
"""Names of a layer's sub-layers."""

COMPONENTS = {"memory": "memory", "bypass": "memory", "attention": "attention", "ffn": "dense_ffn"}
"""What they count as, where they say nothing else."""

PLACEMENT = {
    "pre": "what enters a sub-layer is normed (Xiong et al. 2020, arXiv:2002.04745)",
    "post": "what a sub-layer gives back is normed (OLMo 2, arXiv:2501.00656)",
    "both": "what enters a sub-layer and what it gives back is normed (Gemma 2, arXiv:2408.00118)",
}


def assemble(model: Model, *, names: bool = True, rotated: bool = False) -> Graph:
    """The graph of a model. Raises `BuildError` where a drawer's forward does not fit.

    Where layers are ``rotated``, each begins by leaving the last sub-layer of the layer before, so that what leaves a
    sub-layer and what enters the next are always neighbours. They hand on what that takes; the first leaves one whose
    output was the embedding. Models that gain nothing are never rotated, nor are those whose layers tokens may skip.
    """
    reads = model.mtp.reads if model.mtp is not None else "hidden"
    g = Builder(model.name, std=lambda role, fan_in: model.init.scale_of(role, fan_in, model.layers), names=names)

    def backbone(g: Builder) -> tuple[Value, Value]:
        with g.component("embedding"):
            x = g.embedding("embed_tokens", g.tokens, rows=model.vocab, dim=model.dim)
        if rotated and _gains_by_rotation(model):
            state = _rotated(g, model, x)
        else:
            with g.component("residual"):
                state = model.residual.start(g, x)
            state = _layers(g, model, state)
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


def _layers(g: Builder, model: Model, state: tuple[Value, ...]) -> tuple[Value, ...]:
    """The state after all layers. Where one of them has a bypass, all hand on the confidence in each token beside it,
    and those behind the first hold sure tokens as they are.
    """
    first = next((i for i, slots in enumerate(model.schedule) if _bypass(slots) is not None), None)
    if first is None:
        return g.stack("layers", model.schedule, lambda slots: _layer(model, slots), *state, cls=_layer_class)
    with g.component(COMPONENTS["bypass"]):
        confidence = g.unsure(state[0])
    keys = [(slots, i > first) for i, slots in enumerate(model.schedule)]
    outs = g.stack("layers", keys, lambda key: _bypassed(model, *key), *state, confidence, cls=_bypassed_class)
    return outs[:-1]


def _gains_by_rotation(model: Model) -> bool:
    """Whether something stands between leaving a sub-layer and entering the next, and no token skips layers."""
    between = model.norm_placement != "post" or model.residual.mixes_in
    return between and not any(map(_bypass, model.schedule))


def _rotated(g: Builder, model: Model, x: Value) -> tuple[Value, ...]:
    """The state after layers each of which begins by leaving the last sub-layer of the one before."""

    def build(slots: LayerSlots) -> Callable[..., tuple[Value, ...]]:
        layer = _layer(model, slots, leave=False)

        def rotated(g: Builder, *pending: Value) -> tuple[Value, ...]:
            with g.component("residual"):
                state = model.residual.leave(g, pending[:-1], pending[-1])
            g.record(state[0])
            g.here.hints[pending[-1]] = "y"
            return layer(g, *state)

        rotated.__doc__ = (
            f"{layer.__doc__} It begins by leaving the last sub-layer before it, and leaves its own to the next."
        )
        return rotated

    with g.component("residual"):
        before = model.residual.before(g, x)
    pending = g.stack("layers", model.schedule, build, *before, cls=_layer_class)
    with g.component("residual"):
        return model.residual.leave(g, pending[:-1], pending[-1])


def _bypass(slots: LayerSlots) -> Bypass | None:
    return None if slots.memory is None else slots.memory.bypass


def _bypassed_class(key: tuple[LayerSlots, bool]) -> str:
    slots, behind = key
    return f"Bypassed{_layer_class(slots)}" if behind else _layer_class(slots)


def _bypassed(model: Model, slots: LayerSlots, behind: bool) -> Callable[..., tuple[Value, ...]]:
    """The forward of a layer of a model with a bypass; tokens may skip those that stand ``behind`` one."""
    layer = _layer(model, slots)

    def bypassed(g: Builder, *state: Value) -> tuple[Value, ...]:
        *before, confidence = state
        names = [g.here.hints.get(value, "x") for value in before]
        if behind:  # read again at the end, when what was made of it has its name
            given = ["frozen"] if len(names) == 1 else [f"frozen_{name}" for name in names]
            g.here.hints.update(zip(before, given, strict=True))
        after = layer(g, *before)
        with g.component(COMPONENTS["bypass"]):
            if behind:
                after = tuple(g.hold(old, new, confidence) for old, new in zip(before, after, strict=True))
                g.here.hints.update(zip(after, names, strict=True))
            if (found := _found(g)) is not None:
                confidence = g.either(confidence, found)
        return *after, confidence

    bypassed.__doc__ = layer.__doc__
    return bypassed


def _found(g: Builder) -> Value | None:
    """What the bypass of the layer just built says."""
    return next((item.returns[0] for item in g.here.children() if item.name == MODULES["bypass"]), None)


def _layer(model: Model, slots: LayerSlots, *, leave: bool = True) -> Callable[..., tuple[Value, ...]]:
    """The forward of one layer; without ``leave`` it gives what leaving its last sub-layer takes."""
    last = slots.attention if slots.ffn is None else slots.ffn

    def layer(g: Builder, *state: Value) -> tuple[Value, ...]:
        if slots.memory is not None:
            with g.component(COMPONENTS["memory"]):
                before = model.residual.as_streams(g, state)
                name = class_name("memory", slots.memory.label)
                streams = g.call(MODULES["memory"], name, slots.memory.build, before, slot=True)
                _fits(g, streams, before)
                state = model.residual.with_streams(g, state, streams)
            if (bypass := slots.memory.bypass) is not None:
                with g.component(COMPONENTS["bypass"]):
                    g.call(MODULES["bypass"], class_name("bypass", bypass.label), bypass.build, streams, slot=True)
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
            if mixer is last and not leave:
                return (*state, y)
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
    suffix = {"attention": "Attention", "memory": "Memory", "bypass": "Bypass", "mtp": "Mtp"}.get(slot, "")
    name = camel(label)
    return name if name.startswith(suffix) or name.endswith(suffix) else name + suffix
