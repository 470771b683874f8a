"""Row programs as one Triton kernel and what launches it."""

from __future__ import annotations

from archc.rows.elements import Element
from archc.rows.kernel import Kernel, optimised
from archc.rows.rewrite import Levels
from archc.rows.rules import Add as Sum
from archc.rows.rules import Clip, Const, Input, Param, Product, Round, RowMax, RowSum, Spread, Take
from archc.rows.triton.elements import Tile, count, to, wrapped
from archc.rows.triton.printed import Printed
from archc.rows.value import Row, order

WHOLE = 16384
"""Numbers of a token, over all rows that a kernel takes and gives, that a program holds at once."""


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def print_forward(kernel: Kernel) -> Printed:
    """A kernel that runs a row program without sums over tokens in one launch."""
    kernel = optimised(kernel)
    return _Whole(kernel).printed()


class _Forward(Tile):
    """What all forms of a kernel share: its head, the end of each of its passes, its launcher."""

    def __init__(self, kernel: Kernel, *, masked: bool) -> None:
        super().__init__(kernel, masked=masked)
        self.levels = Levels()
        self.every = order(kernel.gives.values())
        self.reduced = [v for v in self.every if isinstance(v.rule, RowSum | RowMax)]
        self.last = max((self.levels.of(v) for v in self.every), default=0)

    def head(self) -> None:
        """The tokens of the tile; pointers moved to its first."""
        self.line("first = tl.program_id(0).to(tl.int64) * TILE")
        self.line("t = tl.arange(0, TILE)")
        self.line("inside = first + t < T")
        gives = {to(n): v for n, v in self.kernel.gives.items()}
        for name, v in (*self.kernel.takes.items(), *gives.items()):
            shared = v.rule.shared if isinstance(v.rule, Input) else 1
            if v.token and shared == 1:
                self.line(f"{name} += first" + (f" * {each}" if (each := numbers(self.kernel, v)) > 1 else ""))

    def rows_at(self, level: int) -> list[tuple[str, Row]]:
        """The rows that are given and can be made once as many passes have ended."""
        return [(n, v) for n, v in self.kernel.gives.items() if v.row and self.levels.of(v) == level]

    def numbers_at(self, level: int) -> list[tuple[str, Row]]:
        """The numbers that are given and can be made once as many passes have ended."""
        return [(n, v) for n, v in self.kernel.gives.items() if not v.row and self.levels.of(v) == level]


class _Whole(_Forward):
    """A tile of whole rows, read once and held in registers."""

    def __init__(self, kernel: Kernel) -> None:
        self.width = power_of_two(kernel.width)
        super().__init__(kernel, masked=self.width != kernel.width)

    def printed(self) -> Printed:
        rows = any(v.row for v in self.every)
        self.head()
        if rows:
            self.line("d = tl.arange(0, CHUNK)")
        for level in range(self.last + 1):
            for v in self.reduced:
                if self.levels.of(v) == level:
                    self.know(v, self._reduced(v))
            for name, v in (*self.numbers_at(level), *self.rows_at(level)):
                self.store(name, v)
        tile = max(1, 2048 // self.width) if rows else 128
        warps = min(16, max(4, tile * self.width // 512)) if rows else 4
        sizes = {"TILE": tile, **({"CHUNK": self.width} if rows else {})}
        return assembled(self, sizes, warps)

    def _reduced(self, v: Row) -> list[Element]:
        (x,) = v.args
        most = isinstance(v.rule, RowMax)
        made: dict[Element, Element] = {}
        for e in self.made(x):
            if e in made:
                continue
            if e.number is not None:
                made[e] = Element("", e.number if most else e.number * self.kernel.width)
                continue
            text = e.text
            if self.masked and (most or not _zero(x)):
                fill = '-float("inf")' if most else "0.0"
                text = f"tl.where((d < {self.kernel.width})[None, :], {text}, {fill})"
            made[e] = self.bind(f"tl.{'max' if most else 'sum'}({text}, 1)", self.hint(v))
        return [made[e] for e in self.made(x)]


def assembled(printer: _Forward, sizes: dict[str, int], warps: int) -> Printed:
    """The text of a kernel that was written, and of its launcher."""
    kernel = printer.kernel
    name, gives = f"_{kernel.name}_kernel", map(to, kernel.gives)
    args = [*kernel.takes, *gives, "T", *(f"{n}: tl.constexpr" for n in sizes)]
    head = "\n".join(wrapped(f"def {name}(", args, "):"))
    text = f"@jit\n{head}\n{printer.body.text()}\n"
    launcher = f"launch_{kernel.name}"
    return Printed(
        "\n\n".join((*printer.functions, text, launch(kernel, launcher, name, sizes, warps))),
        launcher,
        frozenset(("torch", "Tensor", "jit", "tl", "on_device", "FUSED_MULTIPLY_ADD")),
    )


def launch(kernel: Kernel, launcher: str, name: str, sizes: dict[str, int], warps: int) -> str:
    """The text of a launcher."""
    counted = next(n for n, v in kernel.takes.items() if isinstance(v.rule, Input) and v.rule.shared == 1)
    each = numbers(kernel, kernel.takes[counted])
    act = next((n for n in kernel.takes if kernel.format(n) == "act"), None)
    lines = wrapped(f"def {launcher}(", [f"{n}: Tensor" for n in kernel.takes], ") -> tuple[Tensor, ...]:")
    lines.append(f"    T = {counted}.numel()" + (f" // {each}" if each > 1 else ""))
    for give, v in kernel.gives.items():
        shape = ", ".join(["T", *map(str, v.streams), *([str(kernel.width)] if v.row else [])])
        shape += "," if shape == "T" else ""
        dtype = "torch.float32" if kernel.format(give) == "fp32" else f"{act}.dtype"
        lines.append(f"    {give} = torch.empty(({shape}), dtype={dtype}, device={counted}.device)")
    lines.append("    if T:")
    lines.append(f"        with on_device({counted}):")
    options = [*(f"{n}={v}" for n, v in sizes.items()), f"num_warps={warps}", "**FUSED_MULTIPLY_ADD"]
    grid = f"-(-T // {sizes['TILE']})" if sizes["TILE"] > 1 else "T"
    lines += wrapped(f"{name}[({grid},)](", [*kernel.takes, *kernel.gives, "T", *options], ")", depth=3)
    lines.append(f"    return {', '.join(kernel.gives)}" + ("," if len(kernel.gives) == 1 else ""))
    return "\n".join(lines) + "\n"


def numbers(kernel: Kernel, v: Row) -> int:
    """How many numbers a value has for each token."""
    return count(v) * (kernel.width if v.row else 1)


def _zero(x: Row) -> bool:
    """Whether a row value is zero where what it is made of was read as zero."""
    if not x.row:
        return False
    if isinstance(x.rule, Input | Param):
        return True
    if isinstance(x.rule, Product):
        return any(_zero(a) for a in x.args) and all(_finite(a) for a in x.args)
    if isinstance(x.rule, Sum | Round | Take | Spread):
        return all(_zero(a) for a in x.args)
    return isinstance(x.rule, Clip) and x.rule.low <= 0 <= x.rule.high and _zero(x.args[0])


def _finite(x: Row) -> bool:
    """Whether a value is surely finite where rows were read as zero."""
    return not x.row or isinstance(x.rule, Input | Param | Const) or _zero(x)
