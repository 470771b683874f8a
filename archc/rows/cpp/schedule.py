"""The order of a kernel's work: passes over the row, numbers between them, products of matrices beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from archc.rows.cpp.lines import RESERVED
from archc.rows.kernel import Kernel
from archc.rows.rewrite import Matrix, rebuilt, summed_last
from archc.rows.rotate import Rotate
from archc.rows.rules import (
    Add,
    Const,
    Input,
    Outer,
    Pad,
    Param,
    Placeholder,
    Product,
    Project,
    Recip,
    Repeat,
    RepeatBack,
    RowMax,
    RowSum,
    Spread,
    Take,
    TokenSum,
    Unproject,
    product,
)
from archc.rows.value import Row, order

HEAD = -1
"""The block of what all tokens share."""


TOGETHER = (Add, Placeholder, Product, Recip, Spread)
"""What C++ knows to do with numbers of several tokens at once."""


class NoCpp(TypeError):
    """A kernel that has no C++."""


def count(value: Row) -> int:
    """How many numbers, or rows, a value has for each token."""
    return math.prod(value.streams)


def prepared(kernel: Kernel) -> Kernel:
    """The kernel with products of matrices as functions of C++ know them (by a parameter, or else element by element),
    sums over tokens last, and names that C++ has no meaning for.
    """
    gives = {v.id for v in kernel.gives.values()}
    names = {n: f"{n}_" if n in RESERVED else n for n in (*kernel.takes, *kernel.gives)}

    def change(old: Row, new: Row) -> Row:
        rule, make = new.rule, new.program.make
        if isinstance(rule, Input | Param):
            return new if names.get(rule.name, rule.name) == rule.name else make(rule.replaced(name=names[rule.name]))
        if isinstance(rule, Project | Unproject) and not isinstance(new.args[1].rule, Param):
            n = "abcd"[: len(new.args[1].streams) - 1]
            if isinstance(rule, Unproject):
                return product(f"m,m{n}->{n}", *new.args)
            return product(f"m{n}->m", make(RowSum(), product(f"{n},m{n}->m{n}", *new.args)))
        if isinstance(rule, Outer) and old.id not in gives:
            n = "abcd"[: len(new.args[1].streams)]
            return make(TokenSum(), product(f"m,{n}->m{n}", *new.args))
        sums = [isinstance(a.rule, TokenSum) for a in new.args]
        alone = isinstance(rule, Take | Spread | Matrix | RowSum) or not any(a.token for a in new.args)
        if isinstance(rule, Take | Spread | Matrix | RowSum | Product) and sums.count(True) == 1 and alone:
            return make(TokenSum(), make(rule, *(a.args[0] if s else a for a, s in zip(new.args, sums, strict=True))))
        return new

    takes = rebuilt(list(kernel.takes.values()), change)
    made = summed_last(rebuilt(list(kernel.gives.values()), change))
    return kernel._replace(
        takes={names[n]: v for n, v in zip(kernel.takes, takes, strict=True)},
        gives={names[n]: v for n, v in zip(kernel.gives, made, strict=True)},
        stored={names[n]: format for n, format in kernel.stored.items()},
    )


class Pass(NamedTuple):
    """A walk over the row."""

    level: int
    stores: list[tuple[str, Row]]
    """Rows that go to memory, each with where to."""
    reduced: list[Row]
    summed: list[tuple[str, Row]]
    """Rows that are added to a sum over tokens, each with its name."""
    leaves: list[Row]
    """Rows that are read from memory."""
    numbers: list[Row]
    """Numbers that rows are made of."""
    unprojected: list[Row]
    projected: list[Row]
    repeats: list[Row]
    """Repeats that run after it, for all tokens of a tile at once."""
    uses: Counter[int]
    """How often a row is an operand, or an end, of the pass."""

    @property
    def ends(self) -> list[Row]:
        """Rows that the pass is for."""
        return [v for _, v in self.stores] + [v.args[0] for v in self.reduced] + [v for _, v in self.summed]

    @property
    def products(self) -> bool:
        """Whether products of matrices go with it, chunk by chunk of the row."""
        return bool(self.unprojected or self.projected)


class Schedule:
    """Blocks of a kernel's work: block 2 n makes the numbers before pass n, block 2 n + 1 is the pass."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.every = order(kernel.gives.values())
        self._levels: dict[int, int] = {}
        self.body = _bodies(self.every)
        self.sparse = padded(self.every, (Matrix,))
        """Numbers that only put others in their places: where rows read them, zeros are left out of the text."""
        for name, v in kernel.gives.items():
            if not v.token and not isinstance(v.rule, TokenSum | Outer):
                raise NoCpp(f"{name} of {kernel.name} is the same for all tokens")
        self.stored = {v.id: name for name, v in kernel.gives.items() if v.row and v.token}
        """Rows in memory once their pass has ended, by what memory is called."""
        self.held: dict[str, Row] = {}
        """Rows of which only a tile is kept, by the name of that memory."""
        self.turned: dict[int, str] = {}
        """Rows that are turned where they lie."""
        self.outers = {n: v for n, v in kernel.gives.items() if isinstance(v.rule, Outer)}
        self._hold()
        self.tiled = any(isinstance(v.rule, Project | Unproject) for v in self.every)
        self.tiled |= any(map(self.late, self.outers.values()))
        self.together = {v.id for v in self.every if self.tiled and self._runs_together(v)}
        """Repeats that run for all tokens of a tile at once."""
        self.depth = max((self.level(v) for v in self.every if v.id not in self.body), default=0)
        self.passes = [self._pass(level) for level in range(self.depth + 1)]
        self.end = 2 * self.depth + 2
        self.block: dict[int, int] = {}
        """In which block a number is made."""
        late = [v for v in self.outers.values() if self.late(v)]
        self.repeated = {a.id for p in self.passes for v in p.repeats for a in self.operands(v)}
        """Numbers that repeats start from, for all tokens of a tile at once."""
        self.multiplied = {v.args[0].id for v in (*late, *(u for p in self.passes for u in p.unprojected))}
        self.multiplied |= self.repeated
        """Numbers that a matrix multiplies, or a repeat starts from: those of a tile lie one after another."""
        self.readers = self._readers()
        self._segments = self._segmented()

    def level(self, value: Row) -> int:
        """How many passes must have ended before a value can be made."""
        for v in order([value]) if value.id not in self._levels else ():
            if v.id not in self._levels:
                below = max((self._levels[a.id] for a in v.args), default=0)
                ends = isinstance(v.rule, RowSum | RowMax | Project | Rotate) or v.id in self.together
                self._levels[v.id] = below + ends
        return self._levels[value.id]

    def late(self, value: Row) -> bool:
        """Whether a product that is summed over tokens is made tile by tile, for its rows are gone afterwards."""
        x = value.args[1]
        return not (isinstance(x.rule, Input) or self.stored.get(x.id) in self.kernel.gives)

    def reads(self, value: Row, level: int) -> bool:
        """Whether a pass finds a row in memory."""
        there = value.id in self.stored and self.level(value) < level
        return isinstance(value.rule, Input | Param) or value.id in self.turned or there

    # --- rows ------------------------------------------------------------------------------------
    def _hold(self) -> None:
        """Finds rows that must lie in memory, for products of matrices or to be turned."""
        for v in self.every:
            if isinstance(v.rule, Rotate):
                self.turned[v.id] = name = self._hint(v)
                self.held[name] = v.args[0]
            elif isinstance(v.rule, Project | Outer):
                x = v.args[isinstance(v.rule, Outer)]
                if not isinstance(x.rule, Input) and x.id not in self.stored and x.id not in self.turned:
                    self.stored[x.id] = name = self._hint(x)
                    self.held[name] = x

    def _hint(self, value: Row) -> str:
        name = value.program.names.get(value.id) or f"{type(value.rule).__name__.lower()}_row"
        taken = {*self.kernel.takes, *self.kernel.gives, *self.held}
        return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}_{i}") not in taken)

    def _pass(self, level: int) -> Pass:
        given = [*self.kernel.gives.items(), *self.held.items()]
        sums = [(n, v.args[0]) for n, v in given if isinstance(v.rule, TokenSum) and v.row]
        made = Pass(
            level=level,
            stores=[(n, v) for n, v in given if v.row and v.token and self.level(v) == level],
            reduced=[v for v in self.every if isinstance(v.rule, RowSum | RowMax) and self.level(v.args[0]) == level],
            summed=[(n, v) for n, v in sums if self.level(v) == level],
            leaves=[],
            numbers=[],
            unprojected=[],
            projected=[v for v in self.every if isinstance(v.rule, Project) and self.level(v.args[0]) == level],
            repeats=[v for v in self.every if v.id in self.together and self.level(v) == level + 1],
            uses=Counter(),
        )
        seen: set[int] = set()

        def number(v: Row) -> None:
            if v.id in seen or isinstance(v.rule, Const):
                return
            seen.add(v.id)
            if isinstance(v.rule, Spread | Take) or v.id in self.sparse:
                for a in v.args:
                    number(a)
            else:
                made.numbers.append(v)

        def visit(v: Row) -> None:
            made.uses[v.id] += 1
            if v.id in seen:
                return
            seen.add(v.id)
            if self.reads(v, level):
                made.leaves.append(v)
            elif isinstance(v.rule, Unproject):
                made.unprojected.append(v)
            else:
                for a in v.args:
                    visit(a) if a.row else number(a)

        for end in made.ends:
            visit(end)
        return made

    def _runs_together(self, value: Row) -> bool:
        """Whether a repeat is made of sums, products and inverses of what it starts from alone, in each round."""
        if not isinstance(value.rule, Repeat | RepeatBack) or value.id in self.body:
            return False
        given = value.args[: 1 if isinstance(value.rule, Repeat) else 2]
        rounds = [v for v in order(value.args[len(given) :]) if not isinstance(v.rule, Const)]
        plain = all(v.id in self.body and isinstance(v.rule, TOGETHER) for v in rounds)
        return plain and all(a.token and a.streams for a in given)

    # --- numbers ---------------------------------------------------------------------------------
    def _readers(self) -> dict[int, set[int]]:
        """The blocks that read a number, for each that is wanted; says where each is made, as late as can be."""
        readers: dict[int, set[int]] = {}

        def read(v: Row, block: int) -> None:
            if not isinstance(v.rule, Const | Placeholder):
                readers.setdefault(v.id, set()).add(block)

        for name, v in self.kernel.gives.items():
            if isinstance(v.rule, Outer):
                read(v.args[0], self.end if self.late(v) else 2 * self.level(v.args[0]))
            elif not v.row and v.token:
                read(v, 2 * self.level(v))
            elif not v.row and name not in self.outers:
                read(v.args[0], 2 * self.level(v.args[0]))
        for p in self.passes:
            for v in (*p.numbers, *(u.args[0] for u in p.unprojected)):
                read(v, 2 * p.level + 1)
        for v in reversed(self.every):
            if v.row or v.id not in readers:
                continue
            if isinstance(v.rule, RowSum | RowMax | Project):
                self.block[v.id] = 2 * self.level(v.args[0]) + 1
                continue
            if v.id in self.together:
                self.block[v.id] = 2 * self.level(v) - 1
                for a in self.operands(v):
                    read(a, self.block[v.id])
                continue
            shared = not v.token and self.level(v) == 0
            self.block[v.id] = HEAD if shared else min(min(readers[v.id]) // 2 * 2, self.end)
            for a in self.operands(v):
                read(a, self.block[v.id])
        return readers

    def operands(self, value: Row) -> Iterator[Row]:
        """What a number is made of outside of bodies of repeats."""
        if not isinstance(value.rule, Repeat | RepeatBack):
            yield from value.args
            return
        seen: set[int] = set()
        stack = list(value.args)
        while stack:
            v = stack.pop()
            if v.id in seen or isinstance(v.rule, Placeholder):
                continue
            seen.add(v.id)
            if v.id in self.body:
                stack.extend(v.args)
            else:
                yield v

    def numbers(self, block: int) -> list[Row]:
        """The numbers that a block makes by itself."""
        here = [v for v in self.every if self.block.get(v.id) == block]
        leaf = (Input, Param, RowSum, RowMax, Project)
        return [v for v in here if not isinstance(v.rule, leaf) or self.loaded(v)]

    def loaded(self, value: Row) -> bool:
        """Whether a number is read from memory in order to be multiplied by a matrix."""
        return isinstance(value.rule, Input) and value.id in self.multiplied

    # --- segments --------------------------------------------------------------------------------
    def _segmented(self) -> list[list[int]]:
        """Blocks that one loop over the tokens of a tile runs: all, but for products of matrices between them."""
        segments: list[list[int]] = [[]]
        for p in self.passes:
            segments[-1].append(2 * p.level)
            if p.products:
                segments += [[2 * p.level + 1], []]
            else:
                segments[-1].append(2 * p.level + 1)
                segments += [[]] * bool(p.repeats)
        if any(map(self.late, self.outers.values())):
            segments.append([self.end])
        return [s for s in segments if s]

    @property
    def segments(self) -> list[list[int]]:
        """Blocks that one loop over the tokens of a tile runs."""
        return self._segments

    def crosses(self, value: Row) -> bool:
        """Whether a number is made in one loop over tokens and read in another."""
        if value.id in self.multiplied:
            return True
        if value.id not in self.block or self.block[value.id] == HEAD or isinstance(value.rule, Input | Param):
            return False
        at = {block: i for i, segment in enumerate(self._segments) for block in segment}
        block = self.block[value.id]
        within_product = block % 2 == 1 and self.passes[block // 2].products
        return within_product or any(at[b] != at[block] for b in self.readers[value.id])


def padded(values: Iterable[Row], also: tuple[type, ...] = ()) -> set[int]:
    """Values that put others in their places, among zeros, and sums of such (operands come first in ``values``)."""
    found: set[int] = set()
    for v in values:
        within = isinstance(v.rule, Add) and any(a.id in found for a in v.args)
        if within or isinstance(v.rule, (Pad, *also)):
            found.add(v.id)
    return found


def _bodies(values: Iterable[Row]) -> set[int]:
    """Values that stand for another number in each round of a repeat."""
    found: set[int] = set()
    for v in values:
        if isinstance(v.rule, Placeholder):
            found.add(v.id)
        elif isinstance(v.rule, Repeat | RepeatBack):
            if any(a.id in found for a in v.args[: 1 if isinstance(v.rule, Repeat) else 2]):
                found.add(v.id)
        elif any(a.id in found for a in v.args):
            found.add(v.id)
    return found
