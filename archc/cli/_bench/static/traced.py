"""What launches move, counted while Triton's interpreter runs them: bytes asked for, and distinct bytes.

``tracing`` lists every launch of a Triton kernel, and every operation of PyTorch that is no view, in order. Masks are
honoured: what a kernel skips does not count.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

MADE_BY_NAME = frozenset(
    ("_reshape_alias", "_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "new_empty")
)
"""Operations of PyTorch that look or allocate only, and do not say so in their signature."""


@dataclass(slots=True)
class Traced:
    """One launch. ``requested`` and ``distinct`` are bytes by array: of every load and store, and counted once each."""

    kernel: str
    backend: str
    grid: tuple[int, ...] = ()
    requested: dict[str, int] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)


class _Memory:
    """The bytes of one storage that a launch has touched."""

    def __init__(self, name: str, start: int, size: int) -> None:
        self.name, self.start, self.end = name, start, start + size
        self.touched = np.zeros(-(-size // 16) * 16, bool)

    def mark(self, addresses: NDArray[np.uint64], width: int) -> None:
        places = addresses.astype(np.int64) - self.start
        if width > 1 and not (places % width).any():
            self.touched.reshape(-1, width)[places // width] = True
        else:
            for byte in range(width):
                self.touched[places + byte] = True


class _Launches(_python_dispatch.TorchDispatchMode):
    """Lists what PyTorch runs, and what kernels that the interpreter runs move."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Traced] = []
        self.memories: list[_Memory] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch._library.custom_ops import OPDEFS

        own = OPDEFS.get(func._schema.name)
        if own is not None:  # what an operator of ours launches is seen, not the operator
            with self:
                return own._init_fn(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        looks = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not looks and func._schema.name.removeprefix("aten::") not in MADE_BY_NAME:
            leaves: list[Any] = tree_leaves((args, kwargs, out))
            moved = sum(_bytes(t) for t in leaves if isinstance(t, torch.Tensor))
            self.made.append(Traced(func._schema.name, "torch", (), {"": moved}, {"": moved}))
        return out

    def launched(self, shipped: Any, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs a kernel on the interpreter, and lists it."""
        names = inspect.signature(executor.fn).parameters
        bound = inspect.getcallargs(executor.fn, *args, **{k: v for k, v in kwargs.items() if k in names})
        grid: Any = executor.grid(bound) if callable(executor.grid) else executor.grid
        self.made.append(Traced(executor.fn.__name__, "triton", tuple(int(n) for n in grid)))
        storages: dict[int, _Memory] = {}
        for name, value in bound.items():
            if isinstance(value, torch.Tensor) and value.numel():
                storage = value.untyped_storage()
                start = storage.data_ptr()
                storages.setdefault(start, _Memory(name, start, storage.nbytes()))
        self.memories = list(storages.values())
        try:
            with _python_dispatch._disable_current_modes():
                return shipped(executor, *args, **kwargs)
        finally:
            self.made[-1].distinct = {m.name: n for m in self.memories if (n := int(m.touched.sum()))}
            self.memories = None

    def moves(self, pointers: Any, mask: Any) -> None:
        """Counts one access of one program."""
        if self.memories is None:
            return
        addresses = np.asarray(pointers.data)
        addresses = addresses[np.broadcast_to(np.asarray(mask.data), addresses.shape).astype(bool)]
        if not addresses.size:
            return
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        first = int(addresses.flat[0])
        memory = next(m for m in self.memories if m.start <= first < m.end)
        memory.mark(addresses, width)
        requested = self.made[-1].requested
        requested[memory.name] = requested.get(memory.name, 0) + addresses.size * width


@contextmanager
def tracing() -> Iterator[list[Traced]]:
    """What runs inside is listed. The interpreter must be `repaired <archc.cli._bench.static.interpreter.repair>`."""
    builder: Any = interpreter.InterpreterBuilder
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    call = interpreter.GridExecutor.__call__
    launches = _Launches()

    def loads(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        launches.moves(pointers, mask)
        return load(self, pointers, mask, *rest)

    def stores(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches.moves(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def updates(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches.moves(pointers, mask)
        launches.moves(pointers, mask)
        return atomic(self, operation, pointers, value, mask, *rest)

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return launches.launched(call, self, *args, **kwargs)

    methods = {"create_masked_load": loads, "create_masked_store": stores, "create_atomic_rmw": updates}
    with (
        patch.multiple(builder, **methods),
        patch.object(interpreter.GridExecutor, "__call__", called),
        launches,
    ):
        yield launches.made


def _bytes(x: torch.Tensor) -> int:
    """Bytes of a tensor in memory: what is repeated by a stride of zero counts once."""
    return x.element_size() * math.prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step)
