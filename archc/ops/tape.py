"""Tensors that have sizes but no numbers, and what PyTorch's autograd keeps of the operations on them.

An op's `run` is its reference in these operations. Memory follows PyTorch's own rules: a storage lives as long as
something refers to it, a view is its storage, an operation keeps those operands and results that its derivative reads
(and only where somebody needs that), and a backward pass gives back what was kept as it goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archc.ops.base import Workload

Shape = tuple[int, ...]
Through = Callable[["dict[int, Storage]"], "list[Storage]"]


class Storage:
    """One allocation. ``given`` ones were there before: parameters, buffers, what a caller brings."""

    __slots__ = ("bytes", "given", "tape")

    def __init__(self, tape: Tape, size: int, *, given: bool = False) -> None:
        self.tape, self.bytes, self.given = tape, size, given
        if not given:
            tape.live += size
            tape.use(0)

    def __del__(self) -> None:
        if not self.given:
            self.tape.live -= self.bytes


class Tensor:
    """A view of a storage: shape and strides in elements of ``width`` bytes; ``back`` makes its gradient, if any."""

    __slots__ = ("back", "place", "shape", "storage", "strides", "width")

    def __init__(
        self, storage: Storage, shape: Shape, strides: Shape, width: int, back: Back | None = None, place: int = 0
    ) -> None:
        self.storage, self.shape, self.strides, self.width = storage, shape, strides, width
        self.back, self.place = back, place

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it would take laid out densely."""
        return math.prod(self.shape) * self.width

    @property
    def dense(self) -> bool:
        """Whether its elements lie one after the other."""
        return self.strides == strides_of(self.shape)

    def __repr__(self) -> str:
        return f"<{list(self.shape)} x {self.width} bytes{'' if self.back is None else ' with gradient'}>"


class Back:
    """What makes gradients of operands out of those of results: what it keeps, and what it takes on the way.

    ``edges`` are (the operand's `Back`, which of its results it is, bytes of the gradient, whether that is the gradient
    of the result itself, seen otherwise); ``work`` bytes live while it runs. Of a leaf, a parameter, ``leaf`` are the
    bytes of its gradient. ``order`` counts them as they were made; ``owner`` is what they were made for. What is more
    than one operation has a way of its own ``through``: gradients of operands for those of results.
    """

    __slots__ = ("edges", "kept", "leaf", "order", "owner", "through", "work")

    def __init__(
        self,
        kept: tuple[Storage, ...] = (),
        edges: tuple[tuple[Back, int, int, bool], ...] = (),
        *,
        work: int = 0,
        leaf: int = 0,
        order: int = 0,
        owner: object = None,
        through: Through | None = None,
    ) -> None:
        self.through = through
        self.kept, self.edges, self.work, self.leaf = kept, edges, work, leaf
        self.order, self.owner = order, owner


class Tape:
    """Runs references on tensors without numbers, and knows how many bytes are ``live``, and were at ``most``.

    ``act`` is the width of an activation's element.
    """

    def __init__(self, w: Workload) -> None:
        self.w, self.act, self.wide = w, w.act, max(4, w.act)
        self.live = self.most = 0
        self.leaves = self.whole = self.largest = 0
        """Bytes of gradients of parameters, of these and what lives at most, and of the largest."""
        self.order = 0
        """How many `Back` there were."""
        self.owner: object = None
        """What runs: a node of the graph."""
        self.losses: list[Tensor] = []
        """Terms of the training loss."""
        self.sums: dict[tuple[float, int], tuple[int, object]] = {}
        """Losses of shares [3, E] that all layers add up, by weight and E: the width of their elements, and what ran.
        """
        self.graded = True
        """Whether derivatives keep what they read."""
        self.products: list[tuple[Storage, object]] | None = None
        """Where somebody wants to know: what products of matrices and attention gave, and what ran."""
        self.spared = False
        """Whether a layer runs again that is given these."""

    # --- sources ---------------------------------------------------------------------------------
    def given(self, shape: Shape, width: int) -> Tensor:
        """What was there before, without a gradient: a buffer, ids of the caller."""
        return Tensor(Storage(self, math.prod(shape) * width, given=True), shape, strides_of(shape), width)

    def parameter(self, shape: Shape, width: int) -> Tensor:
        """A parameter, which gets a gradient."""
        t = self.given(shape, width)
        t.back = Back(leaf=t.storage.bytes)
        return t

    def new(self, shape: Shape, width: int, strides: Shape | None = None) -> Tensor:
        """A tensor without a gradient."""
        return Tensor(Storage(self, math.prod(shape) * width), shape, strides or strides_of(shape), width)

    def use(self, size: int, leaves: int = 0) -> None:
        """Bytes that live for a moment, and gradients of parameters that are there by then."""
        self.most = max(self.most, self.live + size)
        self.whole = max(self.whole, self.live + self.leaves + size + leaves)

    def use_once(self, size: int) -> None:
        """Bytes that live while something is made that is kept where everything else runs again."""
        if not self.spared:
            self.use(size)

    # --- operations ------------------------------------------------------------------------------
    def made_of(
        self,
        out: Tensor,
        ins: Iterable[Tensor],
        kept: Iterable[Tensor | None] = (),
        *,
        passes: bool = False,
        work: int = 0,
    ) -> Tensor:
        """``out`` as the result of an operation on ``ins`` that keeps some tensors (None: nothing).

        ``passes``: gradients of operands are that of the result, or views of it.
        """
        return self.made_together((out,), ins, kept, passes=passes, work=work)[0]

    def made_together(
        self,
        outs: tuple[Tensor, ...],
        ins: Iterable[Tensor],
        kept: Iterable[Tensor | None] = (),
        *,
        passes: bool = False,
        work: int = 0,
    ) -> tuple[Tensor, ...]:
        """The same for several results."""
        edges = tuple((x.back, x.place, x.bytes, passes) for x in ins if x.back is not None)
        if edges and self.graded:
            storages = {id(x.storage): x.storage for x in kept if x is not None}
            self.order += 1
            back = Back(tuple(storages.values()), edges, work=work, order=self.order, owner=self.owner)
            for place, out in enumerate(outs):
                out.back, out.place = back, place
        return outs

    def pointwise(
        self,
        *ins: Tensor,
        kept: Iterable[Tensor | None] = (),
        keeps_out: bool = False,
        passes: bool = False,
        width: int = 0,
    ) -> Tensor:
        """An elementwise result of operands that broadcast; dense, in the order of the first operand of its shape that
        is not itself an expanded one.
        """
        shape = broadcast(*(x.shape for x in ins))
        like = next((x for x in ins if x.shape == shape and 0 not in x.strides), None)
        out = self.new(
            shape, width or max((x.width for x in ins if x.shape), default=ins[0].width), like and ordered(like)
        )
        # Gradients of operands that were broadcast are made whole, then summed
        summed = any(x.back is not None and x.shape != shape for x in ins) and not passes
        return self.made_of(
            out, ins, (*kept, out) if keeps_out else kept, passes=passes, work=out.bytes if summed else 0
        )

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """a * b"""
        return self.pointwise(a, b, kept=(b if a.back else None, a if b.back else None))

    def scaled(self, x: Tensor) -> Tensor:
        """x times a number."""
        return self.pointwise(x)

    def add(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """a + b, or a plus a number."""
        return self.pointwise(a, *(() if b is None else (b,)), passes=True)

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        """a / b"""
        return self.pointwise(a, b, kept=(b, a if b.back else None))

    def of_input(self, x: Tensor) -> Tensor:
        """An elementwise function whose derivative reads its operand: silu, gelu, clamp, abs, square."""
        return self.pointwise(x, kept=(x,))

    def of_result(self, x: Tensor) -> Tensor:
        """A function of x's shape whose derivative reads its result: sigmoid, exp, sqrt, relu, softmax."""
        return self.pointwise(x, keeps_out=True)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """x with a number where a mask says so."""
        return self.pointwise(x, kept=(mask,))

    def to(self, x: Tensor, width: int) -> Tensor:
        """x with elements of another width: itself where they have it."""
        return x if x.width == width else self.pointwise(x, width=width)

    def upcast(self, x: Tensor) -> Tensor:
        """x in at least float32."""
        return self.to(x, max(4, x.width))

    def sum(self, x: Tensor, axis: int, *, keep: bool = False) -> Tensor:
        """Summed, or averaged, over an axis."""
        axis %= len(x.shape)
        shape = (*x.shape[:axis], *((1,) if keep else ()), *x.shape[axis + 1 :])
        return self.made_of(self.new(shape, x.width), (x,), passes=True)

    def product(self, *outs: Tensor) -> None:
        """Notes results of products of matrices, or of attention."""
        if self.products is not None:
            self.products += [(x.storage, self.owner) for x in outs]

    def matmul(self, a: Tensor, b: Tensor, *, again: bool = False) -> Tensor:
        """a [..., n, k] @ b [..., k, m] of equal batches; ``again``: so small that recomputation does not spare it."""
        out = self.new((*a.shape[:-1], b.shape[-1]), max(a.width, b.width))
        if not again:
            self.product(out)
        return self.made_of(out, (a, b), (b if a.back else None, a if b.back else None))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., in] @ weight.T (+ bias): [..., out]."""
        rows = self.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        out = self.new((rows.shape[0], weight.shape[0]), max(x.width, weight.width))
        self.product(out)
        kept = (weight if rows.back else None, rows if weight.back else None)
        out = self.made_of(out, (rows, weight) if bias is None else (rows, weight, bias), kept)
        return self.reshape(out, (*x.shape[:-1], weight.shape[0]))

    def embedding(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows of a table."""
        out = self.new((*ids.shape, table.shape[-1]), table.width)
        return self.made_of(out, (table,), (ids,))

    def cat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Parts side by side."""
        axis %= len(parts[0].shape)
        shape = list(parts[0].shape)
        shape[axis] = sum(x.shape[axis] for x in parts)
        # Gradients are narrow views of that of the whole
        return self.made_of(self.new(tuple(shape), max(x.width for x in parts)), parts, passes=True)

    # --- views -----------------------------------------------------------------------------------
    def view(self, x: Tensor, shape: Shape, strides: Shape, *, whole: bool = True) -> Tensor:
        """x seen otherwise; the gradient of a part (not ``whole``) is made with zeros around it."""
        out = Tensor(x.storage, shape, strides, x.width)
        return self.made_of(out, (x,), passes=whole)

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """x in another shape: a view where strides allow one, else a copy."""
        if shape == x.shape:
            return x
        strides = viewed(x.shape, x.strides, shape)
        if strides is None:
            return self.made_of(self.new(shape, x.width), (x,), passes=True)
        return self.view(x, shape, strides)

    def permute(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Axes in another order."""
        return self.view(x, tuple(x.shape[a] for a in axes), tuple(x.strides[a] for a in axes))

    def expand(self, x: Tensor, shape: Shape) -> Tensor:
        """x broadcast to a shape of as many dims."""
        out = Tensor(
            x.storage,
            shape,
            tuple(0 if n != m else s for n, m, s in zip(shape, x.shape, x.strides, strict=True)),
            x.width,
        )
        return self.made_of(out, (x,))

    def unsqueeze(self, x: Tensor, axis: int) -> Tensor:
        """A new dim of size 1, counted from the end."""
        at = len(x.shape) + 1 + axis
        step = x.strides[at] * x.shape[at] if at < len(x.shape) else 1
        return self.view(x, (*x.shape[:at], 1, *x.shape[at:]), (*x.strides[:at], step, *x.strides[at:]))

    def unbind(self, x: Tensor) -> tuple[Tensor, ...]:
        """The elements of the last axis."""
        outs = tuple(Tensor(x.storage, x.shape[:-1], x.strides[:-1], x.width) for _ in range(x.shape[-1]))
        return self.made_together(outs, (x,))

    def narrow(self, x: Tensor, axis: int, size: int) -> Tensor:
        """A piece of x along an axis."""
        axis %= len(x.shape)
        if x.shape[axis] == size:
            return self.view(x, x.shape, x.strides)
        return self.view(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.strides, whole=False)

    def split(self, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        """Pieces along the last axis; their gradients are put together to that of x."""
        outs = tuple(Tensor(x.storage, (*x.shape[:-1], n), x.strides, x.width) for n in sizes)
        return self.made_together(outs, (x,))


# --- layouts -------------------------------------------------------------------------------------
def strides_of(shape: Shape) -> Shape:
    """Strides of elements that lie one after the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def ordered(x: Tensor) -> Shape:
    """Strides of a dense tensor whose dims lie in the order of those of x."""
    if x.dense:
        return x.strides
    strides, step = [0] * len(x.shape), 1
    for axis in sorted(range(len(x.shape)), key=lambda a: (x.strides[a], -a)):
        strides[axis] = step
        step *= x.shape[axis]
    return tuple(strides)


def broadcast(*shapes: Shape) -> Shape:
    """The shape that shapes broadcast to, from the right."""
    longest = max(map(len, shapes))
    padded = [(1,) * (longest - len(s)) + s for s in shapes]
    return tuple(max(sizes) if min(sizes) else 0 for sizes in zip(*padded, strict=True))


def viewed(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides of a view of another shape, None where there is none: as PyTorch decides it."""
    if math.prod(shape) == 0:
        return strides_of(new)
    out, at, axis = [0] * len(new), len(new) - 1, len(shape) - 1
    while axis >= 0:
        run, base = shape[axis], strides[axis]  # a run of dims that lie as one
        while axis > 0 and (shape[axis - 1] == 1 or strides[axis - 1] == run * base):
            axis -= 1
            run *= shape[axis]
        size = 1
        while at >= 0 and (size < run or new[at] == 1):
            out[at] = size * base
            size *= new[at]
            at -= 1
        if size != run:
            return None
        axis -= 1
    return tuple(out)


__all__ = ["Back", "Storage", "Tape", "Tensor", "broadcast", "ordered", "strides_of", "viewed"]
