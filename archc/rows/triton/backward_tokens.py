"""The kernel of a gradient that walks tokens: what each token is given, and each program's share of sums over them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy

from archc.rows.elements import Element, places
from archc.rows.kernel import Kernel
from archc.rows.rewrite import Levels
from archc.rows.rotate import Rotate
from archc.rows.rules import Format, Input, Param, RepeatBack, RowMax, RowSum, Unproject
from archc.rows.triton.backward_arrays import Matrix, Share, documented, in_memory, loaded, moved, numbers_of, shares
from archc.rows.triton.backward_rounds import rounds_back
from archc.rows.triton.elements import Tile, count, to
from archc.rows.triton.forward import power_of_two
from archc.rows.triton.launch import numbers
from archc.rows.triton.lines import Lines, wrapped
from archc.rows.value import Row, order

HELD = 32768
"""Numbers of a token, over all rows that come and go, that a program holds in registers at once."""

FEW, MANY = 2048, 8192
"""Channels of a tile of short rows; and of one whose program keeps a share of sums over tokens. Such a program has a
processor to itself: half as many shares are written and read as of two programs with half the tile each."""

FEW_TOKENS = 64
"""Tokens up to which one program sums, or two where it holds no sums: a launch, and shares, count beside few rows."""

ROWS = 8
"""Rows of a token in registers up to which sixteen warps have enough of them."""

NEIGHBOURS = 8
"""Channels that a thread has of a row: their sum needs no other thread."""

TAKEN = ("program", "tile", "again", "start", "state", "rounds", "unprojected")

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


class Tokens(Tile):
    """Writes the kernel. ``state`` are numbers that the kernel of products reads: they are left in memory."""

    def __init__(self, kernel: Kernel, shared: Mapping[str, Row], state: Sequence[Row]) -> None:
        self.given = {n: v for n, v in kernel.gives.items() if v.token}
        self.shared = {n: v.args[0] for n, v in shared.items()}
        self.every = order([*self.given.values(), *self.shared.values(), *state])
        self.matrices: dict[int, Matrix] = {}
        fields = 0
        unprojected = [v.args[0] for v in self.every if isinstance(v.rule, Unproject)]
        for v in dict.fromkeys((*state, *(v for v in unprojected if not in_memory(v)))):
            self.matrices[v.id] = Matrix(v, fields)
            fields += count(v)
        self.fields = fields
        self.products = bool(unprojected)
        self.shares = shares(kernel, shared)
        self.persistent = bool(shared)
        width = power_of_two(kernel.width)
        rows = [v for v in self.every if v.row and isinstance(v.rule, Input | Param)]
        rows += [v for v in (*self.given.values(), *self.shared.values()) if v.row]
        held = sum(map(count, rows)) * width
        turned = any(isinstance(v.rule, Rotate) for v in self.every)
        self.whole = not rows or turned or (held <= HELD and not self.products)
        divisor = kernel.width & -kernel.width
        if self.whole:
            self.chunk = width
            alone = self.persistent and held <= ROWS * width
            self.tile = max(1, (MANY if alone else FEW) // width) if rows else 128
            self.warps = min(16, max(4, self.tile * width // 512)) if rows else 4
        else:
            widest = 64 if self.products else 256
            self.chunk = min(widest, divisor) if divisor >= 16 else min(widest, width)
            self.tile, self.warps = max(16 if self.products else 1, 2048 // self.chunk), 8
        self.resident = 2 if self.whole and self.warps < 16 else 1
        """Programs of a processor."""
        self.least = self.tile * (2 if self.whole else 1)
        """Tokens of a program at least, so that its share is little beside them."""
        taken = (*TAKEN, *(s.array for s in self.shares))
        super().__init__(kernel, masked=kernel.width % self.chunk != 0, taken=taken)
        self.name = f"_{kernel.name}_tokens"
        used = {v.rule.name for v in self.every if isinstance(v.rule, Input | Param)}
        self.taken = [n for n in kernel.takes if n in used]
        self.moved = moved(kernel, self.taken)
        self.moved |= {to(n): numbers(kernel, v) for n, v in self.given.items()} | ({"state": 1} if self.fields else {})
        self.levels = Levels()
        self.reduced = [v for v in self.every if isinstance(v.rule, RowSum | RowMax)]
        self.rounds = 0
        """Numbers of a tile of tokens that rounds of a repeat keep in memory."""
        self.stored: set[int] = set()
        self.elsewhere: set[int] = set()
        """Sums over the row that are in memory."""
        self.wholes: dict[int, tuple[str, str]] = {}
        """Numbers that products read: as one tensor [TILE, M], and the name of its fields [M]."""
        self._write()

    # --- what a launcher must know -----------------------------------------------------------------
    def memory(self) -> list[tuple[str, str]]:
        """Arrays to work with but shares, and their sizes."""
        made = []
        if self.fields:
            made.append(("state", f"({self.fields}, T)"))
        if self.rounds:
            made.append(("rounds", f"(programs, {self.rounds})"))
        return made

    @property
    def arguments(self) -> list[str]:
        """The arrays that the kernel gets."""
        return [*self.taken, *self.given, *self._worked_with()]

    def _worked_with(self) -> list[str]:
        return [*(name for name, _ in self.memory()), *(s.array for s in self.shares)]

    def programs(self) -> str:
        """How many programs there are of T tokens."""
        if not self.persistent:
            return f"-(-T // {self.tile})"
        most = "processors(device)" if self.resident == 1 else f"{self.resident} * processors(device)"
        many = f"min(-(-T // {self.least}), {most})"
        if self.whole:
            few = f"1 if T <= {FEW_TOKENS} else " if self.least < FEW_TOKENS else ""
        else:  # what lies in memory is added to, so it must be float32 as soon as a program has two tiles
            few = f"1 if T <= {self.tile} else 2 if T <= {FEW_TOKENS} else " if 2 * self.tile < FEW_TOKENS else ""
        return few + many

    def options(self) -> list[str]:
        """Constants of a launch."""
        sizes = [f"TILE={self.tile}", *([f"CHUNK={self.chunk}"] if self._rows() else [])]
        return [*sizes, f"num_warps={self.warps}", "num_stages=1", "**FUSED_MULTIPLY_ADD"]

    def _rows(self) -> bool:
        return any(v.row for v in self.every)

    def dtype(self, format: Format) -> str:
        if format != "act":
            return super().dtype(format)
        return f"{next(n for n in self.taken if self.kernel.format(n) == 'act')}.dtype.element_ty"

    def text(self) -> str:
        """The kernel."""
        names = [*self.taken, *map(to, self.given), *self._worked_with()]
        args = [f"{n}_all" if self.persistent and n in self.moved else n for n in names]
        args += ["T", "TILE: tl.constexpr", *(["CHUNK: tl.constexpr"] if self._rows() else [])]
        head = "\n".join(wrapped(f"def {self.name}(", args, "):"))
        what = f"{', '.join(self.given)} of a tile of tokens" if self.given else "A tile of tokens"
        if self.shares:
            what += f"; of {', '.join(s.name for s in self.shares)} the share of each program"
        if self.fields:
            what += "; state: numbers of tokens, [fields, T]"
        return "\n".join([f"@jit\n{head}", *documented(f"{what}."), f"{self.body.text()}\n"])

    # --- the tile ----------------------------------------------------------------------------------
    def _write(self) -> None:
        self.line("program = tl.program_id(0)")
        self.line("t = tl.arange(0, TILE)")
        if self._rows() and self.whole:
            self.line("d = tl.arange(0, CHUNK)")
        before = len(self.body.written)
        if self.persistent:
            with self.block("for tile in range(program, tl.cdiv(T, TILE), tl.num_programs(0)):"):
                self.line("first = tl.cast(tile, tl.int64) * TILE")
                if not self.whole:
                    self.line("again = first >= tl.num_programs(0) * TILE")
                self._tile()
                if not self.whole:
                    self.line("# The next tile adds to the shares that this one wrote")
                    self.line("tl.debug_barrier()")
        else:
            self.line("first = program.to(tl.int64) * TILE")
            self._tile()
        tiles, self.body.written[before:] = self.body.written[before:], []
        if self.rounds:
            self.line(f"rounds += program * {self.rounds}")
        for share in self.shares:
            self.line(f"{share.array} += program.to(tl.int64) * {share.size}")
        if self.whole:
            self._registers()
        self.body.written += tiles
        if self.whole:
            self._shares_of_registers()

    def _tile(self) -> None:
        self.line("inside = first + t < T")
        for name, each in self.moved.items():
            step = f"first * {each}" if each > 1 else "first"
            self.line(f"{name} = {name}_all + {step}" if self.persistent else f"{name} += {step}")
        last = max((self.levels.of(v) for v in self.every), default=0)
        for level in range(last + 1):
            self._numbers(level)
            self._pass(level)
        for matrix in self.matrices.values():
            self.leave(matrix)

    def _numbers(self, level: int) -> None:
        """Numbers that are given once as many passes have ended."""
        if level and self.products and self._rows_at(level):
            self._apart(level)
            return
        self.between(level)

    def between(self, level: int) -> None:
        for name, v in self.given.items():
            if not v.row and self.levels.of(v) == level:
                self.store(name, v)
        for share in self.shares:
            v = self.shared[share.name]
            if not v.row and self.levels.of(v) == level:
                self._add(share, v)

    def _pass(self, level: int) -> None:
        """Rows that can be made once as many passes have ended, and the sums that the next numbers wait for."""
        rows, sums, added = self._walked(level)
        if not (rows or sums or added):
            return
        needed = self._rows_at(level)
        self._waited(needed)
        before = len(self.body.written)
        depth = self.body.depth
        totals: list[tuple[Row, list[Element], dict[Element, str]]] = []
        loop = f"for start in range(0, {self.kernel.width}, CHUNK):"
        with nullcontext() if self.whole else self.block(loop):
            if not self.whole:
                self.line("d = start + tl.arange(0, CHUNK)")
            for v in sums:
                totals.append(self._accumulated(v))
            for name, v in rows:
                self.store(name, v)
            for share in added:
                self._add(share, self.shared[share.name])
        if not self.whole:
            loop_lines, self.body.written[before:] = self.body.written[before:], []
            for v, _, names in totals:
                for name in names.values():
                    fill = (
                        'tl.full((TILE, CHUNK // {}), -float("inf"), tl.float32)' if isinstance(v.rule, RowMax) else ""
                    )
                    zero = "tl.zeros((TILE, CHUNK // {}), tl.float32)"
                    self.line(f"{name} = {(fill or zero).format(self._neighbours())}")
            self.body.written += loop_lines
        assert depth == self.body.depth
        for v, elements, names in totals:
            end = "max" if isinstance(v.rule, RowMax) else "sum"
            ended = {
                e: Element(name) if self.whole else self.bind(f"tl.{end}({name}, 1)", name.removesuffix("_parts"))
                for e, name in names.items()
            }
            ended |= {e: self._of_known(v, e) for e in elements if e.number is not None}
            self.know(v, [ended[e] for e in elements])

    def _walked(self, level: int) -> tuple[list[tuple[str, Row]], list[Row], list[Share]]:
        """What a pass is for: rows that are given, sums over the row, shares of sums over tokens."""
        rows = [(n, v) for n, v in self.given.items() if v.row and self.levels.of(v) == level]
        sums = [v for v in self.reduced if self.levels.of(v.args[0]) == level]
        return rows, sums, [s for s in self.shares if (v := self.shared[s.name]).row and self.levels.of(v) == level]

    def _rows_at(self, level: int) -> list[Row]:
        """The rows that a pass makes."""
        rows, sums, added = self._walked(level)
        return [*(v for _, v in rows), *(v.args[0] for v in sums), *(self.shared[s.name] for s in added)]

    def _of_known(self, v: Row, e: Element) -> Element:
        assert e.number is not None
        return Element("", e.number if isinstance(v.rule, RowMax) else e.number * self.kernel.width)

    def _neighbours(self) -> int:
        return min(NEIGHBOURS, self.chunk)

    def _accumulated(self, v: Row) -> tuple[Row, list[Element], dict[Element, str]]:
        """The elements of a row whose sum is taken, and the names that equal ones of them are summed under."""
        elements = self.made(v.args[0])
        most = isinstance(v.rule, RowMax)
        names: dict[Element, str] = {}
        for e, place in zip(elements, places(v.streams), strict=True):
            if e in names or e.number is not None:
                continue
            text = e.text
            if self.masked:
                fill = '-float("inf")' if most else "0.0"
                text = f"tl.where((d < {self.kernel.width})[None, :], {text}, {fill})"
            if self.whole:
                names[e] = self.bind(f"tl.{'max' if most else 'sum'}({text}, 1)", self.hint(v)).text
                continue
            name = names[e] = self.body.name("_".join((self.hint(v), *map(str, place), "parts")))
            n = self._neighbours()
            parts = f"tl.{'max' if most else 'sum'}(tl.reshape({text}, (TILE, CHUNK // {n}, {n})), 2)"
            self.body.reassign(name, f"tl.maximum({name}, {parts})" if most else f"{name} + {parts}")
        return v, elements, names

    def _waited(self, rows: Sequence[Row]) -> None:
        """Makes the numbers that rows are made of before the loop over the row."""
        for v in numbers_of(rows):
            self.made(v)
        for v in order(rows):
            if isinstance(v.rule, Unproject):
                self._numbers_of_product(v.args[0])
            elif not v.row and v in rows:
                self.made(v)

    def _apart(self, level: int) -> None:
        """Numbers between two passes as a function that is not inlined, and that hands on in memory what it makes.

        From each access to memory Triton looks at all that it is connected with: it would take a minute to compile all
        numbers and rows as one.
        """
        wanted = [v for v in numbers_of(self._rows_at(level)) if v.token and v.args]
        inner = copy(self)
        inner.body, inner.known = Lines(self.arguments_taken, depth=1), [{}]
        inner._places = [{}]  # noqa: SLF001 - a printer like this one
        for v in self.reduced:
            if self.levels.of(v) <= level:
                self.leave(self.place_in_state(v))
                inner.elsewhere = {*inner.elsewhere, v.id}
        self.line("tl.debug_barrier()")
        inner.line("t = tl.arange(0, TILE)")
        inner.line("inside = first + t < T")
        inner.matrices, inner.fields = self.matrices, self.fields
        inner.between(level)
        for v in wanted:
            inner.leave(inner.place_in_state(v))
        for v in order(self._rows_at(level)):
            if isinstance(v.rule, Unproject) and not in_memory(v.args[0]):
                inner.leave(self.matrices[v.args[0].id])
        self.rounds, self.fields = inner.rounds, inner.fields
        name, text = f"{self.kernel.name}_numbers", inner.body.text()
        names = [*self.taken, *map(to, self.given), "state", "rounds", *(s.array for s in self.shares)]
        names += ["again", "first", "T"]
        used = [n for n in names if re.search(rf"\b{n}\b", text)]
        head = "\n".join(wrapped(f"def {name}(", [*used, "TILE: tl.constexpr"], "):"))
        what = (
            '"""Numbers of a tile of tokens between two passes over the row; what the second needs is left in state."""'
        )
        self.functions.append(f"@jit(noinline=True)\n{head}\n    {what}\n{text}\n")
        for line in wrapped(f"{name}(", [*used, "TILE"], ")"):
            self.line(line)
        self.line("tl.debug_barrier()")
        for v in wanted:
            self.know(v, self._remembered(v, inner.made(v)))

    def place_in_state(self, v: Row) -> Matrix:
        """Where numbers are in memory."""
        if v.id not in self.matrices:
            self.matrices[v.id] = Matrix(v, self.fields)
            self.fields += count(v)
        return self.matrices[v.id]

    def _remembered(self, v: Row, like: Sequence[Element] = ()) -> list[Element]:
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

    # --- products ----------------------------------------------------------------------------------
    def leave(self, matrix: Matrix) -> None:
        """Writes numbers to memory, once."""
        if matrix.value.id in self.stored:
            return
        self.stored.add(matrix.value.id)
        for i, e in enumerate(self.made(matrix.value)):
            at = f"state + ({matrix.start + i} * T + t)" if matrix.start + i else "state + t"
            self.line(f"tl.store({at}, {self.show(e)}, mask=inside)")

    def _numbers_of_product(self, v: Row) -> None:
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

    def written(self, value: Row) -> list[Element]:
        if value.id in self.elsewhere:
            return self._remembered(value)
        if isinstance(value.rule, Unproject):
            return self._unprojected(value)
        if isinstance(value.rule, RepeatBack):
            memory = f"rounds + {self.rounds}" if self.rounds else "rounds"
            self.rounds += value.rule.times * count(value) * self.tile
            return rounds_back(self, value, memory)
        return super().written(value)

    def _unprojected(self, value: Row) -> list[Element]:
        given, weight = value.args
        assert isinstance(weight.rule, Param)
        load, field = self.wholes[given.id]
        # Loaded for each chunk: held over the loop it would take a register in eight
        matrix = self.bind(load, f"{self.hint(given)}_matrix").text
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
            made.append(self.bind(f"unprojected({matrix}, {tile})", hint))
        return made

    # --- sums over tokens --------------------------------------------------------------------------
    def _add(self, share: Share, v: Row) -> None:
        """Adds a tile's part of a sum over tokens to what the program has of it."""
        inside = "inside[:, None]" if v.row else "inside"
        for i, e in enumerate(self.made(v)):
            text = f"tl.where({inside}, {self.show(e)}, 0.0)"
            if self.whole:
                self.line(f"{self._register(share, i, count(v))} += {text}")
                continue
            step = self.kernel.width if v.row else 1
            at = share.array + (f" + {i * step}" if i else "") + (" + d" if v.row else "")
            mask = f"mask=d < {self.kernel.width}" if v.row and self.masked else ""
            before = f"tl.where(again, tl.load({', '.join((at, *([mask] if mask else [])))}), 0.0)"
            self.line(f"tl.store({', '.join((at, f'{before} + tl.sum({text}, 0)', *([mask] if mask else [])))})")

    def _register(self, share: Share, i: int, n: int) -> str:
        return f"{share.name}_share" + (f"_{i}" if n > 1 else "")

    def _registers(self) -> None:
        for share in self.shares:
            v = self.shared[share.name]
            for i in range(count(v)):
                shape = "(TILE, CHUNK)" if v.row else "(TILE,)"
                self.line(f"{self._register(share, i, count(v))} = tl.zeros({shape}, tl.float32)")

    def _shares_of_registers(self) -> None:
        for share in self.shares:
            v = self.shared[share.name]
            for i in range(count(v)):
                step = self.kernel.width if v.row else 1
                at = share.array + (f" + {i * step}" if i else "") + (" + d" if v.row else "")
                mask = f", mask=d < {self.kernel.width}" if v.row and self.masked else ""
                self.line(f"tl.store({at}, tl.sum({self._register(share, i, count(v))}, 0){mask})")
