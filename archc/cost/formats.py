"""Number formats of a graph: bytes of weights as they are stored, and the format that a product runs in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from archc.graph import Node
from archc.ops import ParamSpec
from archc.ops.loss import Loss
from archc.ops.view import UnflattenRows
from archc.schema import Format, Number, Precision

FP32 = Format("fp32", 32)
INT64 = Format("int64", 64)

WEIGHT: dict[Number, float] = {"fp32": 2, "tf32": 2, "bf16": 2, "fp8": 1, "fp4": 0.5}
"""What a FLOP counts as in equivalents of FP8: wider formats than bfloat16 (islands) count as that."""


def held(spec: ParamSpec, precision: Precision, *, training: bool = False) -> Format:
    """How a parameter or buffer is held: in the format of its role unless it declares a dtype of its own."""
    if spec.dtype != "act":
        return INT64 if spec.dtype == "int" else FP32
    return precision.trained(spec.role) if training else precision.stored(spec.role)


def size_of(form: Format, shape: Sequence[int]) -> tuple[int, int]:
    """Bytes of the numbers of a tensor in a format, and of their scales: one for each block of the last two dims,
    begun ones counted whole.
    """
    numbers = math.ceil(math.prod(shape) * form.bits / 8)
    if form.block == (0, 0) or len(shape) < 2:
        return numbers, 0
    rows, columns = form.block
    blocks = math.ceil(shape[-2] / rows) * math.ceil(shape[-1] / columns) * math.prod(shape[:-2])
    return numbers, blocks * form.scale_bytes


def product_of(node: Node, precision: Precision) -> Number:
    """The format that the products of a node run in: float32 islands in TF32, attention, index scores and weights as
    the precision says; bfloat16 (or what activations are) where nothing says more.
    """
    plain: Number = "fp32" if precision.activation > 2 else "bf16"
    if node.op.fused:
        return precision.product(node.op.fused)
    if isinstance(node.op, Loss):
        return plain
    if node.outs and node.outs[0].type.dtype == "fp32" and plain != "fp32":
        return "tf32"
    for value in node.ins:
        grouped = value.node is not None and isinstance(value.node.op, UnflattenRows)
        weight = value.node.ins[0].param if grouped and value.node is not None else value.param
        if weight is not None and len(weight.shape) > 1:
            return precision.product(weight.role)
    return plain
