"""Layers that see everything and layers that see a window: `layer_types` and what stands in for it."""

from __future__ import annotations

from archc.importers.reader import Reader, shown
from archc.importers.spec import Drawer, Layers, Tokens

KINDS = {"full_attention": "full", "attention": "full", "sliding_attention": "sliding"}
"""The drawer's name for each type of layer; `attention` is what transformers renames to `full_attention`."""


def windowed(full: Drawer, schedule: tuple[str, ...], window: int | None) -> Layers:
    """The attention of every layer: ``full``, or ``full`` with a window where the schedule says `sliding`."""
    if window is None or "sliding" not in schedule:
        return Layers.all(full)
    if "full" not in schedule:
        return Layers.all(Drawer(full.kind, full.fields | {"window": Tokens(window)}))
    return Layers({"full": full, "sliding": Drawer("full", {"window": Tokens(window)})}, schedule)


def listed(c: Reader, layers: int, window: int | None, needs: str) -> tuple[str, ...] | None:
    """The kind of every layer as `layer_types` lists them; None where there is no list.

    ``needs`` says, for the error, what gives layers their window.
    """
    types = c.value("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or not all(isinstance(t, str) for t in types) or len(types) != layers:
        c.bad("layer_types", f"`layer_types` must be a list of {layers} words, one for each layer, got {shown(types)}")
        return ("full",) * layers
    for unknown in dict.fromkeys(t for t in types if t not in KINDS):
        c.unsupported(
            "layer_types",
            f"layers of type `{unknown}` cannot be imported",
            "known are `full_attention`, `sliding_attention`",
        )
    if "sliding_attention" in types and window is None:
        c.bad("layer_types", f"`sliding_attention` needs {needs}")
    return tuple(KINDS.get(t, "full") for t in types)
