"""The kernels of a gradient that sum over tokens: products of numbers and rows, and the shares of programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.elements import places
from archc.rows.kernel import Kernel
from archc.rows.rules import Const, Format, Input, Param, Take
from archc.rows.triton.backward_arrays import OUTER, Matrix, Share, documented, in_memory, is_act, loaded, moved, shares
from archc.rows.triton.elements import Tile, count
from archc.rows.triton.lines import wrapped
from archc.rows.triton.tensors import power_of_two
from archc.rows.value import Row, order

TAKEN = ("start", "state", "field", "per", "outer", "chunk", "range_", "group")

ENOUGH = 88
"""Programs that keep a GPU at work, two for three processors of an H100: with a range each of all tokens, they leave no
shares.
"""


class Params(Tile):
    """Writes the kernel of products ``outers``: a program has a few channels and a range of tokens, and where one
    product is of many numbers and a row that is read, some of the numbers. ``part``: it is no kernel, but a function
    that one calls for its program, which is some ``chunk``, ``range_`` and ``group``.
    """

    def __init__(self, kernel: Kernel, outers: Mapping[str, Row], *, part: bool = False) -> None:
        self.part = part
        rows = [v.args[1] for v in outers.values()]
        self.sizes = {n: max(16, power_of_two(count(v.args[0]))) for n, v in outers.items()}
        """Numbers of a program, by product."""
        self.chunk = _widest(kernel.width)
        most = max(self.sizes.values())
        if len(outers) == 1 and all(count(x) == 1 and isinstance(x.rule, Input | Take) for x in rows):
            self.chunk, size = _tile(kernel.width, most)
            self.sizes = dict.fromkeys(outers, size)
        self.groups = max(-(-count(v.args[0]) // self.sizes[n]) for n, v in outers.items())
        """Programs that share the numbers of a product."""
        self.tile, self.warps = 32, 8 if max(self.sizes.values()) > 16 and self.chunk >= 64 else 4
        self.stages = 3
        self.shares: list[Share] = shares(kernel, outers)
        taken = (*TAKEN, *(s.array for s in self.shares))
        super().__init__(kernel, masked=kernel.width % self.chunk != 0, taken=taken)
        self.name = f"{'' if part else '_'}{kernel.name}_params"
        self.outers = outers
        self.chunks = -(-kernel.width // self.chunk)
        self.state = [v for v in dict.fromkeys((*self._given(), *_numbers(rows))) if not in_memory(v)]
        """Numbers of tokens that the kernel reads and that others leave in memory."""
        fields = [count(v) for v in self.state]
        self.matrices = {v.id: Matrix(v, sum(fields[:i])) for i, v in enumerate(self.state)}
        known = {v.rule.name for v in order(rows) if isinstance(v.rule, Input | Param) and v.row}
        known |= {v.rule.name for v in (*self._given(), *_numbers(rows)) if isinstance(v.rule, Input)}
        self.taken = [n for n in kernel.takes if n in known]
        self.moved = moved(kernel, self.taken)
        self._write()

    def _given(self) -> list[Row]:
        """What rows are multiplied by."""
        return [v.args[0] for v in self.outers.values()]

    @property
    def arguments(self) -> list[str]:
        """The arrays that the kernel gets."""
        return [*self.taken, *(["state"] if self.state else []), *(s.array for s in self.shares)]

    def grid(self) -> str:
        """Its programs, of ``ranges`` of tokens."""
        return f"{self.chunks}, ranges" + (f", {self.groups}" if self.groups > 1 else "")

    def places(self) -> dict[str, str]:
        """What of all a program has, and of its number where it is a part of a kernel."""
        own = {"chunk": f"program % {self.chunks}", "range_": f"program // {self.chunks}"}
        if self.groups > 1:
            own |= {"range_": f"program // {self.chunks} % ranges", "group": f"program // {self.chunks} // ranges"}
        return own

    def ranges(self) -> list[str]:
        """How many ranges there are of T tokens, and of how many tokens each is."""
        programs = self.chunks * self.groups
        many = f"processors(device) // {programs}" if programs > 1 else "processors(device)"
        return [
            f"ranges = max(1, min(-(-T // 256), {many}))",
            f"per = -(-T // (ranges * {self.tile})) * {self.tile}",
            "ranges = -(-T // per)",
        ]

    def sizes_of_tile(self) -> list[str]:
        """Constants of the kernel."""
        return [f"TILE={self.tile}", f"CHUNK={self.chunk}"]

    def options(self) -> list[str]:
        """Constants of a launch."""
        return [
            *self.sizes_of_tile(),
            f"num_warps={self.warps}",
            f"num_stages={self.stages}",
            "**FUSED_MULTIPLY_ADD",
        ]

    def text(self) -> str:
        """The kernel."""
        args = [*self.places()] if self.part else []
        args += [f"{n}_all" if n in self.moved or n == "state" else n for n in self.arguments]
        head = "\n".join(
            wrapped(f"def {self.name}(", [*args, "T", "per", "TILE: tl.constexpr", "CHUNK: tl.constexpr"], "):")
        )
        what = f"Each program's share, of a range of ``per`` tokens, of {', '.join(self.outers)}."
        return "\n".join([f"@jit\n{head}", *documented(what), f"{self.body.text()}\n"])

    def dtype(self, format: Format) -> str:
        if format != "act":
            return super().dtype(format)
        return f"{next(n for n in self.taken if self.kernel.format(n) == 'act')}.dtype.element_ty"

    def _write(self) -> None:
        chunk, range_, group = ("chunk", "range_", "group") if self.part else (f"tl.program_id({i})" for i in range(3))
        self.line("t = tl.arange(0, TILE)")
        self.line(f"d = {chunk} * CHUNK + tl.arange(0, CHUNK)")
        self.line(f"begin = {range_} * per")
        totals: dict[str, list[str]] = {}
        for size in dict.fromkeys(self.sizes.values()):
            own = f"{group} * {size} + " if self.groups > 1 else ""
            self.line(f"field_{size} = {own}tl.arange(0, {size})")
        for name, v in self.outers.items():
            totals[name] = ["_".join((name, *map(str, p))) for p in places(v.args[1].streams)]
            for n in totals[name]:
                self.body.taken.add(n)
                self.line(f"{n} = tl.zeros(({self.sizes[name]}, CHUNK), tl.float32)")
        steps = "begin, tl.minimum(begin + per, T), TILE"
        loop = f"tl.range({steps}, num_stages={self.stages})" if self.part else f"range({steps})"
        with self.block(f"for start in {loop}:"):
            self.line("first = tl.cast(start, tl.int64)")
            self.line("inside = first + t < T")
            for name, each in self.moved.items():
                self.line(f"{name} = {name}_all + first" + (f" * {each}" if each > 1 else ""))
            if self.state:
                self.line("state = state_all + first")
            for v in _numbers([v.args[1] for v in self.outers.values()]):
                if in_memory(v):
                    continue
                at = self.matrices[v.id].start
                loads = (f"tl.load(state + ({at + i} * T + t), mask=inside, other=0.0)" for i in range(count(v)))
                names = ("_".join((self.hint(v), *map(str, p))) for p in places(v.streams))
                self.know(v, [self.bind(text, n) for text, n in zip(loads, names, strict=True)])
            for name, v in self.outers.items():
                self._product(name, v, totals[name])
        for share in self.shares:
            self.line(f"{share.array} += {range_}.to(tl.int64) * {share.size}")
        for share in self.shares:
            v, field = self.outers[share.name], f"field_{self.sizes[share.name]}"
            m, n = count(v.args[0]), count(v.args[1])
            mask = f"({field} < {m})[:, None]" + (f" & (d < {self.kernel.width})[None, :]" if self.masked else "")
            for i, total in enumerate(totals[share.name]):
                channel = f"({i * self.kernel.width} + d)" if i else "d"
                at = f"{field}[:, None] * {n * self.kernel.width} + {channel}[None, :]"
                self.line(f"tl.store({share.array} + {at}, {total}, mask={mask})")

    def _product(self, name: str, v: Row, totals: Sequence[str]) -> None:
        given, x = v.args
        m, field = count(given), f"field_{self.sizes[name]}"
        mask = f"({field} < {m})[:, None] & inside[None, :]"
        if in_memory(given):
            load = loaded(given, f"({field}[:, None] + t[None, :] * {m})", mask)
        else:
            start = self.matrices[given.id].start
            rows = f"{field}[:, None]" if not start else f"({start} + {field}[:, None])"
            load = f"tl.load(state + ({rows} * T + t[None, :]), mask={mask}, other=0.0)"
        matrix = self.body.assign(load, self.hint(given))
        if OUTER not in self.functions:
            self.functions.append(OUTER)
        exact = f"{self.dtype('act')} == tl.bfloat16" if is_act(x) else "False"
        for total, e in zip(totals, self.made(x), strict=True):
            self.line(f"{total} = outer({matrix}, {self.show(e)}, {total}, EXACT={exact})")


def _widest(width: int) -> int:
    """Channels of a program at most: as many as divide the width."""
    divisor = width & -width
    return min(64, divisor) if divisor >= 16 else min(64, max(16, power_of_two(width)))


def _tile(width: int, most: int) -> tuple[int, int]:
    """Channels and numbers of a program, of ``most`` numbers in all: as many as leave enough programs. Of 16 numbers
    shares of ranges are little beside the rows.
    """
    chunk, size = _widest(width), most

    def few() -> bool:
        return -(-width // chunk) * (most // size) < ENOUGH

    while size > 16 and few():
        size //= 2
    while most > 16 and chunk > 16 and few():
        chunk //= 2
    return chunk, size


def _numbers(rows: Sequence[Row]) -> list[Row]:
    """The numbers of tokens that rows are made of."""
    found: dict[Row, None] = {}
    for v in order(rows):
        if v.row:
            found |= {a: None for a in v.args if not a.row and a.token and not isinstance(a.rule, Const)}
    return list(found)


def print_sums(name: str, sets: Sequence[tuple[str, Sequence[Share]]]) -> str:
    """The kernel that adds up shares: for each set how many there are, and what they are shares of."""
    shares = [(many, share) for many, some in sets for share in some]
    args = [n for many, some in sets for n in (*(s.array for s in some), many)]
    args += [share.name for _, share in shares]
    head = "\n".join(wrapped(f"def _{name}_sums(", [*args, "BLOCK: tl.constexpr"], "):"))
    lines = ["    block = tl.program_id(0)"] if len(shares) > 1 else []
    before = 0
    for i, (many, share) in enumerate(shares):
        test = "else:" if i == len(shares) - 1 else f"{'if' if i == 0 else 'elif'} block < {before + blocks(share)}:"
        at = "tl.program_id(0)" if len(shares) == 1 else f"block - {before}" if before else "block"
        call = f"add_up({share.array}, {many}, {share.size}, {share.name}, {at}, BLOCK)"
        lines += [f"    {test}", f"        {call}"] if len(shares) > 1 else [f"    {call}"]
        before += blocks(share)
    what = documented(f"{', '.join(share.name for _, share in shares)}: the shares of programs added up.")
    return "\n".join([f"@jit\n{head}", *what, *lines]) + "\n"


def blocks(share: Share) -> int:
    """Programs that add up shares of a sum."""
    return -(-share.size // BLOCK)


BLOCK = 256
"""Numbers that a program adds up the shares of."""
