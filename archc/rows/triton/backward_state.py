"""Numbers of tokens that kernels of a gradient leave in memory, [fields, T], and products of them with matrices."""

from __future__ import annotations

from collections.abc import Sequence

from archc.rows.elements import Element, places
from archc.rows.rules import Param, Unproject
from archc.rows.triton.backward_arrays import Matrix, in_memory, loaded
from archc.rows.triton.elements import count
from archc.rows.triton.parts import parts
from archc.rows.triton.tensors import Tensors, power_of_two
from archc.rows.value import Row

UNPROJECTED = '''\
@jit
def unprojected(numbers, weight):
    """numbers [TILE, M] times weight [M, CHUNK], float32 in three products of bfloat16 terms."""
    numbers_high, weight_high = numbers.to(tl.bfloat16), weight.to(tl.bfloat16)
    numbers_low = (numbers - numbers_high.to(tl.float32)).to(tl.bfloat16)
    weight_low = (weight - weight_high.to(tl.float32)).to(tl.bfloat16)
    total = tl.dot(numbers_high, weight_high, tl.dot(numbers_high, weight_low, tl.dot(numbers_low, weight_high)))
    # A sum of one: without it Triton would lay out every row of the tile as the product is, in which a thread has
    # channels of four tokens, and keeps the numbers of all four in registers.
    return tl.sum(total[None, :, :], 0)
'''


class Stateful(Tensors):
    """A tile with an array ``state`` of numbers."""

    matrices: dict[int, Matrix]
    """What is in memory, or will be."""
    fields: int
    """How many numbers of a token that are."""
    stored: set[int]
    """What has been written."""
    elsewhere: set[int]
    """Sums over the row that are in memory."""
    wholes: dict[int, tuple[str, str]]
    """Numbers that products read: how they are loaded as one tensor [TILE, M], and the name of its fields [M]."""
    loaded_wholes: dict[int, str]
    """Names of those tensors in this pass over the row."""

    def place_in_state(self, v: Row) -> Matrix:
        """Where numbers are in memory."""
        if v.id not in self.matrices:
            self.matrices[v.id] = Matrix(v, self.fields)
            self.fields += count(v)
        return self.matrices[v.id]

    def leave(self, matrix: Matrix) -> None:
        """Writes numbers to memory, once."""
        if matrix.value.id in self.stored:
            return
        self.stored.add(matrix.value.id)
        if self.get(matrix.value) is None and self.dense(matrix.value):
            for start, part in parts(matrix.value):
                at, mask = self._in_state(part, matrix.start + start), self.inside_streams(part.streams, fill="")
                self.line(f"tl.store({at}, {self.tensor(part)}{mask})")
            return
        for i, e in enumerate(self.made(matrix.value)):
            at = f"state + ({matrix.start + i} * T + t)" if matrix.start + i else "state + t"
            self.line(f"tl.store({at}, {self.show(e)}, mask=inside)")

    def remembered(self, v: Row, like: Sequence[Element] = ()) -> list[Element]:
        """Numbers from memory; equal ones, as they were made, once."""
        start, found = self.matrices[v.id].start, dict[Element, Element]()
        made = []
        for i, (e, p) in enumerate(
            zip(like or [Element(str(i)) for i in range(count(v))], places(v.streams), strict=True)
        ):
            if e not in found:
                text = f"tl.load(state + ({start + i} * T + t), mask=inside, other=0.0)"
                found[e] = e if e.number is not None else self.bind(text, "_".join((self.hint(v), *map(str, p))))
            made.append(found[e])
        return made

    def _in_state(self, value: Row, start: int) -> str:
        """The address of numbers of tokens, as a tensor."""
        rank = len(value.streams)
        if not rank:
            return f"state + ({start} * T + t)" if start else "state + t"
        field = f"{self.place_of(value.streams)}[None, {', '.join([':'] * rank)}]"
        field = f"({start} + {field})" if start else field
        return f"state + ({field} * T + t[:, {', '.join(['None'] * rank)}])"

    def tensor(self, value: Row) -> str:
        if value.id in self.elsewhere and value.streams and self.known_tensor(value) is None:
            at = self._in_state(value, self.matrices[value.id].start)
            self.know_tensor(value, self.bound(f"tl.load({at}{self.inside_streams(value.streams)})", value))
        return super().tensor(value)

    def written(self, value: Row) -> list[Element]:
        if value.id in self.elsewhere:
            return self.remembered(value)
        if isinstance(value.rule, Unproject):
            return self._unprojected(value)
        return super().written(value)

    # --- products ----------------------------------------------------------------------------------
    def numbers_of_product(self, v: Row) -> None:
        """The numbers of tokens as one tensor [TILE, M], by way of memory."""
        if v.id in self.wholes:
            return
        m = count(v)
        size = max(16, power_of_two(m))
        if in_memory(v):
            field = self.body.assign(f"tl.arange(0, {size})", "field")
            at = f"(t[:, None] * {m} + {field}[None, :])"
            self.wholes[v.id] = loaded(v, at, f"inside[:, None] & ({field} < {m})[None, :]"), field
            return
        matrix = self.matrices[v.id]
        self.leave(matrix)
        self.line("tl.debug_barrier()")
        field = self.body.assign(f"tl.arange(0, {size})", "field")
        fields = f"({matrix.start} + {field}[None, :])" if matrix.start else f"{field}[None, :]"
        at = f"state + ({fields} * T + t[:, None])"
        mask = f"inside[:, None] & ({field} < {m})[None, :]"
        self.wholes[v.id] = f"tl.load({at}, mask={mask}, other=0.0)", field

    def whole_of(self, v: Row) -> str:
        """The tensor [TILE, M] of numbers, loaded for each chunk: held over the loop it takes a register in eight."""
        if v.id not in self.loaded_wholes:
            self.loaded_wholes[v.id] = self.bind(self.wholes[v.id][0], f"{self.hint(v)}_matrix").text
        return self.loaded_wholes[v.id]

    def _unprojected(self, value: Row) -> list[Element]:
        given, weight = value.args
        assert isinstance(weight.rule, Param)
        matrix, field = self.whole_of(given), self.wholes[given.id][1]
        m, n, width = count(given), count(value), self.kernel.width
        if UNPROJECTED not in self.functions:
            self.functions.append(UNPROJECTED)
        mask = f"({field} < {m})[:, None]" + (f" & (d < {width})[None, :]" if self.masked else "")
        made = []
        for i, place in enumerate(places(value.streams)):
            at = f"{weight.rule.name} + {field}[:, None] * {n * width} + {f'({i * width} + d)' if i else 'd'}[None, :]"
            tile = f"tl.load({at}, mask={mask}, other=0.0)" + (
                "" if weight.rule.format == "fp32" else ".to(tl.float32)"
            )
            tile = self.body.assign(tile, f"{weight.rule.name}_tile")
            hint = "_".join((self.hint(value), *map(str, place)))
            made.append(Element(self.body.assign(f"unprojected({matrix}, {tile})", hint)))
        return made
