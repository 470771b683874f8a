"""Schemas: field types and the base class of every slot."""

from archc.schema.drawer import Drawer, Origin, Problem, field
from archc.schema.model import LayerSlots, Model, ModelFields, Sweep
from archc.schema.slots import (
    LAYER_SLOTS,
    Activation,
    Attention,
    Cache,
    Compress,
    FeedForward,
    Head,
    Indexer,
    Init,
    Memory,
    Mixer,
    Mtp,
    Norm,
    Residual,
    Rope,
    Router,
)

__all__ = [
    "LAYER_SLOTS",
    "Activation",
    "Attention",
    "Cache",
    "Compress",
    "Drawer",
    "FeedForward",
    "Head",
    "Indexer",
    "Init",
    "LayerSlots",
    "Memory",
    "Mixer",
    "Model",
    "ModelFields",
    "Mtp",
    "Norm",
    "Origin",
    "Problem",
    "Residual",
    "Rope",
    "Router",
    "Sweep",
    "field",
]
