"""The kernels of a gradient that sum over tokens: products of numbers and rows, and the shares of programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.elements import places
from archc.rows.kernel import Kernel
from archc.rows.rules import Const, Format, Input, Param, Round
from archc.rows.triton.backward_arrays import Matrix, Share, documented, laid_out, moved
from archc.rows.triton.elements import Tile, count
from archc.rows.triton.forward import power_of_two
from archc.rows.triton.lines import wrapped
from archc.rows.value import Row, order

OUTER = '''\
@jit
def outer(numbers, x, total, EXACT: tl.constexpr):
    """total [M, CHUNK] and numbers [M, TILE] times x [TILE, CHUNK], float32 in products of bfloat16 terms.

    EXACT: x is bfloat16 as it is.
    """
    numbers_high, x_high = numbers.to(tl.bfloat16), x.to(tl.bfloat16)
    numbers_low = (numbers - numbers_high.to(tl.float32)).to(tl.bfloat16)
    if not EXACT:
        x_low = (x - x_high.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(numbers_high, x_low, total)
    return tl.dot(numbers_high, x_high, tl.dot(numbers_low, x_high, total))
'''

TAKEN = ("start", "state", "params_shares", "field", "per", "outer")


class Params(Tile):
    """Writes the kernel of products ``outers``: a program has a few channels and a range of tokens."""

    def __init__(self, kernel: Kernel, outers: Mapping[str, Row]) -> None:
        divisor = kernel.width & -kernel.width
        self.chunk = min(64, divisor) if divisor >= 16 else min(64, max(16, power_of_two(kernel.width)))
        fields = max(count(v.args[0]) for v in outers.values())
        self.tile, self.warps = 32, 8 if fields > 16 and self.chunk >= 64 else 4
        super().__init__(kernel, masked=kernel.width % self.chunk != 0, taken=TAKEN)
        self.name = f"_{kernel.name}_params"
        self.outers = outers
        self.chunks = -(-kernel.width // self.chunk)
        self.shares: list[Share] = laid_out(kernel, outers)
        self.total = sum(s.size for s in self.shares)
        rows = [v.args[1] for v in outers.values()]
        self.state = list(dict.fromkeys([*(v.args[0] for v in outers.values()), *_numbers(rows)]))
        """Numbers of tokens that the kernel reads."""
        fields = [count(v) for v in self.state]
        self.matrices = {v.id: Matrix(v, sum(fields[:i])) for i, v in enumerate(self.state)}
        used = {v.rule.name for v in order(rows) if isinstance(v.rule, Input | Param) and v.row}
        self.taken = [n for n in kernel.takes if n in used]
        self.moved = moved(kernel, self.taken)
        self._write()

    @property
    def arguments(self) -> list[str]:
        """The arrays that the kernel gets."""
        return [*self.taken, "state", "params_shares"]

    def options(self) -> list[str]:
        """Constants of a launch."""
        return [
            f"TILE={self.tile}",
            f"CHUNK={self.chunk}",
            f"num_warps={self.warps}",
            "num_stages=3",
            "**FUSED_MULTIPLY_ADD",
        ]

    def text(self) -> str:
        """The kernel."""
        args = [f"{n}_all" if n in self.moved or n == "state" else n for n in self.arguments]
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
        self.line("t = tl.arange(0, TILE)")
        self.line("d = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)")
        self.line("begin = tl.program_id(1) * per")
        sizes = {n: max(16, power_of_two(count(v.args[0]))) for n, v in self.outers.items()}
        totals: dict[str, list[str]] = {}
        for size in dict.fromkeys(sizes.values()):
            self.line(f"field_{size} = tl.arange(0, {size})")
        for name, v in self.outers.items():
            totals[name] = ["_".join((name, *map(str, p))) for p in places(v.args[1].streams)]
            for n in totals[name]:
                self.body.taken.add(n)
                self.line(f"{n} = tl.zeros(({sizes[name]}, CHUNK), tl.float32)")
        with self.block("for start in range(begin, tl.minimum(begin + per, T), TILE):"):
            self.line("first = tl.cast(start, tl.int64)")
            self.line("inside = first + t < T")
            for name, each in self.moved.items():
                self.line(f"{name} = {name}_all + first" + (f" * {each}" if each > 1 else ""))
            self.line("state = state_all + first")
            for v in _numbers([v.args[1] for v in self.outers.values()]):
                at = self.matrices[v.id].start
                loads = (f"tl.load(state + ({at + i} * T + t), mask=inside, other=0.0)" for i in range(count(v)))
                names = ("_".join((self.hint(v), *map(str, p))) for p in places(v.streams))
                self.know(v, [self.bind(text, n) for text, n in zip(loads, names, strict=True)])
            for name, v in self.outers.items():
                self._product(name, v, totals[name], sizes[name])
        self.line(f"params_shares += tl.program_id(1).to(tl.int64) * {self.total}")
        for share in self.shares:
            v, field = self.outers[share.name], f"field_{sizes[share.name]}"
            m, n = count(v.args[0]), count(v.args[1])
            mask = f"({field} < {m})[:, None]" + (f" & (d < {self.kernel.width})[None, :]" if self.masked else "")
            for i, total in enumerate(totals[share.name]):
                at = (
                    f"{field}[:, None] * {n * self.kernel.width} + ({share.start + i * self.kernel.width} + d)[None, :]"
                )
                self.line(f"tl.store(params_shares + {at}, {total}, mask={mask})")

    def _product(self, name: str, v: Row, totals: Sequence[str], size: int) -> None:
        given, x = v.args
        start, m, field = self.matrices[given.id].start, count(given), f"field_{size}"
        rows = f"{field}[:, None]" if not start else f"({start} + {field}[:, None])"
        mask = f"({field} < {m})[:, None] & inside[None, :]"
        matrix = self.body.assign(
            f"tl.load(state + ({rows} * T + t[None, :]), mask={mask}, other=0.0)", self.hint(given)
        )
        if OUTER not in self.functions:
            self.functions.append(OUTER)
        rounded = isinstance(x.rule, Input | Round) and x.rule.format == "act"
        exact = f"{self.dtype('act')} == tl.bfloat16" if rounded else "False"
        for total, e in zip(totals, self.made(x), strict=True):
            self.line(f"{total} = outer({matrix}, {self.show(e)}, {total}, EXACT={exact})")


def _numbers(rows: Sequence[Row]) -> list[Row]:
    """The numbers of tokens that rows are made of."""
    found: dict[Row, None] = {}
    for v in order(rows):
        if v.row:
            found |= {a: None for a in v.args if not a.row and a.token and not isinstance(a.rule, Const)}
    return list(found)


def print_sums(name: str, sets: Sequence[tuple[str, str, Sequence[Share]]]) -> str:
    """The kernel that adds up shares: (their array, how many there are, what they are shares of) for each set."""
    shares = [(array, many, sum(s.size for s in some), share) for array, many, some in sets for share in some]
    args = [*(n for array, many, _ in sets for n in (array, many)), *(s.name for *_, s in shares)]
    head = "\n".join(wrapped(f"def _{name}_sums(", [*args, "BLOCK: tl.constexpr"], "):"))
    lines = ["    block = tl.program_id(0)"]
    before = 0
    for i, (array, many, total, share) in enumerate(shares):
        blocks = -(-share.size // BLOCK)
        test = "else:" if i == len(shares) - 1 else f"{'if' if i == 0 else 'elif'} block < {before + blocks}:"
        if len(shares) == 1:
            test = "if block >= 0:"
        start = f"{array} + {share.start}" if share.start else array
        at = f"block - {before}" if before else "block"
        lines += [f"    {test}", f"        add_up({start}, {many}, {total}, {share.size}, {share.name}, {at}, BLOCK)"]
        before += blocks
    what = documented(f"{', '.join(share.name for *_, share in shares)}: the shares of programs added up.")
    return "\n".join([f"@jit\n{head}", *what, *lines]) + "\n"


BLOCK = 256
"""Numbers that a program adds up the shares of."""
