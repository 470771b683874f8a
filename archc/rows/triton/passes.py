"""Kernels that walk rows in chunks, once for each level of sums: where there are matrices, or rows too wide to hold."""

from __future__ import annotations

from archc.rows.elements import Element, places
from archc.rows.kernel import Kernel
from archc.rows.rotate import Rotate
from archc.rows.rules import Input, Param, Project, Round, RowMax, Spread, Take
from archc.rows.triton.elements import count, to
from archc.rows.triton.forward import Forward, power_of_two, vanishes
from archc.rows.triton.launch import NEEDS, Sizes, launcher, signature
from archc.rows.triton.lines import Line
from archc.rows.triton.printed import Printed, called
from archc.rows.value import Row

LANES = 8
"""Neighbouring channels that one thread adds up: what 128 bits hold of bfloat16."""

ONE, FEW = 16, 256
"""Tokens of one small tile, whose row as many programs share as there are chunks; and up to which tiles are small."""

ALONE = 2048
"""Tokens beyond which programs share no row that they read once: tiles of 32 are programs enough, and sums that many
leave each other in memory are a quarter of what a router reads."""

SHARE = 448
"""Channels at least of a program where tokens are many: its share, read again after the sums, is still in cache."""


def chunk(width: int, wanted: int) -> int:
    """Channels of a step: a power of two that divides the width, or (masked) of at least 16."""
    divides = min(wanted, width & -width)
    return divides if divides >= 16 else min(wanted, max(16, power_of_two(width)))


def split(steps: int, most: int) -> int:
    """Programs among which steps are shared evenly."""
    return next(n for n in range(max(1, min(most, steps)), 0, -1) if steps % n == 0)


class Passes(Forward):
    """A tile of tokens that is walked in chunks of the row.

    Where there is a product of matrices programs share the row of a tile: each leaves its sums in memory, and the last
    one to arrive adds them up and does the rest.
    """

    def __init__(self, kernel: Kernel) -> None:
        plain = Forward(kernel, masked=False)
        self.shared = any(isinstance(v.rule, Project) for v in plain.every)
        width = kernel.width
        if self.shared:
            few, many = chunk(width, 64), chunk(width, 32)
            masked = width % few != 0
            steps = 1 if masked else width // few
            share = 1 if masked else split(width // many, max(1, width // SHARE))
            self.sizes: dict[int | None, Sizes] = {
                ONE: Sizes(16, few, steps, 4, 3),
                FEW: Sizes(16, few, split(steps, max(1, steps // 4)), 4, 3),
                None: Sizes(64, many, share, 8, 2),
            }
            if share > 1 and not any(v.row and plain.levels.of(v) for v in plain.kernel.gives.values()):
                self.sizes[ALONE] = self.sizes.pop(None)
                self.sizes[None] = Sizes(32, many, 1, 4, 2)
        else:
            size = chunk(width, 1024)
            masked = width % size != 0
            self.sizes = {None: Sizes(1, size, warps=4)}
        super().__init__(kernel, masked=masked)
        self.stored = {v.id: n for n, v in self.kernel.gives.items() if v.row and _as_stored(self.kernel, n, v)}
        self.fields = self.walks = 0
        self.columns: dict[int, str] = {}
        self.sums: dict[int, str] = {}

    def printed(self) -> Printed:
        """The kernel and its launcher."""
        self.head()
        for level in range(self.last + 1):
            self._pass(level)
            for name, v in (*(self.numbers_at(0) if level == 0 else ()), *self.numbers_at(level + 1)):
                self.store(name, v)
        name, text = launcher(self.kernel, self.sizes, self.fields)
        extra = ["partial", "arrived"] if self.shared else []
        passes = f"{self.walks} passes" if self.walks > 1 else "one pass"
        shares = f"; SPLIT programs share {'the first' if self.walks > 1 else 'it'}" if self.shared else ""
        what = f'"""A tile of tokens in {passes} over the row{shares}."""'
        body = f"@jit\n{signature(self.kernel, extra, self.sizes[None])}\n    {what}\n{self.body.text()}\n"
        needs = {*NEEDS, *(("add_projection", "arrivals") if self.shared else ())}
        whole = "\n\n".join((*self.functions, body, text))
        return Printed(whole, name, frozenset(needs) | called(whole))

    # --- one pass --------------------------------------------------------------------------------
    def _pass(self, level: int) -> None:
        rows = self.rows_at(level)
        sums = [v for v in self.reduced if self.levels.of(v) == level + 1]
        if not rows and not sums:
            return
        self.walks += 1
        earlier = self._numbers_first([v for _, v in rows] + [v.args[0] for v in sums], level)
        split = self.shared and level == 0
        self._announce(level, rows, sums)
        if earlier:
            self.line("tl.debug_barrier()")
        for v in sums:
            if isinstance(v.rule, Project):
                m = max(16, power_of_two(v.streams[0]))
                self.columns[v.id] = self.body.assign(f"tl.arange(0, {m})", "column")
                self.line(f"{self._sum(v)} = tl.zeros((TILE, {m}), tl.float32)")
        hole, kept = len(self.body.written), {}
        width = -(-self.kernel.width // (size := self.sizes[None].chunk)) * size
        if split:
            self.line(f"begin = tl.program_id(1) * ({width} // SPLIT)")
            hole += 1
            loop = self.block(f"for start in range(begin, begin + {width} // SPLIT, CHUNK):")
        else:
            loop = self.block(f"for start in range(0, {width}, CHUNK):")
        with loop:
            # What a pass before left in cache was read last
            backwards = level > 0 and not self.masked
            self.line(f"d = {f'{width} - CHUNK - start' if backwards else 'start'} + tl.arange(0, CHUNK)")
            for v, name in earlier.items():
                self.know(v, self.again(name, v))
            for name, v in rows:
                self.store(name, v)
            for v in sums:
                if isinstance(v.rule, Project):
                    self._project(v)
                else:
                    kept[v.id] = self._add(v)
        zeros = []
        for v in sums:
            for name in dict.fromkeys(n for n in kept.get(v.id, ()) if isinstance(n, str)):
                shape = f"({'TILE' if v.token else 1}, CHUNK // {LANES})"
                most = f'tl.full({shape}, float("-inf"), tl.float32)'
                made = most if isinstance(v.rule, RowMax) else f"tl.zeros({shape}, tl.float32)"
                zeros.append(Line(self.body.depth, f"{name} = {made}"))
        self.body.written[hole:hole] = zeros
        if split or any(isinstance(v.rule, Project) for v in sums):
            self._gather(sums, kept, split=split)
            return
        for v in sums:
            names = {n: self.bind(_finished(v, n), n.removesuffix("_sum")) for n in self._names(v, kept)}
            self.know(v, [names[n] if isinstance(n, str) else n for n in kept[v.id]])

    def _announce(self, level: int, rows: list[tuple[str, Row]], sums: list[Row]) -> None:
        made = [n for n, _ in rows] + list(dict.fromkeys(f"the sums for {self.hint(v)}" for v in sums))
        self.line(f"# Pass {level + 1} over the row: {', '.join(made)}")

    def _numbers_first(self, roots: list[Row], level: int) -> dict[Row, str]:
        """Makes the numbers that a pass needs, before it; gives the rows that it reads back from memory."""
        earlier: dict[Row, str] = {}
        seen: set[int] = set()

        def visit(v: Row) -> None:
            if v.id in seen:
                return
            seen.add(v.id)
            if not v.row:
                self.made(v)
            elif v.id in self.stored and self.levels.of(v) < level:
                earlier[v] = self.stored[v.id]
            else:
                # Angles are read where channels are turned
                for a in v.args[:1] if isinstance(v.rule, Rotate) else v.args:
                    visit(a)

        for root in roots:
            visit(root)
        return earlier

    def again(self, name: str, v: Row) -> list[Element]:
        """A row that an earlier pass wrote to memory."""
        leaf = Input(name=to(name), streams=v.streams, row=True, format=self.kernel.format(name))
        return self.loaded(leaf, v, called=self.hint(v))

    # --- sums ------------------------------------------------------------------------------------
    def _sum(self, v: Row) -> str:
        if v.id not in self.sums:
            self.sums[v.id] = self.body.name(f"{self.hint(v)}_sum")
        return self.sums[v.id]

    def _add(self, v: Row) -> list[str | Element]:
        """Adds a chunk to sums of `LANES` channels each: their names, or the sum itself where it is known."""
        (x,) = v.args
        most = isinstance(v.rule, RowMax)
        made: dict[Element, str | Element] = {}
        for e, place in zip(self.made(x), places(v.streams), strict=True):
            if e in made:
                continue
            if e.number is not None:
                made[e] = Element("", e.number if most else e.number * self.kernel.width)
                continue
            made[e] = name = self.body.name("_".join((self.hint(v), *map(str, place), "sum")))
            lanes = (
                f"tl.reshape({self.summand(x, e, most=most)}, ({'TILE' if v.token else 1}, CHUNK // {LANES}, {LANES}))"
            )
            self.line(f"{name} = tl.maximum({name}, tl.max({lanes}, 2))" if most else f"{name} += tl.sum({lanes}, 2)")
        return [made[e] for e in self.made(x)]

    def _project(self, v: Row) -> None:
        """Adds the products of a chunk with that of a weight."""
        x, weight = v.args
        rule, (m, *_), n = weight.rule, weight.streams, count(x)
        assert isinstance(rule, Param)
        exact = self.dtype("act") if _is_act(x) else "tl.float32"
        column = self.columns[v.id]
        mask = f"({column} < {m})[:, None]" + (f" & (d < {self.kernel.width})[None, :]" if self.masked else "")
        total = self._sum(v)
        for k, e in enumerate(self.made(x)):
            at = f"{rule.name} + {column}[:, None] * {n * self.kernel.width} + d[None, :]"
            at += f" + {k * self.kernel.width}" if k else ""
            tile = self.body.assign(f"tl.load({at}, mask={mask}, other=0.0)", f"{rule.name}_tile")
            shown = self.summand(x, e) if not vanishes(x) else e.text
            self.line(f"{total} = add_projection({total}, {shown}, {tile}, inside, {exact})")

    def _gather(self, sums: list[Row], kept: dict[int, list[str | Element]], *, split: bool) -> None:
        """Sums by way of memory: added over the programs of the tile; what products gave comes back as columns."""
        at: dict[str, int] = {}
        most, fields = 0, 0
        for v in sorted(sums, key=lambda v: isinstance(v.rule, RowMax)):
            for name in self._names(v, kept):
                at[name] = fields
                fields += v.streams[0] if isinstance(v.rule, Project) else 1
                most += isinstance(v.rule, RowMax)
        self.fields = max(self.fields, fields)
        self.line(f"# The sums of this program go to memory, [{fields}, TILE]")
        self.line(f"tile = partial + tl.program_id(0).to(tl.int64) * (SPLIT * {fields} * TILE)")
        mine = "tile"
        if split:
            mine = self.body.assign(f"tile + tl.program_id(1) * ({fields} * TILE)", "mine")
        for v in sums:
            for name in self._names(v, kept):
                place = f"{mine} + {at[name]} * TILE" if at[name] > 1 else f"{mine} + TILE" if at[name] else mine
                if isinstance(v.rule, Project):
                    m, column = v.streams[0], self.columns[v.id]
                    mask = f"inside[:, None] & ({column} < {m})[None, :]"
                    self.line(f"tl.store({place} + {column}[None, :] * TILE + t[:, None], {name}, mask={mask})")
                else:
                    self.line(f"tl.store({place} + t, {_finished(v, name)}, mask=inside)")
        self.line("tl.debug_barrier()")
        if split:
            self._arrive(fields, most)
        for v in sums:
            if isinstance(v.rule, Project):
                (name,) = self._names(v, kept)
                self.know(v, [self._column(at[name] + i, f"{self.hint(v)}_{i}") for i in range(v.streams[0])])
            else:
                made = {n: self._column(at[n], n.removesuffix("_sum"), token=v.token) for n in self._names(v, kept)}
                self.know(v, [made[n] if isinstance(n, str) else n for n in kept[v.id]])

    def _names(self, v: Row, kept: dict[int, list[str | Element]]) -> list[str]:
        """What the sums of a value are called, each once."""
        if isinstance(v.rule, Project):
            return [self._sum(v)]
        return list(dict.fromkeys(n for n in kept[v.id] if isinstance(n, str)))

    def _column(self, field: int, hint: str, *, token: bool = True) -> Element:
        place = "tile" + (f" + {field} * TILE" if field > 1 else " + TILE" if field else "")
        if not token:
            return self.bind(f"tl.load({place})", hint)
        place += " + t"
        return self.bind(f"tl.load({place}, mask=inside, other=0.0)", hint)

    def _arrive(self, fields: int, most: int) -> None:
        """The last program to arrive adds up what its tile left; the last ``most`` fields are not sums but maxima."""
        with self.block("if SPLIT > 1:"):
            self.line("# The last program of the tile to arrive adds them up and goes on, the counter zero again")
            self.line('if tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel") != SPLIT - 1:')
            self.line("    return")
            self.line("tl.store(arrived + tl.program_id(0), 0)")
            self.line(f"field = tl.arange(0, {power_of_two(fields)})[:, None]")
            self.line(f"left = inside[None, :] & (field < {fields})")
            shape = f"({power_of_two(fields)}, TILE)"
            zero = f"tl.zeros({shape}, tl.float32)"
            largest = f'tl.where(field < {fields - most}, {zero}, -float("inf"))'
            self.line(f"total = {largest if most else zero}")
            with self.block("for program in range(SPLIT):"):
                load = f"tl.load(tile + program * ({fields} * TILE) + field * TILE + t[None, :], mask=left, other=0.0)"
                if most:
                    self.line(f"share = {load}")
                    both = f"tl.where(field < {fields - most}, total + share, tl.maximum(total, share))"
                    self.line(f"total = {both}")
                else:
                    self.line(f"total += {load}")
            self.line("tl.store(tile + field * TILE + t[None, :], total, mask=left)")
            self.line("tl.debug_barrier()")


def _finished(v: Row, name: str) -> str:
    """The sum, or the largest, of what a pass has kept for each of its lanes."""
    return f"tl.{'max' if isinstance(v.rule, RowMax) else 'sum'}({name}{', 1' if v.token else ''})"


def _as_stored(kernel: Kernel, name: str, v: Row) -> bool:
    """Whether a row is in memory what it is in registers."""
    return kernel.format(name) == "fp32" or (isinstance(v.rule, Round) and v.rule.format == kernel.format(name))


def _is_act(x: Row) -> bool:
    """Whether the numbers of a row are some of the format of activations."""
    if isinstance(x.rule, Take | Spread):
        return _is_act(x.args[0])
    return isinstance(x.rule, Input | Round) and x.rule.format == "act"
