"""Kernels whose programs hold whole rows in registers: each is read once."""

from __future__ import annotations

from archc.rows.elements import Element
from archc.rows.kernel import Kernel
from archc.rows.rules import RowMax
from archc.rows.triton.elements import count
from archc.rows.triton.forward import Forward
from archc.rows.triton.launch import NEEDS, Sizes, launcher, signature
from archc.rows.triton.printed import Printed, called
from archc.rows.triton.tensors import power_of_two
from archc.rows.value import Row

TILE = 2048
"""Channels of a program, streams counted, where rows are shorter."""

LANES = 256
"""Channels of a row at least for each warp: eight for a thread, 128 bits of bfloat16; half as many of ..."""

MANY = 10
"""... more streams than these, whose rows would take all registers."""


class Whole(Forward):
    """A tile of whole rows, or of numbers alone."""

    def __init__(self, kernel: Kernel) -> None:
        self.width = power_of_two(kernel.width)
        super().__init__(kernel, masked=self.width != kernel.width)

    def printed(self) -> Printed:
        """The kernel and its launcher."""
        sizes = Sizes(128)
        self.head()
        if any(v.row for v in self.every):
            arrays = (*self.kernel.takes.values(), *self.kernel.gives.values())
            streams = max(count(v) for v in arrays if v.row and v.token)
            wide, lanes = self.width * streams, LANES if streams <= MANY else LANES // 2
            tile = max(power_of_two(TILE // wide + 1) // 2, lanes // self.width, 1)
            warps = max(1, min(16, max(4, tile * wide // 512), tile * self.width // lanes))
            sizes = Sizes(tile, self.width, warps=warps)
            self.line("d = tl.arange(0, CHUNK)")
        for level in range(self.last + 1):
            for v in self.reduced:
                if self.levels.of(v) == level:
                    self.know(v, self._reduced(v))
            for name, v in (*self.numbers_at(level), *self.rows_at(level)):
                self.store(name, v)
        name, text = launcher(self.kernel, {None: sizes})
        what = f'"""A tile of {"whole rows" if sizes.chunk else "tokens"}."""'
        body = f"@jit\n{signature(self.kernel, [], sizes)}\n    {what}\n{self.body.text()}\n"
        whole = "\n\n".join((*self.functions, body, text))
        return Printed(whole, name, NEEDS | called(whole))

    def _reduced(self, v: Row) -> list[Element]:
        (x,) = v.args
        most = isinstance(v.rule, RowMax)
        made: dict[Element, Element] = {}
        for e in self.made(x):
            if e in made:
                continue
            if e.number is not None:
                made[e] = Element("", e.number if most else e.number * self.kernel.width)
            else:
                along = ", 1" if v.token else ""
                text = f"tl.{'max' if most else 'sum'}({self.summand(x, e, most=most)}{along})"
                made[e] = self.bind(text, self.hint(v))
        return [made[e] for e in self.made(x)]
