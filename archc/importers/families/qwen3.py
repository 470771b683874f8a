"""`qwen3`: the dense models of Qwen 3."""

from __future__ import annotations

from typing import Any

from archc.importers.dense import attention, feed_forward, model_fields
from archc.importers.reader import Reader, shown
from archc.importers.spec import Layers, Spec
from archc.importers.windows import listed, windowed

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


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    fields = model_fields(c)
    dim, context = c.whole("hidden_size"), c.whole("max_position_embeddings")
    full = attention(c, dim=dim, context=context, head_dim=c.whole("head_dim"), qk_norm="head")
    return Spec(
        title="Qwen 3: grouped-query attention with normed queries and keys, gated feed-forward, pre-norm.",
        fields=fields,
        attention=windowed(full, *_schedule(c, c.whole("num_hidden_layers"))),
        ffn=Layers.all(feed_forward(c)),
    )


def _schedule(c: Reader, layers: int) -> tuple[tuple[str, ...], int | None]:
    """The kind of every layer, and the window of those that slide."""
    window = c.whole_or_none("sliding_window")
    if not c.flag("use_sliding_window"):
        window = None
    first = c.value("max_window_layers")
    schedule = listed(c, layers, window, "`use_sliding_window = true` and a `sliding_window`")
    if schedule is not None:
        return schedule, window
    if not isinstance(first, int) or isinstance(first, bool):
        c.bad("max_window_layers", f"`max_window_layers` must be a whole number, got {shown(first)}")
        first = 0
    slide = layers if window is None else first
    return tuple("full" if i < slide else "sliding" for i in range(layers)), window
