"""Kernels that walk rows in chunks, once for each level of sums: where there are matrices, or rows too wide to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from archc.rows.elements import Element, places
from archc.rows.kernel import Kernel
from archc.rows.rewrite import Levels
from archc.rows.rotate import Rotate
from archc.rows.rules import Input, Param, Project, Round, RowMax, Spread, Take
from archc.rows.traffic import bound
from archc.rows.triton.elements import count, to
from archc.rows.triton.forward import Forward, vanishes
from archc.rows.triton.launch import NEEDS, Sizes, launcher, signature
from archc.rows.triton.lines import Line
from archc.rows.triton.parts import equal
from archc.rows.triton.printed import Printed, called
from archc.rows.triton.tensors import power_of_two
from archc.rows.value import Row

LANES = 8
"""Neighbouring channels that one thread adds up: what 128 bits hold of bfloat16."""

ONE, FEW = 16, 256
"""Tokens of one small tile, whose row as many programs share as there are chunks; and up to which tiles are small."""

MANY = 4096
"""Tokens for which sizes are chosen beyond those."""

LEFT = 1 / 25
"""What programs that share a row leave each other in memory, at most, of what must move."""

SHARE = 448
"""Channels at least of a program where tokens are many: its share, read again after the sums, is still in cache."""


def chunk(width: int, wanted: int) -> int:
    """Channels of a step: a power of two that divides the width, or (masked) of at least 16."""
    divides = min(wanted, width & -width)
    return divides if divides >= 16 else min(wanted, max(16, power_of_two(width)))


def _programs(kernel: Kernel, sums: Sequence[Row]) -> Callable[[int], int]:
    """How many programs may share the rows of so many tokens."""
    levels = Levels()
    elements = equal([v.args[0] for v in sums if levels.of(v) == 1 and not isinstance(v.rule, Project)])
    fields = len({e for each in elements for e in each})
    fields += sum(v.streams[0] for v in sums if isinstance(v.rule, Project))
    return lambda tokens: max(1, int(LEFT * bound(kernel, tokens) / (4 * fields * tokens)))


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
            steps, large = (1, 1) if masked else (width // few, width // many)
            most = _programs(plain.kernel, plain.reduced)
            rows = [plain.levels.of(v) for v in plain.kernel.gives.values() if v.row]
            # A share that is read again is to be in cache; where no rows are made, small tiles are programs enough
            share = split(large, min(max(1, width // SHARE), most(MANY))) if rows else 1
            # Rows written beside products, and loads two steps ahead, take more registers than there are
            ahead = 2 if rows and not any(rows) else 3
            self.sizes: dict[int | None, Sizes] = {
                1: Sizes(16, few, split(steps, most(1)), 4, 3),
                ONE: Sizes(16, few, split(steps, most(ONE)), 4, 3),
                FEW: Sizes(16, few, split(steps, min(max(1, steps // 4), most(FEW))), 4, ahead),
                None: Sizes(64, many, share, 8, 2) if rows else Sizes(32, many, 1, 4, 2),
            }
            if self.sizes[1] == self.sizes[ONE]:
                del self.sizes[1]
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
                self.columns[v.id] = self.body.assign(f"tl.arange(0, {m})", "field")
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
        self._gather(sums, kept, split=split)

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
        """Ends sums; where programs share the row, added over those of the tile by way of memory."""
        ended: dict[str, str] = {}
        for v in sums:
            for name in self._names(v, kept) if v.id in kept else ():
                ended[name] = self.body.assign(_finished(v, name), name.removesuffix("_sum"))
            if v.id in kept:
                self.know(v, [Element(ended[n]) if isinstance(n, str) else n for n in kept[v.id]])
        tensors = self._tensors(sums)
        if split:
            with self.block("if SPLIT > 1:"):
                self._shared(sums, kept, ended, tensors)
        for v, name in tensors.items():
            self.know_tensor(v, name)

    def _tensors(self, sums: list[Row]) -> dict[Row, str]:
        """The tensors that are made of sums, written as of sums in registers."""
        found: dict[Row, str] = {}
        for v in sums:
            if not v.streams:
                continue
            if not isinstance(v.rule, Project):
                found[v] = self.body.assign(self.tensor_text(v), self.hint(v))
                continue
            # Products are of 16 columns at least
            whole, _ = self._sum(v), self.place_of(v.streams)
            if power_of_two(v.streams[0]) < 16:
                whole = self.body.assign(f"taken({whole}, {self.place_of(v.streams)})", self.hint(v))
            found[v] = whole
            self.know_tensor(v, whole)
            for part in self.every:
                if isinstance(part.rule, Take) and part.args[0] is v and part.streams:
                    found[part] = self.body.assign(self.tensor_text(part), self.hint(part))
        return found

    def _shared(
        self,
        sums: list[Row],
        kept: dict[int, list[str | Element]],
        ended: Mapping[str, str],
        tensors: Mapping[Row, str],
    ) -> None:
        """Each program leaves its sums; the last one reads the sums of all."""
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
        self.line(f"mine = tile + tl.program_id(1) * ({fields} * TILE)")
        loads: list[tuple[str, str]] = []
        for v in sums:
            for name in self._names(v, kept):
                place = f" + {at[name]} * TILE" if at[name] > 1 else " + TILE" if at[name] else ""
                if isinstance(v.rule, Project):
                    m, column = v.streams[0], self.columns[v.id]
                    mask = "inside[:, None]" + (
                        "" if m == max(16, power_of_two(m)) else f" & ({column} < {m})[None, :]"
                    )
                    self.line(f"tl.store(mine{place} + {column}[None, :] * TILE + t[:, None], {name}, mask={mask})")
                    continue
                self.line(f"tl.store(mine{place} + t, {ended[name]}, mask=inside)")
                alone = f"tl.load(tile{place})"
                loads.append((ended[name], f"tl.load(tile{place} + t, mask=inside, other=0.0)" if v.token else alone))
        self.line("tl.debug_barrier()")
        self._arrive(fields, most)
        for name, text in loads:
            self.body.reassign(name, text)
        for v, name in tensors.items():
            if isinstance(v.rule, Project):
                self._reread(v, name, at[self._sum(v)])
            elif isinstance(v.rule, Take):
                self._reread(v, name, at[self._sum(v.args[0])] + v.rule.start)
            elif v.token and (order := [at[n] for n in kept[v.id] if isinstance(n, str)]):
                self._reread_of_many(v, name, order)

    def _reread(self, v: Row, name: str, field: int, places: str = "") -> None:
        """A tensor of sums from memory, which are from a field on, where ``places`` says or in a line."""
        rank = len(v.streams)
        where = f"{places or self.place_of(v.streams)}[None, {', '.join([':'] * rank)}]"
        where = f"({field} + {where})" if field else where
        token = f"t[:, {', '.join(['None'] * rank)}]"
        self.body.reassign(name, f"tl.load(tile + {where} * TILE + {token}{self.inside_streams(v.streams)})")

    def _reread_of_many(self, v: Row, name: str, fields: list[int]) -> None:
        """The same of sums that have a field each; of a symmetric matrix only those on and above its diagonal."""
        first, n = fields[0], v.streams[-1]
        if fields == list(range(first, first + count(v))):
            self._reread(v, name, first)
        elif len(v.streams) == 2 and fields == [first + _above(i, j, n) for i in range(n) for j in range(n)]:
            i, j = (f"tl.arange(0, {power_of_two(n)}){at}" for at in ("[:, None]", "[None, :]"))
            low = self.body.assign(f"tl.minimum({i}, {j})", "lower")
            places = self.body.assign(f"{low} * ({2 * n - 1} - {low}) // 2 + tl.maximum({i}, {j})", "above_diagonal")
            self._reread(v, name, first, places)
        else:
            self.body.reassign(name, self.tensor_text(v))

    def _names(self, v: Row, kept: dict[int, list[str | Element]]) -> list[str]:
        """What the sums of a value are called, each once."""
        if isinstance(v.rule, Project):
            return [self._sum(v)]
        return list(dict.fromkeys(n for n in kept[v.id] if isinstance(n, str)))

    def _arrive(self, fields: int, most: int) -> None:
        """The last program to arrive adds up what its tile left; the last ``most`` fields are not sums but maxima."""
        self.line("# The last program of the tile to arrive adds them up and goes on, the counter zero again")
        self.line('if tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel") != SPLIT - 1:')
        self.line("    return")
        self.line("tl.store(arrived + tl.program_id(0), 0)")
        self.line(f"each = tl.arange(0, {power_of_two(fields)})[:, None]")
        self.line(f"left = inside[None, :] & (each < {fields})")
        shape = f"({power_of_two(fields)}, TILE)"
        zero = f"tl.zeros({shape}, tl.float32)"
        largest = f'tl.where(each < {fields - most}, {zero}, -float("inf"))'
        self.line(f"total = {largest if most else zero}")
        with self.block("for program in range(SPLIT):"):
            load = f"tl.load(tile + program * ({fields} * TILE) + each * TILE + t[None, :], mask=left, other=0.0)"
            if most:
                self.line(f"share = {load}")
                both = f"tl.where(each < {fields - most}, total + share, tl.maximum(total, share))"
                self.line(f"total = {both}")
            else:
                self.line(f"total += {load}")
        self.line("tl.store(tile + each * TILE + t[None, :], total, mask=left)")
        self.line("tl.debug_barrier()")


def _above(i: int, j: int, n: int) -> int:
    """Which number of those on and above the diagonal of [n, n], row by row, stands for one of a symmetric matrix."""
    return min(i, j) * (2 * n - 1 - min(i, j)) // 2 + max(i, j)


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
