"""Row programs as one Triton kernel and what launches it."""

from __future__ import annotations

from archc.rows.elements import Element
from archc.rows.kernel import Kernel, bare, optimised
from archc.rows.rewrite import Levels
from archc.rows.rules import Add as Sum
from archc.rows.rules import Clip, Input, Param, Product, Project, Round, RowMax, RowSum, Spread, Take
from archc.rows.triton.elements import to
from archc.rows.triton.launch import numbers
from archc.rows.triton.tensors import Tensors
from archc.rows.value import Row, order


class Forward(Tensors):
    """What all forms of a kernel share: its head, what can be given when, sums over the row."""

    def __init__(self, kernel: Kernel, *, masked: bool) -> None:
        kernel = bare(optimised(kernel))
        super().__init__(kernel, masked=masked, taken=("partial", "arrived"))
        self.levels = Levels()
        self.every = order(kernel.gives.values())
        self.reduced = [v for v in self.every if isinstance(v.rule, RowSum | RowMax | Project)]
        self.last = max((self.levels.of(v) for v in self.every), default=0)

    def head(self) -> None:
        """The tokens of the tile; pointers moved to its first."""
        self.line("first = tl.program_id(0).to(tl.int64) * TILE")
        self.line("t = tl.arange(0, TILE)")
        self.line("inside = first + t < T")
        gives = {to(n): v for n, v in self.kernel.gives.items()}
        for name, v in (*self.kernel.takes.items(), *gives.items()):
            shared = v.rule.shared if isinstance(v.rule, Input) else 1
            if v.token and shared == 1:
                self.line(f"{name} += first" + (f" * {each}" if (each := numbers(self.kernel, v)) > 1 else ""))

    def rows_at(self, level: int) -> list[tuple[str, Row]]:
        """The rows that are given and can be made once as many passes have ended."""
        return [(n, v) for n, v in self.kernel.gives.items() if v.row and self.levels.of(v) == level]

    def numbers_at(self, level: int) -> list[tuple[str, Row]]:
        """The numbers that are given and can be made once as many passes have ended."""
        return [(n, v) for n, v in self.kernel.gives.items() if not v.row and self.levels.of(v) == level]

    def summand(self, x: Row, e: Element, *, most: bool = False) -> str:
        """An element of a row whose sum, or largest, is taken: channels beyond the width count for nothing."""
        if not self.masked or (not most and vanishes(x)):
            return e.text
        fill = '-float("inf")' if most else "0.0"
        return f"tl.where((d < {self.kernel.width})[None, :], {e.text}, {fill})"


def vanishes(x: Row) -> bool:
    """Whether a row value is zero where what it is made of was read as zero."""
    if not x.row:
        return False
    if isinstance(x.rule, Input | Param):
        return True
    if isinstance(x.rule, Product):
        return any(vanishes(a) for a in x.args) and all(not a.row or vanishes(a) for a in x.args)
    if isinstance(x.rule, Sum | Round | Take | Spread):
        return all(vanishes(a) for a in x.args)
    return isinstance(x.rule, Clip) and x.rule.low <= 0 <= x.rule.high and vanishes(x.args[0])
