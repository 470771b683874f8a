"""The cache of a generated model: preallocated, written in place, and rewindable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from ..kernels.state import Ring, RingStore, Table


class NoState:
    """The state of a layer where there is no cache: every store reads as None."""

    def __getattr__(self, name: str) -> None:
        return None


NO_STATE = NoState()


class Cache:
    """What the layers of a model keep of `batch` rows of up to `max_tokens` tokens each.

    `keeps` declares the stores of each layer by name; they are read as `cache.layers[i].NAME`. Stores that know a
    packing of `layout` are packed, others of `dtype` unless they have a dtype of their own. The last `max_rewind`
    tokens can be taken back.
    """

    def __init__(
        self,
        keeps: Sequence[Mapping[str, Ring | Table]],
        batch: int,
        max_tokens: int,
        max_rewind: int = 8,
        *,
        dtype: torch.dtype,
        device: torch.device,
        layout: str | None = None,
    ) -> None:
        if batch < 1 or max_tokens < 1 or max_rewind < 0:
            raise ValueError(
                f"a cache needs batch >= 1, max_tokens >= 1 and max_rewind >= 0, "
                f"got {batch}, {max_tokens} and {max_rewind}"
            )
        self.batch, self.max_tokens, self.max_rewind = batch, max_tokens, max_rewind
        size = (batch, max_tokens, max_rewind, dtype, device, layout)
        self.layers = [
            SimpleNamespace(**{name: store.allocate(*size) for name, store in layer.items()}) for layer in keeps
        ]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)  # [B] tokens held
        self.known = [0] * batch  # the same on the host, so that nothing has to wait for the device
        # The shortest length each row can go back to: a ring forgets what newer tokens have overwritten.
        self.reach = [0] * batch
        rings = [store.data.shape[1] for store in self._stores() if isinstance(store, RingStore)]
        self._smallest_ring = min(rings, default=max_tokens)

    def advance(self, count: Tensor, known: Sequence[int]) -> None:
        """Makes `count` [B] new tokens part of every row; `known` is the same on the host."""
        self.lengths = self.lengths + count
        self.known = [old + new for old, new in zip(self.known, known, strict=True)]
        for row, length in enumerate(self.known):
            if length > self._smallest_ring:
                self.reach[row] = max(self.reach[row], length - self.max_rewind)

    def rewind(self, tokens: int | Sequence[int] | Tensor) -> None:
        """Drops the last `tokens` (one number, or one for each row) of every row.

        ValueError where that is more than `max_rewind`, more than a row has, or more than a window still remembers
        after earlier rewinds; nothing is changed then.
        """
        dropped = self._per_row(tokens)
        if min(dropped) < 0 or max(dropped) > self.max_rewind:
            raise ValueError(f"cannot rewind by {dropped}: this cache was made with max_rewind={self.max_rewind}")
        self._shorten([length - k for length, k in zip(self.known, dropped, strict=True)])

    def crop(self, max_length: int) -> None:
        """Drops what every row has beyond its first `max_length` tokens.

        ValueError where a window no longer remembers what came before those; nothing is changed then.
        """
        if max_length < 0:
            raise ValueError(f"cannot crop to {max_length} tokens")
        self._shorten([min(length, max_length) for length in self.known])

    def reorder(self, rows: Tensor) -> None:
        """Puts row rows[b] in the place of row b, for rows [B] (a permutation, or the survivors of a beam search)."""
        order = self._per_row(rows)
        if not all(0 <= row < self.batch for row in order):
            raise ValueError(f"cannot reorder a cache of {self.batch} rows by {order}")
        index = torch.tensor(order, device=self.lengths.device)
        for store in self._stores():
            store.data.copy_(store.data[index])
        self.lengths = self.lengths[index]
        self.known = [self.known[row] for row in order]
        self.reach = [self.reach[row] for row in order]

    def bytes(self) -> int:
        """The size of every tensor of this cache."""
        tensors = [self.lengths, *(store.data for store in self._stores())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _stores(self):
        """Every store of every layer."""
        return (store for layer in self.layers for store in vars(layer).values())

    def _per_row(self, values: int | Sequence[int] | Tensor) -> list[int]:
        """One number for each row, on the host."""
        numbers = torch.as_tensor(values)
        if numbers.is_floating_point():
            raise ValueError(f"counts tokens or rows in whole numbers, got {values}")
        if numbers.shape not in ((), (self.batch,)):
            raise ValueError(f"got numbers of shape {list(numbers.shape)} for a cache of {self.batch} rows")
        return [int(number) for number in numbers.expand(self.batch).tolist()]

    def _shorten(self, lengths: list[int]) -> None:
        """Makes the rows as short as `lengths`, or raises ValueError and changes nothing."""
        for row, (length, reach) in enumerate(zip(lengths, self.reach, strict=True)):
            if length < 0:
                raise ValueError(
                    f"cannot drop {self.known[row] - length} tokens of row {row}: it has {self.known[row]}"
                )
            if 0 < length < reach:
                raise ValueError(
                    f"cannot go back to {length} tokens in row {row}: its windows remember only what is needed from "
                    f"{reach} tokens on; make the cache with a larger max_rewind"
                )
        self.known = lengths
        self.reach = [reach if length else 0 for reach, length in zip(self.reach, lengths, strict=True)]
        self.lengths = torch.tensor(lengths, device=self.lengths.device)
