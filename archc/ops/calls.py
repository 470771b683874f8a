"""What a reference runs on a CPU: calls of tensor operations, as a profiler of PyTorch would list them.

Views and allocations are left out. Kinds name what a call does to memory and arithmetic; each is measured once on a
machine (`archc bench --calibrate`), which is where its time comes from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from archc.record import dataclass

Kind = Literal[
    "product",  # of matrices: mm, bmm and their kin
    "attention",  # fused: scores are never stored
    "map",  # arithmetic element by element into a new tensor
    "update",  # the same in place
    "exp",  # element by element with an exponential, a logarithm or a power: silu, sigmoid, cos
    "softmax",  # along the last dimension
    "reduce",  # sums, means, norms, largest elements
    "complex",  # products of complex numbers
    "cast",  # to another width
    "copy",  # to another place: clone, cat, pad, roll; no arithmetic
    "fill",  # a new tensor of one number, or of numbers in order
    "rows",  # whole rows that ids name
    "pick",  # single elements that ids name
    "bag",  # sums of rows that ids name
    "sort",  # of short rows, ids included
    "sort_long",  # of one long row
    "topk",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One tensor operation, ``times`` over: bytes it reads and writes, and the product that it is.

    ``shape`` of a product is (m, k, n, batch): [m, k] times [k, n], ``batch`` of them; of attention m queries and n
    keys of k channels. ``cold``: bytes among those read that nothing touched since the last step: parameters, caches.
    ``causal``: attention that leaves out what lies in the future. Sizes are averages where data decide them.
    """

    kind: Kind
    read: float = 0
    written: float = 0
    shape: tuple[float, float, float, float] | None = None
    cold: float = 0
    times: float = 1
    element: int = 4
    causal: bool = False

    @property
    def flops(self) -> float:
        """Of all ``times``: 2 per multiply-add, two products for attention, hidden pairs included."""
        if self.shape is None:
            return 0
        m, k, n, batch = self.shape
        return self.times * batch * m * n * k * (4 if self.kind == "attention" else 2)


Calls = tuple[Call, ...]


def call(kind: Kind, read: float, written: float, times: float = 1) -> Call:
    """A call that is no product."""
    return Call(kind=kind, read=read, written=written, times=times)


def product(
    m: float,
    k: float,
    n: float,
    *,
    batch: float = 1,
    element: int = 4,
    cold: float = 0,
    times: float = 1,
    add: float = 0,
) -> Call:
    """[m, k] times [k, n], ``batch`` of them; ``add`` more bytes are read for what it is added to."""
    return Call(
        kind="product",
        read=batch * (m * k + k * n) * element + add,
        written=batch * m * n * element,
        shape=(m, k, n, batch),
        cold=cold,
        times=times,
        element=element,
    )


def convert(n: float, before: int, after: int, times: float = 1) -> Calls:
    """n elements from a width in bytes to another; nothing where they are equal."""
    return () if before == after or not n else (call("cast", n * before, n * after, times),)


def chain(kinds: tuple[Kind, ...], size: float) -> Calls:
    """Calls one after the other, each reading and writing ``size`` bytes."""
    return tuple(call(kind, size, size) for kind in kinds)


def repeated(calls: Calls, times: float) -> Calls:
    """The calls, so many times."""
    return calls if times == 1 else tuple(replace(c, times=c.times * times) for c in calls)


def averaged(listed: dict[tuple, int], most: int = 8) -> list[tuple[tuple, float]]:
    """Blocks (what they share, entries) and how many there are of each; where there are many kinds, neighbours are
    taken together at their mean number of entries, to which work is in proportion.
    """
    by_kind: dict[tuple, list[tuple[float, int]]] = {}
    for (*shared, entries), times in listed.items():
        by_kind.setdefault(tuple(shared), []).append((entries, times))
    found: list[tuple[tuple, float]] = []
    for shared, blocks in by_kind.items():
        blocks.sort()
        step = -(-len(blocks) // most)
        for i in range(0, len(blocks), step):
            part = blocks[i : i + step]
            times = sum(n for _, n in part)
            mean = part[0][0] if len(part) == 1 else sum(e * n for e, n in part) / times
            found.append(((*shared, mean), times))
    return found
