"""State over time: what a layer keeps of past tokens, in two kinds of store addressed by the token's slot.

Slots number the tokens of a row from 0. `Ring` keeps the last few tokens before the new ones (windows, unfinished
groups), `Table` keeps one entry for every `every` tokens (keys, latents, compressed entries). `recall` and `append`
read and update them in one step; without a cache they return what they were given, so training, prefill and decoding
share one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Layouts that a cache may have."""

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


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Declares a store of the last `keep` tokens, each of `shape`; `dtype` overrides the cache's."""

    keep: int
    shape: tuple[int, ...]
    dtype: Kept | None = None

    def allocate(
        self, batch: int, max_tokens: int, max_rewind: int, dtype: torch.dtype, device: torch.device
    ) -> RingStore:
        """An empty store that still holds `keep` tokens after rewinding by `max_rewind`."""
        rows = min(self.keep + max_rewind, max_tokens)
        data = torch.zeros(batch, rows, *self.shape, dtype=_KEPT[self.dtype] if self.dtype else dtype, device=device)
        return RingStore(data=data, keep=self.keep)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Declares a store of one entry of `shape` for every `every` tokens; `dtype` overrides the cache's."""

    every: int
    shape: tuple[int, ...]
    dtype: Kept | None = None

    def allocate(
        self, batch: int, max_tokens: int, max_rewind: int, dtype: torch.dtype, device: torch.device
    ) -> TableStore:
        """An empty store for `max_tokens` tokens; rewinding costs a table nothing."""
        rows = max_tokens // self.every
        data = torch.zeros(batch, rows, *self.shape, dtype=_KEPT[self.dtype] if self.dtype else dtype, device=device)
        return TableStore(data=data)


@dataclass(frozen=True, kw_only=True, eq=False)
class RingStore:
    """The token at slot p lives in row p % n of data [B, n, ...]."""

    data: Tensor
    keep: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TableStore:
    """Entry i lives in row i of data [B, n, ...]."""

    data: Tensor


def recall(x: Tensor, store: RingStore | None, time: Clock) -> Tensor:
    """The kept tokens before the new ones in order of time, then the new ones: [B, keep + S, ...].

    Row r of batch row b is slot first[b] - keep + r; rows of negative slots hold nothing and must be masked. Without a
    store, `x` [B, S, ...] itself.
    """
    if store is None:
        return x
    data, keep = store.data, store.keep
    # New tokens read as the store will return them later, whatever the chunking.
    stored = x.to(data.dtype)
    recent = torch.cat([*_read_ring(data, keep, time), stored], 1)
    _write_ring(data, stored.detach(), time)
    return recent.to(x.dtype)


def append(x: Tensor, store: TableStore | None, time: Clock, *, every: int = 1) -> Tensor:
    """All entries so far, one for `every` tokens, the new ones included: [B, (past + S) // every, ...].

    `x` [B, G, ...] holds a row's new entries in order, first those that exist. Entries a row does
    not have yet hold nothing and must be masked. Without a store, `x` itself.
    """
    if store is None:
        return x
    _write_table(store.data, x.detach().to(store.data.dtype), every, time)
    return store.data[:, : (time.past + time.new) // every].to(x.dtype)


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
        tail = x[:, new - count :]
        data[:, start : start + head] = tail[:, :head]
        data[:, : count - head] = tail[:, head:]
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
