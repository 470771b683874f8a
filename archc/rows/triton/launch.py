"""What launches a printed kernel: its arrays, its tiles by the number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from archc.rows.kernel import Kernel
from archc.rows.rules import Input
from archc.rows.triton.elements import count, to
from archc.rows.triton.lines import LONGEST, broken, wrapped
from archc.rows.value import Row

NEEDS = frozenset(("torch", "Tensor", "jit", "tl", "on_device", "FUSED_MULTIPLY_ADD"))


class Sizes(NamedTuple):
    """Tokens and channels of a tile, programs that share the row of a tile, warps and stages of loads.

    ``chunk`` and ``split`` are 0 where a kernel has no such thing.
    """

    tile: int
    chunk: int = 0
    split: int = 0
    warps: int = 4
    stages: int = 0

    def named(self) -> dict[str, int]:
        """Those that kernels take as constants."""
        return {n: v for n, v in (("TILE", self.tile), ("CHUNK", self.chunk), ("SPLIT", self.split)) if v}

    def options(self) -> list[str]:
        """What is written into a launch."""
        stages = [f"num_stages={self.stages}"] if self.stages else []
        return [*(f"{n}={v}" for n, v in self.named().items()), f"num_warps={self.warps}", *stages]


def numbers(kernel: Kernel, v: Row) -> int:
    """How many numbers a value has for each token."""
    return count(v) * (kernel.width if v.row else 1)


def signature(kernel: Kernel, extra: list[str], sizes: Sizes) -> str:
    """The first line, or lines, of the kernel."""
    args = [*kernel.takes, *map(to, kernel.gives), *extra, "T", *(f"{n}: tl.constexpr" for n in sizes.named())]
    return "\n".join(wrapped(f"def _{kernel.name}_kernel(", args, "):"))


def launcher(kernel: Kernel, sizes: Mapping[int | None, Sizes], fields: int = 0) -> tuple[str, str]:
    """The name and the text of the function that launches a kernel.

    ``sizes`` are those up to a number of tokens each, the last one without a limit; ``fields`` are numbers of each
    token that programs leave each other where they share a row.
    """
    name = f"launch_{kernel.name}"
    counted = next(n for n, v in kernel.takes.items() if isinstance(v.rule, Input) and v.rule.shared == 1)
    each = numbers(kernel, kernel.takes[counted])
    act = next((n for n in kernel.takes if kernel.format(n) == "act"), None)
    lines = wrapped(f"def {name}(", [f"{n}: Tensor" for n in kernel.takes], ") -> tuple[Tensor, ...]:")
    lines += [f'    """{text}' if not i else f"    {text}" for i, text in enumerate(described(kernel))]
    lines.append(f"    T = {counted}.numel()" + (f" // {each}" if each > 1 else ""))
    for give, v in kernel.gives.items():
        dims = ["T", *map(str, v.streams), *([str(kernel.width)] if v.row else [])]
        dtype = "torch.float32" if kernel.format(give) == "fp32" else f"{act}.dtype"
        shape = ", ".join(dims)
        lines.append(f"    {give} = torch.empty({shape}, dtype={dtype}, device={counted}.device)")
    arrays = [*kernel.takes, *kernel.gives]
    if len(sizes) == 1:
        (only,) = sizes.values()
        tiles = f"-(-T // {only.tile})" if only.tile > 1 else "T"
        options, grid = only.options(), tiles if not only.split else f"{tiles}, {only.split}"
    else:
        lines += _chosen(sizes)
        tiles, grid, options = "tiles", 'tiles, sizes["SPLIT"]', ["**sizes"]
    lines.append("    if T:")
    if fields:
        place = f"dtype=torch.float32, device={counted}.device"
        lines.append('        left = tiles * sizes["SPLIT"] * sizes["TILE"] if sizes["SPLIT"] > 1 else 0')
        lines.append(f"        partial = torch.empty(left * {fields}, {place})")
        lines.append(f"        arrived = arrivals({counted}, tiles)")
        arrays += ["partial", "arrived"]
    lines.append(f"        with on_device({counted}):")
    grid = f"({grid},)" if ", " not in grid else f"{grid}"
    passed = [*arrays, "T", *options, "**FUSED_MULTIPLY_ADD"]
    call = f"_{kernel.name}_kernel[{grid}]({', '.join(passed)})"
    lines += ["    " * 3 + line for line in broken(call, LONGEST - 12)]
    gives = list(kernel.gives)
    lines.extend(returned(gives))
    return name, "\n".join(lines) + "\n"


def returned(gives: list[str]) -> list[str]:
    """The last line, or lines, of a launcher: all that is given, as a tuple."""
    if len(gives) == 1:
        return [f"    return ({gives[0]},)"]
    whole = f"    return {', '.join(gives)}"
    return [whole] if len(whole) <= LONGEST else wrapped("return (", gives, ")", depth=1)


def _chosen(sizes: Mapping[int | None, Sizes]) -> list[str]:
    """Lines that choose sizes by the number of tokens."""
    lines = []
    for i, (most, some) in enumerate(sizes.items()):
        word = f"{'elif' if i else 'if'} T <= {most}" if most is not None else "else"
        named = {**some.named(), "num_warps": some.warps, **({"num_stages": some.stages} if some.stages else {})}
        shown = ", ".join(f'"{n}": {v}' for n, v in named.items())
        lines += [f"    {word}:", f"        sizes = {{{shown}}}"]
    return [*lines, '    tiles = -(-T // sizes["TILE"])']


def described(kernel: Kernel) -> list[str]:
    """The docstring of a launcher: the shapes of what it takes and gives."""

    def shape(name: str, v: Row) -> str:
        shared = v.rule.shared if isinstance(v.rule, Input) else 1
        token = ["T"] if shared == 1 else [f"T / {shared}"]
        dims = [*(token if v.token else []), *map(str, v.streams), *([str(kernel.width)] if v.row else [])]
        return f"{name} [{', '.join(dims)}]"

    given = ", ".join(shape(n, v) for n, v in kernel.gives.items())
    taken = ", ".join(shape(n, v) for n, v in kernel.takes.items())
    lines, text = [], f"{given} of {taken}."
    while len(text) > 112:
        at = text.rindex(" ", 0, 112)
        lines.append(text[:at])
        text = text[at + 1 :]
    lines.append(text)
    return [*lines, '"""'] if len(lines) > 1 else [lines[0] + '"""']
