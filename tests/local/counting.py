"""Which tensor operations run, seen by PyTorch's dispatcher: kinds, bytes and FLOPs, views and allocations left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
    "detach",
    "is_same_size",
}
KINDS = {
    "product": "mm bmm addmm baddbmm addbmm mv addmv dot",
    "attention": "_scaled_dot_product_flash_attention_for_cpu",
    "map": "add sub mul div neg square abs sign clamp clamp_min clamp_max addcmul where masked_fill relu sqrt rsqrt"
    " reciprocal eq ne lt le gt ge bitwise_and bitwise_or bitwise_xor bitwise_not logical_not logical_and maximum"
    " minimum _conj_physical floor_divide remainder conj_physical rsub bitwise_left_shift bitwise_right_shift lerp"
    " round signbit __and__ __or__ __xor__ __lshift__ __rshift__ native_layer_norm",
    "exp": "exp silu sigmoid gelu softplus log_sigmoid_forward log cos sin pow tanh",
    "softmax": "_softmax _log_softmax",
    "reduce": "sum mean amax max linalg_vector_norm norm logsumexp cumsum any all",
    "cast": "_to_copy",
    "copy": "clone copy cat stack roll constant_pad_nd repeat contiguous _unsafe_view reflection_pad1d",
    "fill": "zeros ones full arange fill zero new_zeros new_full new_ones full_like zeros_like ones_like eye"
    " scalar_tensor",
    "rows": "index_select embedding index",
    "pick": "gather scatter index_put index_add searchsorted scatter_add",
    "bag": "_embedding_bag _embedding_bag_forward_only",
    "sort": "sort",
    "topk": "topk",
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}


@dataclass
class Seen:
    """Calls of one kind."""

    calls: int = 0
    read: int = 0
    written: int = 0
    flops: int = 0


@dataclass
class Counted(TorchDispatchMode):
    """Counts what runs inside."""

    kinds: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    names: Counter = field(default_factory=Counter)
    log: list = field(default_factory=list)
    shapes: list = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ins = _tensors((args, kwargs))
        before = [t.untyped_storage()._cdata for t in ins]
        result = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        mutates = func._schema.is_mutable
        outs = _tensors(result)
        bare = name if name in KIND_OF else name.removesuffix("_")
        if bare in ALLOCATIONS or (
            not mutates and outs and all(o.untyped_storage()._cdata in before for o in outs) and name != "_to_copy"
        ):
            return result
        if not outs or name in {"_local_scalar_dense", "item"}:
            return result
        if bare == "_to_copy" and outs[0].dtype == ins[0].dtype:
            bare = "copy"
        kind = "map" if bare == "pow" and isinstance(args[1], int) and args[1] == 2 else KIND_OF.get(bare)
        if kind is None:
            raise NotImplementedError(name)
        if kind == "map" and (name.endswith("_") and not name.startswith("__")):
            kind = "update"
        if kind == "map" and any(t.is_complex() for t in ins):
            kind = "complex"
        if kind == "update" and any(t.is_complex() for t in ins):
            kind = "complex"
        if kind == "sort" and ins[0].shape[-1] > 2048:
            kind = "sort_long"
        seen = self.kinds[kind]
        seen.calls += 1
        self.names[name] += 1
        read, written = _bytes(bare, name, func, args, kwargs, ins, outs)
        seen.read += read
        seen.written += written
        seen.flops += _flops(bare, args, self.shapes)
        self.log.append((kind, name, read, written))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, Tensor)]


def size(t: Tensor) -> int:
    """Bytes of the elements that are apart in memory: an expanded dimension counts once."""
    n = t.element_size()
    for length, stride in zip(t.shape, t.stride(), strict=True):
        n *= length if stride or length == 0 else 1
    return n


def _bytes(
    bare: str, name: str, func: Any, args: Any, kwargs: Any, ins: list[Tensor], outs: list[Tensor]
) -> tuple[int, int]:
    outs = (
        outs[:1]
        if "embedding_bag" in bare or bare in ("_scaled_dot_product_flash_attention_for_cpu", "native_layer_norm")
        else outs
    )
    written = sum(size(o) for o in outs)
    if bare.startswith("new_"):  # made in the likeness of what it does not read
        return 0, written
    if bare in ("index_select", "embedding", "index", "gather"):
        return size(outs[0]) + sum(size(t) for t in ins[1:]), written
    if "embedding_bag" in bare:
        rows, ids = args[0], args[1]
        return ids.numel() * rows.shape[1] * rows.element_size() + sum(size(t) for t in ins[1:]), written
    if bare in ("copy", "fill", "zero") and name.endswith("_"):
        return sum(size(t) for t in ins[1:]), size(args[0])
    if bare in ("scatter", "index_put") and name.endswith("_"):
        moved = sum(size(t) for t in ins[1:])
        return moved, moved
    if "out" in kwargs:
        return sum(size(t) for t in ins) - size(kwargs["out"]) * any(t is kwargs["out"] for t in ins), written
    if bare in ("baddbmm", "addmm") and kwargs.get("beta") == 0:
        return sum(size(t) for t in ins[1:]), written
    return sum(size(t) for t in ins), written


def _flops(bare: str, args: Any, shapes: list) -> int:
    if KIND_OF[bare] == "attention":
        q, k, v = args[:3]
        shapes.append(("attention", q.shape, k.shape))
        return 2 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * (q.shape[3] + v.shape[3])
    if KIND_OF[bare] != "product":
        return 0
    a, b = (args[1], args[2]) if bare.startswith(("add", "badd")) else args[:2]
    batch = a.shape[0] if a.dim() == 3 else 1
    n = b.shape[-1] if b.dim() > 1 else 1
    shapes.append(("product", a.shape[-2], a.shape[-1], n, batch))
    return 2 * batch * a.shape[-2] * a.shape[-1] * n
