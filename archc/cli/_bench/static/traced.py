"""What launches move, counted while Triton's interpreter runs them: bytes asked for, and distinct bytes.

``tracing`` lists every launch of a Triton kernel, and every operation of PyTorch that is no view, in order. Masks are
honoured: what a kernel skips does not count.

Of a launch of many programs, sampled tracing runs a few. Programs are taken in windows, neighbours along the first axis
of the grid with all of its other axes: where windows two to four, two from the middle and the last two each add as many
bytes to every array, all do. The last two may add more or fewer than the first, where programs differ by a tile: then
the first that does is sought, halving. Windows grow until that is so (programs that share what they read alternate), or
else all programs run. What a launch then leaves in memory is not what it would.

Where programs of a launch wait for those that are ``earlier`` (an argument of the kernel), windows tell of each kind by
itself: what both touch, counted twice then, is no more than there is. In windows nobody waits.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

MADE_BY_NAME = frozenset(
    ("_reshape_alias", "_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "new_empty")
)
"""Operations of PyTorch that look or allocate only, and do not say so in their signature."""

WINDOWS = range(1, 17)
"""Programs of a window, tried in turn where a launch is so many of them: rows have any number of tiles."""


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
        self.requested = self.distinct = 0

    def mark(self, addresses: NDArray[np.uint64], width: int) -> None:
        self.requested += addresses.size * width
        places = addresses.astype(np.int64) - self.start
        if (places % width).any():
            places, width = (places[..., None] + np.arange(width)).reshape(-1), 1
        # What is new is counted here: to count all that is touched takes longer than to run a few programs.
        elements = self.touched.reshape(-1, width)
        places = places // width
        new = np.unique(places[~elements[places].all(-1)])
        self.distinct += new.size * width - int(np.count_nonzero(elements[new]))
        elements[new] = True


class _Programs:
    """A launch whose programs can be run some at a time: what `GridExecutor.__call__` does with all."""

    def __init__(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = inspect.signature(executor.fn).parameters
        kwargs = {name: value for name, value in kwargs.items() if name in names}
        self.function = executor.fn
        self.bound = inspect.getcallargs(executor.fn, *args, **kwargs)
        constants = executor.constexprs
        self.args = {n: x if n in constants else interpreter._implicit_cvt(x) for n, x in self.bound.items()}
        grid: Any = executor.grid(self.bound) if callable(executor.grid) else executor.grid
        self.grid = tuple(int(n) for n in grid)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Inside, the language's functions are the interpreter's.

        Triton replaces them anew at each call of a device function, which takes a quarter of a run: once will do.
        """
        patch_language = interpreter._patch_lang
        scope = patch_language(self.function)
        seen: set[Any] = set()

        def once(function: Any) -> None:
            if function not in seen:
                seen.add(function)
                patch_language(function)

        interpreter.interpreter_builder.set_grid_dim(*self.grid, *(1,) * (3 - len(self.grid)))
        try:
            with patch.object(interpreter, "_patch_lang", once):
                yield
        finally:
            scope.restore()

    @contextmanager
    def unwaiting(self) -> Iterator[None]:
        """Inside, tickets of programs are their numbers, and none waits: those it would wait for may not run."""
        names = self.function.__globals__
        instead = {"ticket": lambda _: tl.program_id(0), "wait_for": lambda *_: None}
        with patch.dict(names, {name: function for name, function in instead.items() if name in names}):
            yield

    @property
    def parts(self) -> list[range]:
        """Programs that differ in kind: those that others wait for, and others."""
        earlier = self.bound.get("earlier", 0)
        return [part for part in (range(earlier), range(earlier, self.grid[0])) if part]

    def run(self, first: Iterable[int]) -> None:
        """Runs the programs with such numbers along the first axis."""
        _, height, depth = *self.grid, *(1,) * (3 - len(self.grid))
        for x in first:
            for y in range(height):
                for z in range(depth):
                    interpreter.interpreter_builder.set_grid_idx(x, y, z)
                    self.function(**self.args)

    def memories(self) -> list[_Memory]:
        """The storages of its arrays, untouched."""
        found: dict[int, _Memory] = {}
        for name, value in self.bound.items():
            if isinstance(value, torch.Tensor) and value.numel():
                storage = value.untyped_storage()
                found.setdefault(storage.data_ptr(), _Memory(name, storage.data_ptr(), storage.nbytes()))
        return list(found.values())


class _Launches(_python_dispatch.TorchDispatchMode):
    """Lists what PyTorch runs, and what kernels that the interpreter runs move."""

    def __init__(self, *, sampled: bool) -> None:
        super().__init__()
        self.sampled = sampled
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

    def launched(self, executor: Any, *args: Any, **kwargs: Any) -> None:
        """Runs a kernel on the interpreter, and lists it."""
        launch = _Programs(executor, args, kwargs)
        entry = Traced(executor.fn.__name__, "triton", launch.grid)
        self.made.append(entry)
        with _python_dispatch._disable_current_modes(), launch.patched():
            found = self._from_parts(launch) if self.sampled else None
            if found is not None:
                entry.requested, entry.distinct = found
                return
            self.memories = launch.memories()
            launch.run(range(launch.grid[0]))
            entry.requested, entry.distinct = self._totals()
        self.memories = None

    def _from_parts(self, launch: _Programs) -> tuple[dict[str, int], dict[str, int]] | None:
        """Bytes of a whole launch as told by a few programs of each kind; None where they do not tell."""
        requested, distinct = Counter[str](), Counter[str]()
        with launch.unwaiting():
            for part in launch.parts:
                told = (self._from_windows(launch, part, window) for window in WINDOWS)
                found = next((some for some in told if some is not None), None)
                if found is None:
                    return None
                requested.update(found[0])
                distinct.update(found[1])
        sizes = {memory.name: memory.end - memory.start for memory in launch.memories()}
        return dict(requested), {name: min(count, sizes[name]) for name, count in distinct.items()}

    def _from_windows(self, launch: _Programs, part: range, width: int) -> tuple[dict[str, int], dict[str, int]] | None:
        """Bytes of a part of a launch as told by windows of so many programs; None where these do not agree."""
        count = len(part) // width
        if len(part) % width or count < 10:
            return None
        self.memories = launch.memories()

        def added(at: int) -> tuple[Counter[str], Counter[str]]:
            return self._added(launch, part[at * width : (at + 1) * width])

        first, early, *more = map(added, (0, 1, 2, 3))
        before, late = map(added, (count - 2, count - 1))
        if more != [early, early] or before != late:  # one alone that differs may be one of many, in every row its last
            return None
        changed = count
        if early == late:
            if any(added(at) != early for at in (count // 2, count // 2 + 1)):
                return None
        else:
            known, changed = 3, count - 2
            while changed - known > 1:
                at = (known + changed) // 2
                found = added(at)
                if found not in (early, late):
                    return None
                known, changed = (at, changed) if found == early else (known, at)
        self.memories = None
        few, many = count - changed, changed - 1
        requested, distinct = (
            {n: a[n] + many * b[n] + few * c[n] for n in {**a, **b, **c}}
            for a, b, c in zip(first, early, late, strict=True)
        )
        return requested, distinct

    def _added(self, launch: _Programs, window: range) -> tuple[Counter[str], Counter[str]]:
        """What a window adds to the bytes by array."""
        before = self._totals()
        launch.run(window)
        requested, distinct = (Counter(now) - Counter(then) for now, then in zip(self._totals(), before, strict=True))
        return requested, distinct

    def _totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes requested, and distinct ones, by array so far."""
        memories = [m for m in self.memories or () if m.requested]
        return {m.name: m.requested for m in memories}, {m.name: m.distinct for m in memories}

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
        next(m for m in self.memories if m.start <= first < m.end).mark(addresses, width)


@contextmanager
def tracing(*, sampled: bool = False) -> Iterator[list[Traced]]:
    """What runs inside is listed. The interpreter must be `repaired <archc.cli._bench.static.interpreter.repair>`."""
    builder: Any = interpreter.InterpreterBuilder
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    launches = _Launches(sampled=sampled)

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

    def called(self: Any, *args: Any, **kwargs: Any) -> None:
        launches.launched(self, *args, **kwargs)

    methods = {"create_masked_load": loads, "create_masked_store": stores, "create_atomic_rmw": updates}
    with (
        patch.multiple(builder, **methods),
        patch.object(interpreter.GridExecutor, "__call__", called),
        patch.object(tl.block_type, "__init__", _block_type),
        patch.object(tl.tensor, "__init__", _tensor),
        launches,
    ):
        yield launches.made


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, kernels are launched and do nothing: what they would leave in memory tells nothing of bytes."""
    with patch.object(interpreter.GridExecutor, "__call__", lambda *_, **__: None):
        yield


# --- types of Triton -----------------------------------------------------------------------------
_shipped_block_type: Any = tl.block_type.__init__
_shipped_tensor: Any = tl.tensor.__init__
_TYPES: dict[Any, Any] = {}
_SHAPES: dict[str, Any] = {}


def _block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """``block_type.__init__``, which checks and names each shape of each dtype once: a third of all that runs."""
    key = (element_ty.name, *(x.value if isinstance(x, tl.constexpr) else x for x in shape))
    if key not in _TYPES:
        _shipped_block_type(self, element_ty, shape)
        _TYPES[key] = self.shape, self.numel, self.name
    self.element_ty = element_ty
    self.shape, self.numel, self.name = _TYPES[key]


def _tensor(self: Any, handle: Any, type: Any) -> None:
    """``tensor.__init__``, which takes the shape from its type once."""
    found = _SHAPES.get(type.name) if type.is_block() else None
    if found is None:
        _shipped_tensor(self, handle, type)
        if type.is_block():
            _SHAPES[type.name] = self.shape, self.numel
    else:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = found


def _bytes(x: torch.Tensor) -> int:
    """Bytes of a tensor in memory: what is repeated by a stride of zero counts once."""
    return x.element_size() * math.prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step)
