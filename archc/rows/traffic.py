"""Bytes that a kernel must move, and that it asks for where it walks the row pass by pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from archc.rows.kernel import Kernel
from archc.rows.rewrite import Levels
from archc.rows.rules import Format, Input, Param, Project, RowMax, RowSum
from archc.rows.value import Row, order

SIZES: dict[Format, int] = {"fp32": 4, "bf16": 2, "fp8": 1}
"""Bytes of a number in memory; of an activation a caller says."""


def moved(kernel: Kernel, name: str, tokens: int, act: int = 2) -> int:
    """Bytes of what is taken or given by a name, activations being of ``act`` bytes a number."""
    value = kernel.takes[name] if name in kernel.takes else kernel.gives[name]
    numbers = math.prod(value.streams) * (kernel.width if value.row else 1)
    if value.token:
        numbers *= -(-tokens // value.rule.shared) if isinstance(value.rule, Input) else tokens
    return numbers * SIZES.get(kernel.format(name), act)


def bound(kernel: Kernel, tokens: int, act: int = 2) -> int:
    """Bytes that must move for a number of tokens: every take and give once, whatever the kernel does in between.

    Activations are of ``act`` bytes a number. Parameters, and sums over tokens, count once for all tokens.
    """
    return sum(moved(kernel, name, tokens, act) for name in (*kernel.takes, *kernel.gives))


def requested(kernel: Kernel, tokens: int, act: int = 2, *, tile: int = 64, held: bool | None = None) -> int:
    """Bytes that loads and stores ask for, caches or not: the rows that each pass needs in each pass, all else once.

    Rows that an earlier pass stored are read back instead of made again. Parameters are read once for each ``tile`` of
    tokens. Where rows stay on the chip between passes (``held``) they are read once; unless told, that is so where
    there is no product of matrices, beside whose operands they would not fit.
    """
    total = sum(moved(kernel, name, tokens, act) for name in kernel.gives)
    if held is None:
        held = not any(isinstance(value.rule, Project) for value in order(kernel.gives.values()))
    reads = [name for _, name in _reads(kernel)]
    tiles = -(-tokens // tile)
    for name, value in {**kernel.takes, **kernel.gives}.items():
        times = reads.count(name) if value.row else int(name in kernel.takes)
        if held:
            times = int(name in kernel.takes)
        total += times * moved(kernel, name, tokens, act) * (tiles if isinstance(value.rule, Param) else 1)
    return total


def passes(kernel: Kernel) -> int:
    """How often the row is walked: a sum over it must have ended before a row is made of the sum."""
    return 1 + max((number for number, _ in _walked(kernel)), default=-1)


def _walked(kernel: Kernel) -> Iterator[tuple[int, Row]]:
    """What passes over the row are for, with the number of the pass: sums over the row, products, and rows given."""
    levels = Levels()
    for value in order(kernel.gives.values()):
        if isinstance(value.rule, RowSum | RowMax | Project):
            yield levels.of(value) - 1, value
    for value in kernel.gives.values():
        if value.row:
            yield levels.of(value), value


def _reads(kernel: Kernel) -> set[tuple[int, str]]:
    """The rows that are read, by pass and name: takes, and gives that an earlier pass stored."""
    names = {value.id: name for name, value in kernel.takes.items()}
    levels, stored = Levels(), {value.id: name for name, value in kernel.gives.items() if value.row}
    found: set[tuple[int, str]] = set()
    for number, end in _walked(kernel):
        seen, rest = {end.id}, list(end.args)
        while rest:
            value = rest.pop()
            if not value.row or value.id in seen:
                continue
            seen.add(value.id)
            if value.id in names:
                found.add((number, names[value.id]))
            elif value.id in stored and levels.of(value) < number:
                found.add((number, stored[value.id]))
            else:
                rest += value.args
    return found
