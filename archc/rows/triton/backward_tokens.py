"""The kernel of a gradient that walks tokens: what each token is given, and each program's share of sums over them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy

from archc.rows.elements import Element, places
from archc.rows.kernel import Kernel
from archc.rows.rewrite import Levels
from archc.rows.rotate import Rotate
from archc.rows.rules import Format, Input, Outer, Param, RepeatBack, RowMax, RowSum, Unproject
from archc.rows.traffic import bound
from archc.rows.triton.backward_arrays import (
    Matrix,
    Share,
    documented,
    in_memory,
    moved,
    numbers_of,
    shares,
)
from archc.rows.triton.backward_rounds import remembered, rounds_back
from archc.rows.triton.backward_sums import Summing
from archc.rows.triton.elements import count, to
from archc.rows.triton.launch import numbers
from archc.rows.triton.lines import Lines, wrapped
from archc.rows.triton.parts import equal
from archc.rows.triton.tensors import power_of_two
from archc.rows.value import Row, order

HELD = 32768
"""Numbers of a token, over all rows that come and go, that a program holds in registers at once."""

FEW, MANY = 2048, 8192
"""Channels of a tile of short rows; and of one whose program keeps a share of sums over tokens. Such a program has a
processor to itself: half as many shares are written and read as of two programs with half the tile each."""

FEW_TOKENS = 64
"""Tokens up to which one program sums, or two where it holds no sums: a launch, and shares, count beside few rows."""

MANY_TOKENS = 4096
"""Tokens for which shares are weighed against what must move."""

MANY_SHARES = 0.35
"""Numbers of sums over tokens for each number of a token from which on shares of all processors would be a twentieth of
the bytes of 4096 tokens.
"""

SHARED = 1 / 32
"""What shares of programs that keep products add at most to what must move."""

ROWS = 8
"""Rows of a token in registers up to which sixteen warps have enough of them."""

THREAD = 352
"""Numbers of rows that come and go that a thread has room for: not all of them are in registers at once."""

NEIGHBOURS = 8
"""Channels that a thread has of a row: their sum needs no other thread."""

OWN_ROUNDS = "OWN_ROUNDS"
"""In texts, until it is known: numbers that rounds of a repeat keep for the tiles of a program."""

TAKEN = ("program", "tile", "again", "start", "state", "rounds", "unprojected", "outer", "add_outer")


def tokens_of_a_share(kernel: Kernel, sums: Iterable[Row]) -> int:
    """Tokens of a program, so that its share of sums, written and read, is little beside them."""
    size = sum(numbers(kernel, v) for v in sums)
    return math.ceil(2 * 4 * size / (SHARED * bound(kernel, MANY_TOKENS) / MANY_TOKENS))


class Tokens(Summing):
    """Writes the kernel. ``sums`` are those over tokens of which programs keep shares; ``state`` are numbers that the
    kernel of products reads: they are left in memory. ``part``: it is no kernel, but a function that one calls for its
    ``program``.
    """

    def __init__(self, kernel: Kernel, sums: Mapping[str, Row], state: Sequence[Row], *, part: bool = False) -> None:
        self.part = part
        self.given = {n: v for n, v in kernel.gives.items() if v.token}
        self.outers = {n: v for n, v in sums.items() if isinstance(v.rule, Outer)}
        """Products of numbers and rows, summed over tokens."""
        self.shared = {n: v.args[0] for n, v in sums.items() if n not in self.outers}
        factors = [a for v in self.outers.values() for a in v.args]
        self.every = order([*self.given.values(), *self.shared.values(), *factors, *state])
        self.matrices, self.stored, self.elsewhere, self.wholes, self.loaded_wholes = {}, set(), set(), {}, {}
        fields = 0
        multiplied = [v.args[0] for v in (*self.every, *self.outers.values()) if isinstance(v.rule, Unproject | Outer)]
        for v in dict.fromkeys((*state, *(v for v in multiplied if not in_memory(v)))):
            self.matrices[v.id] = Matrix(v, fields)
            fields += count(v)
        self.fields = fields
        self.products = bool(multiplied)
        self.shares = shares(kernel, sums)
        self.persistent = bool(sums)
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
            least = 2 * self.tile
            while held * self.tile > THREAD * 32 * self.warps and (self.warps < 8 or self.tile > 1):
                if self.warps < 8:
                    self.warps *= 2
                else:
                    self.tile //= 2
        else:
            many = 8 * held > THREAD * width
            widest = 64 if self.products or many else 256
            self.chunk = min(widest, divisor) if divisor >= 16 else min(widest, width)
            channels = 1024 if many and not self.products else 2048  # four, or eight, of each row in a thread
            self.tile, self.warps = max(16 if self.products else 1, channels // self.chunk), 8
            if self.outers:
                self.tile = 16
            least = tokens_of_a_share(kernel, sums.values()) if self.outers else self.tile
        self.resident = 2 if self.whole and self.warps < 16 else 1
        """Programs of a processor."""
        self.least = least
        """Tokens of a program at least, so that its share is little beside them."""
        taken = (*TAKEN, *(s.array for s in self.shares))
        super().__init__(kernel, masked=kernel.width % self.chunk != 0, taken=taken)
        self.name = f"{'' if part else '_'}{kernel.name}_tokens"
        used = {v.rule.name for v in self.every if isinstance(v.rule, Input | Param)}
        self.taken = [n for n in kernel.takes if n in used]
        self.moved = moved(kernel, self.taken)
        self.moved |= {to(n): numbers(kernel, v) for n, v in self.given.items()} | ({"state": 1} if self.fields else {})
        self.levels = Levels()
        self.reduced = [v for v in self.every if isinstance(v.rule, RowSum | RowMax)]
        self.apart: set[str] = set()
        """Arrays that the function of numbers alone reads and writes."""
        self.rounds = 0
        """Numbers of a tile of tokens that rounds of a repeat keep in memory."""
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

    @property
    def adding(self) -> bool:
        """Whether a single program has several tiles, and adds them up in memory: that must be float32."""
        return not self.whole and 2 * self.tile < FEW_TOKENS and (bool(self.outers) or self._many_shares())

    def _many_shares(self) -> bool:
        return sum(s.size for s in self.shares) > MANY_SHARES * sum(self.moved.values())

    def programs(self) -> str:
        """How many programs there are of T tokens."""
        if not self.persistent:
            return f"-(-T // {self.tile})"
        most = "processors(device)" if self.resident == 1 else f"{self.resident} * processors(device)"
        if self.outers:
            return f"max(1, min(T // {self.least}, {most}))"
        if self.adding:
            return f"1 if T <= {FEW_TOKENS} else min(-(-T // {self.least}), 3 * processors(device) // 4)"
        many = f"min(-(-T // {self.least}), {most})"
        if self.whole:
            few = f"1 if T <= {FEW_TOKENS} else " if self.least < FEW_TOKENS else ""
        else:  # of two tiles a program would add to what is no float32
            few = f"1 if T <= {self.tile} else 2 if T <= {FEW_TOKENS} else " if 2 * self.tile < FEW_TOKENS else ""
        return few + many

    def sizes_of_tile(self) -> list[str]:
        """Constants of the kernel."""
        return [f"TILE={self.tile}", *([f"CHUNK={self.chunk}"] if self._rows() else [])]

    def options(self) -> list[str]:
        """Constants of a launch."""
        return [*self.sizes_of_tile(), f"num_warps={self.warps}", "num_stages=1", "**FUSED_MULTIPLY_ADD"]

    def _rows(self) -> bool:
        return any(v.row for v in self.every)

    def dtype(self, format: Format) -> str:
        if format != "act":
            return super().dtype(format)
        return f"{next(n for n in self.taken if self.kernel.format(n) == 'act')}.dtype.element_ty"

    def text(self) -> str:
        """The kernel."""
        names = [*self.taken, *map(to, self.given), *self._worked_with()]
        args = ["program"] if self.part else []
        args += [f"{n}_all" if self.persistent and n in self.moved else n for n in names]
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
        if not self.part:
            self.line("program = tl.program_id(0)")
        if self.whole or not self.persistent:
            self.line("t = tl.arange(0, TILE)")
        if self._rows() and self.whole:
            self.line("d = tl.arange(0, CHUNK)")
        before = len(self.body.written)
        if self.persistent:
            with self.block("for tile in range(program, tl.cdiv(T, TILE), tl.num_programs(0)):"):
                self.line("first = tl.cast(tile, tl.int64) * TILE")
                if not self.whole:
                    self.line("again = first >= tl.num_programs(0) * TILE")
                    self.line("# Of each tile anew, which is never below 0: offsets held over all tiles take registers")
                    self.line("t = tl.arange(0, TILE) + tl.minimum(tile, 0)")
                self._tile()
                if not self.whole:
                    self.line("# The next tile adds to the shares that this one wrote")
                    self.line("tl.debug_barrier()")
        else:
            self.line("first = program.to(tl.int64) * TILE")
            self._tile()
        tiles, self.body.written[before:] = self.body.written[before:], []
        self.own("program", [name for name, _ in self._of_programs() if name not in self.apart])
        self.functions = [text.replace(OWN_ROUNDS, str(self.rounds)) for text in self.functions]
        if self.whole:
            self.registers()
        self.body.written += tiles
        if self.whole:
            self.shares_of_registers()

    def _of_programs(self) -> list[tuple[str, int | str]]:
        """Arrays of which each program has a part, and its size."""
        rounds = [("rounds", OWN_ROUNDS)] if self.rounds else []
        return [*rounds, *((share.array, share.size) for share in self.shares)]

    def own(self, program: str, names: Sequence[str]) -> None:
        """Moves arrays to the part of a program."""
        for name, size in self._of_programs():
            if name in names:
                # Where numbers are apart nothing is known yet of rounds that come later
                known = self.rounds if program == "program" and name == "rounds" else size
                self.line(f"{name} += {program}.to(tl.int64) * {known}")

    def _tile(self) -> None:
        self.line("inside = first + t < T")
        for name, each in self.moved.items():
            step = f"first * {each}" if each > 1 else "first"
            self.line(f"{name} = {name}_all + {step}" if self.persistent else f"{name} += {step}")
        last = max((self.levels.of(v) for v in self.every), default=0)
        for level in range(last + 1):
            self._numbers(level)
            self._pass(level)
        if self.outers:
            self._products()
        for matrix in self.matrices.values():
            self.leave(matrix)

    def _numbers(self, level: int) -> None:
        """Numbers that are given once as many passes have ended."""
        rows = self._rows_at(level)
        if any(isinstance(v.rule, Unproject) for v in order(rows)) and any(
            v.token and v.args for v in numbers_of(rows)
        ):
            self._apart(level)
            return
        self.between(level)

    def between(self, level: int) -> None:
        for name, v in self.given.items():
            if not v.row and self.levels.of(v) == level:
                self.store(name, v)
        for share in self.shares:
            v = self.shared.get(share.name)
            if v is not None and not v.row and self.levels.of(v) == level:
                self.add(share, v)

    def _pass(self, level: int) -> None:
        """Rows that can be made once as many passes have ended, and the sums that the next numbers wait for."""
        rows, sums, added = self._walked(level)
        if not (rows or sums or added):
            return
        needed = self._rows_at(level)
        self._waited(needed)
        self.loaded_wholes = {}
        before = len(self.body.written)
        depth = self.body.depth
        totals: list[tuple[Row, list[Element], dict[Element, str]]] = []
        loop = f"for start in range(0, {self.kernel.width}, CHUNK):"
        with nullcontext() if self.whole else self.block(loop):
            if not self.whole:
                self.line("d = start + tl.arange(0, CHUNK)")
            for v in order(needed):
                if isinstance(v.rule, Unproject):  # before there are other rows: of a product all is in registers
                    self.made(v)
            for v in sums:
                totals.append(self._accumulated(v))
            for name, v in rows:
                self.store(name, v)
            if added and not self.whole:
                self.line("# A channel in each thread, as sums over tokens come: wider accesses would take registers")
                self.line("one_by_one = tl.max_contiguous(start + tl.arange(0, CHUNK), 1)")
            for share in added:
                self.add(share, self.shared[share.name])
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

    def _products(self) -> None:
        """A pass of its own for products, as a function: with other rows, and what these need, registers spill."""
        rows = [v.args[1] for v in self.outers.values()]
        inner = self._inner([v for v in order(rows) if v in self.reduced])
        for v in self.outers.values():
            if not in_memory(v.args[0]):
                self.leave(self.matrices[v.args[0].id])
        self.line("tl.debug_barrier()")
        inner.line("t = tl.arange(0, TILE)")
        inner.line("inside = first + t < T")
        inner._waited(rows)  # noqa: SLF001 - a printer like this one
        for v in self.outers.values():
            inner.numbers_of_product(v.args[0])
        with inner.block(f"for start in range(0, {self.kernel.width}, CHUNK):"):
            inner.line("d = start + tl.arange(0, CHUNK)")
            for share in self.shares:
                if share.name in self.outers:
                    inner.add_product(share, *self.outers[share.name].args)
        what = f"Adds a tile's part of {', '.join(self.outers)} to what the program has of it."
        self._call(inner, "products", what, ["TILE", "CHUNK"])

    def _walked(self, level: int) -> tuple[list[tuple[str, Row]], list[Row], list[Share]]:
        """What a pass is for: rows that are given, sums over the row, shares of sums over tokens."""
        rows = [(n, v) for n, v in self.given.items() if v.row and self.levels.of(v) == level]
        sums = [v for v in self.reduced if self.levels.of(v.args[0]) == level]
        added = [s for s in self.shares if s.name in self.shared]
        return rows, sums, [s for s in added if (v := self.shared[s.name]).row and self.levels.of(v) == level]

    def _rows_at(self, level: int) -> list[Row]:
        """The rows that a pass makes."""
        rows, sums, added = self._walked(level)
        return [*(v for _, v in rows), *(v.args[0] for v in sums), *(self.shared[s.name] for s in added)]

    def _of_known(self, v: Row, e: Element) -> Element:
        assert e.number is not None
        return Element("", e.number if isinstance(v.rule, RowMax) else e.number * self.kernel.width)

    def _neighbours(self) -> int:
        return max(1, min(NEIGHBOURS, self.chunk, self.tile * self.chunk // (32 * self.warps)))

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
                self.numbers_of_product(v.args[0])
            elif not v.row and v in rows:
                self.made(v)

    def _apart(self, level: int) -> None:
        """Numbers before a pass with products as a function that is not inlined, and hands on in memory what it makes.

        Where they are one with the rows, registers of numbers are held beside rows, and spill.
        """
        wanted = [v for v in numbers_of(self._rows_at(level)) if v.token and v.args]
        inner = self._inner([v for v in self.reduced if self.levels.of(v) <= level])
        self.line("tl.debug_barrier()")
        inner.line("t = tl.arange(0, TILE)")
        inner.line("inside = first + t < T")
        inner.between(level)
        for v in wanted:
            inner.leave(inner.place_in_state(v))
        for v in order(self._rows_at(level)):
            if isinstance(v.rule, Unproject) and not in_memory(v.args[0]):
                inner.leave(self.matrices[v.args[0].id])
        self.rounds, self.fields = inner.rounds, inner.fields
        what = "Numbers of a tile of tokens before a pass over the row, which finds them in state."
        self._call(inner, "numbers", what, ["TILE"])
        self.line("tl.debug_barrier()")
        for v, like in zip(wanted, equal(wanted), strict=True):
            self.know(v, self.remembered(v, like))

    def _inner(self, sums: Sequence[Row]) -> Tokens:
        """What writes a function for a tile; it finds ``sums`` over the row in memory."""
        inner = copy(self)
        inner.body, inner.known = Lines(self.arguments_taken, depth=1), [{}]
        inner._places = [{}]  # noqa: SLF001 - a printer like this one
        inner.wholes, inner.loaded_wholes = {}, {}
        for v in sums:
            self.leave(self.place_in_state(v))
            inner.elsewhere = {*inner.elsewhere, v.id}
        inner.matrices, inner.fields = self.matrices, self.fields
        return inner

    def _call(self, inner: Tokens, what: str, said: str, sizes: Sequence[str]) -> None:
        """Makes what was written a function that is not inlined, and calls it."""
        name, text = self.body.name(f"{self.kernel.name}_{what}"), inner.body.text()
        names = [*self.taken, *map(to, self.given), "state", "rounds", *(s.array for s in self.shares)]
        names += ["first", "T"]
        used = [n for n in names if re.search(rf"\b{n}\b", text)]
        # Here, and not where tiles begin: addresses would take registers all along
        before = Lines(depth=1)
        mine = copy(inner)
        mine.body = before
        mine.own("tl.program_id(0)", used)
        self.apart |= {name for name, _ in self._of_programs() if name in used}
        if re.search(r"\bagain\b", text):
            before.line("again = first >= tl.num_programs(0) * TILE")
        text = f"{before.text()}\n{text}" if before.written else text
        head = "\n".join(wrapped(f"def {name}(", [*used, *(f"{size}: tl.constexpr" for size in sizes)], "):"))
        self.functions.append("\n".join([f"@jit(noinline=True)\n{head}", *documented(said), f"{text}\n"]))
        for line in wrapped(f"{name}(", [*used, *sizes], ")"):
            self.line(line)

    def formula(self, value: Row) -> str:
        if not isinstance(value.rule, RepeatBack):
            return super().formula(value)
        memory = f"rounds + {self.rounds}" if self.rounds else "rounds"
        self.rounds += remembered(value) * self.tile
        return rounds_back(self, value, memory)
