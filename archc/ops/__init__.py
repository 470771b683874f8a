"""The op vocabulary, one file per family. The registry is the directory listing: a new file is found by itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from archc.ops.base import (
    OPS,
    B,
    Cost,
    Dim,
    Op,
    ParamSpec,
    Role,
    S,
    Shape,
    ShapeError,
    Size,
    T,
    Type,
    Workload,
    expr,
    need,
    numel,
    size,
)
from archc.ops.packing import Fp4Keys, Fp8Keys, Fp8Tiles, Packing
from archc.ops.time import Ring, Store, Table

for _file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    import_module(f"{__name__}.{_file.stem}")

__all__ = [
    "OPS",
    "B",
    "Cost",
    "Dim",
    "Fp4Keys",
    "Fp8Keys",
    "Fp8Tiles",
    "Op",
    "Packing",
    "ParamSpec",
    "Ring",
    "Role",
    "S",
    "Shape",
    "ShapeError",
    "Size",
    "Store",
    "T",
    "Table",
    "Type",
    "Workload",
    "expr",
    "need",
    "numel",
    "size",
]
