"""The softmax as one value to gradients, which need nothing but what it gave."""

from __future__ import annotations

from collections.abc import Iterable

from archc.rows.few_bits import Through
from archc.rows.rules import RowSum, Spread, add, mul, product
from archc.rows.value import Row


class Softmax(Through):
    """The second operand, which is the softmax of the first over the row, or of numbers over the last stream axis.

    Its gradient is p (g - sum of p g) for what it gave, p: no exponential is computed again, nor are the numbers that
    it was made of read again.
    """

    def vjp(self, out: Row, grad: Row) -> Iterable[Row | None]:
        program, letters = out.program, "abcdefgh"[: len(out.streams)]
        if out.row:
            mean = program.make(RowSum(), mul(grad, out))
        else:
            mean = product(f"{letters},{letters}->{letters[:-1]}", out, grad)
        program.hinted("mean_grad", mean)
        less = mul(mean, -1.0)
        if not out.row and len(out.streams) > 1:
            less = program.make(Spread(kept=letters[:-1], made=letters, sizes=out.streams), less)
        return mul(out, add(grad, less)), None
