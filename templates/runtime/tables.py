"""Large tables of which a token reads a few rows: on the device, in host memory or on disk.

What a table holds does not depend on where it lies, nor do results or gradients. Rows of a table that is not on the
device are read ahead, while the layers before it run: they are known from the tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import mapped
from .ahead import Asked, Reading
from .checkpoint import DTYPES

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .formats import Stored

Placement = Literal["device", "host", "disk"]
_GIVEN: ContextVar[Placement | None] = ContextVar("placement", default=None)


@contextmanager
def placing(memory: Placement | None) -> Iterator[None]:
    """Tables made inside lie there, whatever the specification says; None: where that says."""
    if memory is not None and memory not in get_args(Placement):
        raise ValueError(f"memory is {', '.join(map(repr, get_args(Placement)))} or None, not {memory!r}")
    token = _GIVEN.set(memory)
    try:
        yield
    finally:
        _GIVEN.reset(token)


class LargeTable(nn.Module):
    """A table of vectors from a normal distribution, whose `weight` [rows, dim] lies where `placement` says.

    On the device it is a parameter like any other. In host memory (pinned where there is a GPU) and on disk it stays
    on the CPU whatever the model is moved to, gathered rows go to the device of the ids, and the gradient is sparse: of
    the rows that were read, each once, in order. `sparse = True` asks for such gradients of a table on the device.

    On disk it is the file of a checkpoint while it is only read. A gradient or `writable` makes a copy without a name
    beside that file (see `mapped.scratch`), so that a checkpoint never changes.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, placement: Placement = "device", std: float = 0.02
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.std = num_embeddings, embedding_dim, std
        self.placement: Placement = _GIVEN.get() or placement
        self.sparse = self.placement != "device"
        self._viewed = False  # the weight is a view of the file of a checkpoint
        self._folder: Path | None = None  # where it was loaded from
        self._asking: set[int] = set()  # threads that want ids alone
        self._readings: list[Reading] = []
        shape = (num_embeddings, embedding_dim)
        meta = torch.get_default_device().type == "meta"
        self.weight = nn.Parameter(
            torch.empty(shape) if meta or not self.sparse else self._room(torch.get_default_dtype())
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows ids [*] of the table: [*, dim], on the device of the ids."""
        if self._asking and get_ident() in self._asking:
            raise Asked(ids)
        if not self.sparse:
            return F.embedding(ids, self.weight)
        return _looked_up(self, ids)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, placement={self.placement!r}"

    # --- rows ------------------------------------------------------------------------------------
    def read(self, ids: Tensor) -> Tensor:
        """Rows ids [*] on the CPU, or wherever the table is: [*, dim]. Threads that read ahead call it."""
        weight, rows = self.weight.detach(), ids.flatten()
        if self.placement == "disk":
            mapped.announce(weight, rows)
        return weight.index_select(0, rows).view(*ids.shape, self.embedding_dim)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ids [*] on the device of the ids: those that were read ahead, or read now."""
        here = ids.to(self.weight.device)
        for reading in tuple(self._readings):
            if reading.of(here, self._state()) and reading.take():
                self._readings = [other for other in self._readings if other is not reading]
                return reading.result().to(ids.device, non_blocking=True)
        return self.read(here).to(ids.device, non_blocking=True)

    def ask(self, lookup: Callable[[], Any]) -> Tensor | None:
        """The ids that `lookup` would look up here, on the device of the table; None if it does not."""
        self._asking.add(get_ident())
        try:
            lookup()
        except Asked as asked:
            return asked.ids.to(self.weight.device)
        finally:
            self._asking.discard(get_ident())
        return None

    def expect(self, ids: Tensor) -> Reading | None:
        """What will read rows ids [*] once it is started; None where they are on their way already.

        Of what nobody looked up in the meantime only the last is kept.
        """
        if any(reading.of(ids, self._state()) for reading in self._readings):
            return None
        self._readings = [*self._readings[-1:], Reading(self.read, ids, self._state())]
        return self._readings[-1]

    def _state(self) -> tuple[int, int]:
        """Changes when the numbers of the table do."""
        return self.weight.data_ptr(), self.weight._version

    # --- gradients -------------------------------------------------------------------------------
    def gradient(self, ids: Tensor, grad: Tensor) -> Tensor:
        """The gradient of the weight, sparse, from that of rows ids [*], grad [*, dim].

        Rows that were read more than once are added up as the gradient of `F.embedding` does it, in the same order.
        """
        if self.placement == "disk":
            self.writable()
        rows, place = torch.unique(ids, return_inverse=True)
        values = torch.ops.aten.embedding_dense_backward(grad, place, len(rows), -1, False)
        device = self.weight.device
        shape = tuple(self.weight.shape)
        indices, values = rows[None].to(device), values.to(device)
        return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)

    # --- memory ----------------------------------------------------------------------------------
    @torch.no_grad()
    def writable(self) -> Tensor:
        """The weight, no longer the file of a checkpoint: what is written to it may go to disk."""
        if self._viewed:
            self.hold(self._copy(self.weight.dtype))
        return self.weight

    def beside(self, dtype: torch.dtype) -> Tensor:
        """Zeros [rows, dim] in memory of the same kind, for the state of an optimizer."""
        if self.placement == "disk":
            return mapped.scratch(tuple(self.weight.shape), dtype, self._folder)
        return torch.zeros(self.weight.shape, dtype=dtype, device=self.weight.device)

    @torch.no_grad()
    def prepared(self, source: Stored, checkpoint: Checkpoint) -> tuple[Tensor, Path, bool]:
        """What `hold` takes: the weight with the numbers of a checkpoint, its folder, whether it is a view of its file.

        On disk that is the file itself where it has the dtype of the weight; else a copy, in memory of the same kind.
        """
        path, offset = checkpoint.place(source.numbers)
        if self.placement == "disk" and DTYPES[checkpoint.headers[source.numbers].dtype] == self.weight.dtype:
            memory, viewed = mapped.view(path, offset, tuple(self.weight.shape), self.weight.dtype)
        else:
            memory, viewed = self._room(self.weight.dtype, path.parent), False
            source.copy_to(memory, checkpoint)
        return memory, path.parent, viewed

    def hold(self, memory: Tensor, folder: Path | None = None, *, viewed: bool = False) -> None:
        """Takes `memory` for the weight, which comes from `folder`, if that is given: `viewed` is a file there that
        must not change.
        """
        self._readings.clear()
        self._viewed = viewed
        self._folder = folder or self._folder
        if self.weight.is_meta:
            self.weight = nn.Parameter(memory, self.weight.requires_grad)
        else:
            self.weight.data = memory

    def _room(self, dtype: torch.dtype, folder: Path | None = None) -> Tensor:
        """Memory for a weight of this dtype."""
        shape = (self.num_embeddings, self.embedding_dim)
        if self.placement == "disk":
            return mapped.scratch(shape, dtype, folder or self._folder)
        if self.placement == "device":
            return torch.empty(shape, dtype=dtype, device=self.weight.device)
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=torch.cuda.is_available())

    def _copy(self, dtype: torch.dtype) -> Tensor:
        """The numbers of the weight in memory of their own."""
        room = self._room(dtype)
        return mapped.fill(room, self.weight.detach()) if self.placement == "disk" else room.copy_(self.weight.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT002 - as nn.Module has it
        """Converts as every module does, but moves nothing that is not on the device."""
        if self.placement == "device":
            return super()._apply(fn, recurse)
        like = fn(torch.empty(0, dtype=self.weight.dtype))
        if like.is_meta:
            return super()._apply(fn, recurse)
        if self.weight.is_meta:
            self.hold(self._room(like.dtype))
        elif like.dtype != self.weight.dtype:
            grad, self.weight.grad = self.weight.grad, None
            self.hold(self._copy(like.dtype))
            self.weight.grad = None if grad is None else grad.to(like.dtype)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        """Copies where other parameters may be replaced, and never into the file of a checkpoint."""
        if self.placement != "device" and f"{prefix}weight" in state_dict:
            local_metadata = {**local_metadata, "assign_to_params_buffers": False}
            if self.weight.is_meta:
                self.hold(self._room(self.weight.dtype))
            self.writable()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def __getstate__(self) -> dict[str, Any]:
        """All but what is on its way, and what lies on this disk."""
        return {**self.__dict__, "_asking": set(), "_readings": [], "_viewed": False, "_folder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy on disk has a file of its own."""
        super().__setstate__(state)
        if self.placement == "disk" and not self.weight.is_meta:
            self.hold(self._copy(self.weight.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A table of its own, without a second copy in memory of what lies on disk."""
        copy = memo[id(self)] = type(self).__new__(type(self))
        own = {"_asking": set(), "_readings": [], "_parameters": {}, "_viewed": False}
        copy.__dict__.update(deepcopy({k: v for k, v in self.__dict__.items() if k not in own}, memo) | own)
        memory = self.weight.detach() if self.weight.is_meta else self._copy(self.weight.dtype)
        copy.weight = memo[id(self.weight)] = nn.Parameter(memory, self.weight.requires_grad)
        return copy


class _LookedUp(torch.autograd.Function):
    """Rows of a table whose gradient is sparse."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: LargeTable, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return table.rows(ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.table.gradient(*ctx.saved_tensors, grad), None, None


def _looked_up(table: LargeTable, ids: Tensor) -> Tensor:
    """Rows ids [*] of a table: [*, dim]."""
    return _LookedUp.apply(table.weight, table, ids)  # type: ignore[return-value]


# What `torch.compiler.disable` sets, which would import the compiler: graphs break where rows are read.
_looked_up._torchdynamo_disable = True  # type: ignore[attr-defined]
