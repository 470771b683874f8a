"""State over time: what a layer keeps of past tokens, in two kinds of store addressed by the token's slot.

Slots number the tokens of a row from 0. `Ring` keeps the last few tokens before the new ones (windows, unfinished
groups), `Table` keeps one entry for every `every` tokens (keys, latents, compressed entries). `recall` and `append`
read and update them in one step; without a cache they return what they were given, so training, prefill and decoding
share one forward pass. Where a cache has a layout that a store knows a `Packing` for, the store holds rows of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, cast

import torch
from torch import Tensor

from . import on_cpu

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Layouts that every cache may have."""

Kept = Literal["bf16", "fp32", "int"]
_KEPT = {**DTYPES, "int": torch.int64}
"""What a cache may store, by the names that specifications use."""


class Clock(Protocol):
    """Where the new tokens of each row stand in time, as far as kernels need to know.

    Row b holds its new tokens in columns 0 .. count[b] - 1 (padding only after them), and column j stands at slot
    first[b] + j. `past` is the largest first[b]; `aligned` says that every first[b] is `past`, `full` that every
    count[b] is `new`: both are known without asking the device.
    """

    @property
    def first(self) -> Tensor: ...  # [B]
    @property
    def count(self) -> Tensor: ...  # [B]
    @property
    def positions(self) -> Tensor: ...  # [B, S] what rotary embeddings see
    @property
    def starts(self) -> Tensor | None: ...  # [B, S] slot of the first token of each token's sequence, for packed rows
    @property
    def past(self) -> int: ...
    @property
    def new(self) -> int: ...
    @property
    def cached(self) -> bool: ...
    @property
    def aligned(self) -> bool: ...
    @property
    def full(self) -> bool: ...


class Packing(Protocol):
    """How the last dimension of what is kept becomes bytes. What is read is exactly what the bytes say."""

    layout: ClassVar[str]  # of caches whose stores are packed so

    def bytes(self, channels: int) -> int: ...

    def encode(self, x: Tensor) -> Tensor: ...  # [..., channels] -> [..., bytes], uint8

    def decode(self, rows: Tensor, channels: int, dtype: torch.dtype) -> Tensor: ...  # and back


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Declares a store of the last `keep` tokens, each of `shape`; `dtype` overrides the cache's, and `packing` says
    what caches of its layout hold instead.
    """

    keep: int
    shape: tuple[int, ...]
    dtype: Kept | None = None
    packing: Packing | None = None

    def allocate(
        self,
        batch: int,
        max_tokens: int,
        max_rewind: int,
        dtype: torch.dtype,
        device: torch.device,
        layout: str | None = None,
    ) -> RingStore:
        """An empty store that still holds `keep` tokens after rewinding by `max_rewind`."""
        rows = min(self.keep + max_rewind, max_tokens)
        data, packing = _allocate(self, batch, rows, dtype, device, layout)
        return RingStore(data=data, keep=self.keep, packing=packing)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Declares a store of one entry of `shape` for every `every` tokens; `dtype` and `packing` as of a `Ring`."""

    every: int
    shape: tuple[int, ...]
    dtype: Kept | None = None
    packing: Packing | None = None

    def allocate(
        self,
        batch: int,
        max_tokens: int,
        max_rewind: int,
        dtype: torch.dtype,
        device: torch.device,
        layout: str | None = None,
    ) -> TableStore:
        """An empty store for `max_tokens` tokens; rewinding costs a table nothing."""
        data, packing = _allocate(self, batch, max_tokens // self.every, dtype, device, layout)
        return TableStore(data=data, packing=packing)


@dataclass(frozen=True, kw_only=True, eq=False)
class RingStore:
    """The token at slot p lives in row p % n of data [B, n, ...], packed or as it is."""

    data: Tensor
    keep: int
    packing: Packing | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TableStore:
    """Entry i lives in row i of data [B, n, ...], packed or as it is."""

    data: Tensor
    packing: Packing | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Entries [B, n, ..., channels] as a table holds them: what reads only a few decodes only those."""

    data: Tensor  # [B, n, ..., bytes]
    packing: Packing
    channels: int
    dtype: torch.dtype  # of what it decodes to

    @property
    def shape(self) -> tuple[int, ...]:
        """That of what it decodes to."""
        return *self.data.shape[:-1], self.channels

    def at(self, index: Tensor) -> Packed:
        """Entries index[b, i] of each row b: [B, I, ..., channels]."""
        return replace(self, data=_rows(self.data, index))

    def first(self, count: int) -> Packed:
        """The first entries of each row: [B, count, ..., channels]."""
        return replace(self, data=self.data[:, :count])

    def decode(self) -> Tensor:
        """What the bytes say: [B, n, ..., channels]."""
        return self.packing.decode(self.data, self.channels, self.dtype)


def recall(x: Tensor, store: RingStore | None, time: Clock) -> Tensor:
    """The kept tokens before the new ones in order of time, then the new ones: [B, keep + S, ...].

    Row r of batch row b is slot first[b] - keep + r; rows of negative slots hold nothing and must be masked. Without a
    store, `x` [B, S, ...] itself.
    """
    if store is None:
        return x
    data, keep = store.data, store.keep
    if store.packing is None and (recalled := on_cpu.recall(x, data, keep, time)) is not None:
        return recalled
    # New tokens read as the store will return them later, whatever the chunking.
    stored = _stored(x, store)
    recent = torch.cat([*_read_ring(data, keep, time), stored], 1)
    _write_ring(data, stored.detach(), time)
    if store.packing is not None:
        return store.packing.decode(recent, x.shape[-1], x.dtype)
    return recent.to(x.dtype)


def append(x: Tensor, store: TableStore | None, time: Clock, *, every: int = 1) -> Tensor:
    """All entries so far, one for `every` tokens, the new ones included: [B, (past + S) // every, ...].

    `x` [B, G, ...] holds a row's new entries in order, first those that exist. Entries a row does
    not have yet hold nothing and must be masked. Without a store, `x` itself. Of a packed store, `Packed` entries in
    the place of a tensor, which only what knows them (`packed_rows.read_picked`) can read.
    """
    if store is None:
        return x
    _write_table(store.data, _stored(x.detach(), store), every, time)
    entries = store.data[:, : (time.past + time.new) // every]
    if store.packing is not None:
        packed = Packed(data=entries, packing=store.packing, channels=x.shape[-1], dtype=x.dtype)
        return cast("Tensor", packed)  # layers hand it on, none looks into it
    return entries.to(x.dtype)


def _allocate(
    store: Ring | Table, batch: int, rows: int, dtype: torch.dtype, device: torch.device, layout: str | None
) -> tuple[Tensor, Packing | None]:
    """Zeros for `rows` tokens or entries, and how they are packed in caches of this layout."""
    packing = store.packing
    if packing is None or packing.layout != layout:
        kept = _KEPT[store.dtype] if store.dtype else dtype
        return torch.zeros(batch, rows, *store.shape, dtype=kept, device=device), None
    *shape, channels = store.shape
    return torch.zeros(batch, rows, *shape, packing.bytes(channels), dtype=torch.uint8, device=device), packing


def _stored(x: Tensor, store: RingStore | TableStore) -> Tensor:
    """x as the store holds it."""
    return x.to(store.data.dtype) if store.packing is None else store.packing.encode(x.detach())


def _read_ring(data: Tensor, keep: int, time: Clock) -> list[Tensor]:
    """The `keep` tokens before the new ones, in order of time, in pieces along dimension 1."""
    n = data.shape[1]
    if keep == 0:
        return []
    if time.aligned and keep <= n:
        start = (time.past - keep) % n
        head = data[:, start : start + keep]
        return [head] if start + keep <= n else [head, data[:, : start + keep - n]]
    slots = time.first[:, None] + torch.arange(-keep, 0, device=data.device)
    return [_rows(data, slots % n)]


def _write_ring(data: Tensor, x: Tensor, time: Clock) -> None:
    """Puts each new token where its slot lives, the newest of those that share a row."""
    n, new = data.shape[1], x.shape[1]
    if n == 0:
        return
    if time.aligned and time.full:
        count = min(new, n)
        start = (time.past + new - count) % n
        head = min(count, n - start)
        data.narrow(1, start, head).copy_(x.narrow(1, new - count, head))
        if head < count:
            data.narrow(1, 0, count - head).copy_(x.narrow(1, new - count + head, count - head))
        return
    rows = torch.arange(n, device=data.device)
    last = (time.first + time.count - 1)[:, None]
    newest = last - (last - rows) % n  # the newest slot that lives in each row: [B, n]
    column = newest - time.first[:, None]
    fresh = (column >= 0).view(*column.shape, *[1] * (x.dim() - 2))
    data.copy_(torch.where(fresh, _rows(x, column.clamp(0, new - 1)), data))


def _write_table(data: Tensor, x: Tensor, every: int, time: Clock) -> None:
    """Puts the new entries that exist after the old ones."""
    if x.shape[1] == 0 or data.shape[1] == 0:
        return
    if time.aligned and time.full:
        base = time.past // every
        count = (time.past + time.new) // every - base
        data.narrow(1, base, count).copy_(x.narrow(1, 0, count))
        return
    base = (time.first // every)[:, None]
    count = ((time.first + time.count) // every)[:, None] - base
    # What a row does not have repeats its last entry, or rewrites old data: the writes need no spare row and no sync.
    column = torch.arange(x.shape[1], device=x.device).minimum((count - 1).clamp(min=0))
    slot = (base + column).clamp(max=data.shape[1] - 1)
    exists = (count > 0).view(-1, *[1] * (x.dim() - 1))
    batch = torch.arange(data.shape[0], device=data.device)[:, None]
    data[batch, slot] = torch.where(exists, x[batch, column], data[batch, slot])


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, i]]: [B, I, ...]."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]
