"""`qwen3`: the dense models of Qwen 3."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, feed_forward, model_fields
from archc.importers.reader import Reader, shown
from archc.importers.spec import Drawer, Spec, Tokens

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
"""Those of `Qwen3Config` in transformers 5.23."""

KINDS = {"full_attention": "full", "attention": "full", "sliding_attention": "sliding"}
"""The drawer's name for each type of layer; `attention` is what transformers renames to `full_attention`."""


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    full = attention(c, dim=dim, context=context, head_dim=c.whole("head_dim"), qk_norm="head")
    schedule, window = _schedule(c, c.whole("num_hidden_layers"))
    drawers = {"full": full}
    if window is not None and "sliding" in schedule:
        drawers["sliding"] = Drawer("full", {"window": Tokens(window)})
        if "full" not in schedule:
            drawers = {"sliding": Drawer("gqa", full.fields | {"window": Tokens(window)})}
    return Spec(
        title="Qwen 3: grouped-query attention with normed queries and keys, gated feed-forward, pre-norm.",
        fields=fields,
        attention=drawers,
        schedule=schedule,
        ffn=feed_forward(c),
    )


def _schedule(c: Reader, layers: int) -> tuple[tuple[str, ...], int | None]:
    """The kind of every layer, and the window of those that slide."""
    window = c.whole_or_none("sliding_window")
    if not c.flag("use_sliding_window"):
        window = None
    first = c.value("max_window_layers")
    types = c.value("layer_types")
    if types is None:
        if not isinstance(first, int) or isinstance(first, bool):
            c.bad("max_window_layers", f"`max_window_layers` must be a whole number, got {shown(first)}")
            first = 0
        slide = layers if window is None else first
        return tuple("full" if i < slide else "sliding" for i in range(layers)), window
    if not isinstance(types, list) or not all(isinstance(t, str) for t in types) or len(types) != layers:
        c.bad("layer_types", f"`layer_types` must be a list of {layers} words, one for each layer, got {shown(types)}")
        return ("full",) * layers, None
    for unknown in dict.fromkeys(t for t in types if t not in KINDS):
        c.unsupported(
            "layer_types",
            f"layers of type `{unknown}` cannot be imported",
            "known are `full_attention`, `sliding_attention`",
        )
    if "sliding_attention" in types and window is None:
        c.bad("layer_types", "`sliding_attention` needs `use_sliding_window = true` and a `sliding_window`")
    return tuple(KINDS.get(t, "full") for t in types), window
