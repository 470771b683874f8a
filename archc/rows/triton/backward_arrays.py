"""What lies in memory between the kernels of a gradient: shares of sums over tokens, and numbers of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import NamedTuple

from archc.rows.kernel import Kernel
from archc.rows.rules import Const, Input, Round, Unproject
from archc.rows.triton.launch import numbers
from archc.rows.value import Row

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


ADD_OUTER = '''\
@jit
def add_outer(at, numbers, x, again, inside, EXACT: tl.constexpr):
    """Adds numbers [M, TILE] times x [TILE, CHUNK]: to what lies in memory if ``again``, else to nothing."""
    before = tl.where(again, tl.load(at, mask=inside, other=0.0), 0.0)
    tl.store(at, outer(numbers, x, before, EXACT), mask=inside)
'''


class Share(NamedTuple):
    """A sum over tokens, and how many numbers it has."""

    name: str
    size: int

    @property
    def array(self) -> str:
        """Where programs leave their shares of it, [programs, size]; of one program, the sum itself."""
        return f"{self.name}_shares"


class Matrix(NamedTuple):
    """Numbers of tokens in memory, [fields, T], from a field of ``state`` on."""

    value: Row
    start: int


def shares(kernel: Kernel, sums: Mapping[str, Row]) -> list[Share]:
    """What programs have shares of."""
    return [Share(name, numbers(kernel, v)) for name, v in sums.items()]


def documented(text: str) -> list[str]:
    """The lines of a docstring."""
    lines = wrap(text, 106)
    return (
        [f'    """{lines[0]}', *(f"    {line}" for line in lines[1:]), '    """']
        if lines[1:]
        else [f'    """{text}"""']
    )


def in_memory(v: Row) -> bool:
    """Whether numbers of tokens lie in memory as they come, [T, fields]: none have to be left there."""
    return isinstance(v.rule, Input) and v.rule.shared == 1 and not v.row


def is_act(x: Row) -> bool:
    """Whether the numbers of a row are some of the format of activations."""
    return isinstance(x.rule, Input | Round) and x.rule.format == "act"


def loaded(v: Row, at: str, mask: str) -> str:
    """A load of numbers that are ``in_memory``, in float32."""
    assert isinstance(v.rule, Input)
    text = f"tl.load({v.rule.name} + {at}, mask={mask}, other=0.0)"
    return text if v.rule.format == "fp32" else f"{text}.to(tl.float32)"


def moved(kernel: Kernel, names: Iterable[str]) -> dict[str, int]:
    """Those of some takes that have a part for each tile of tokens, with how many numbers they have for each token."""
    found = {n: v for n in names if (v := kernel.takes[n]).token}
    return {n: numbers(kernel, v) for n, v in found.items() if isinstance(v.rule, Input) and v.rule.shared == 1}


def numbers_of(rows: Sequence[Row]) -> list[Row]:
    """The numbers that rows are made of, but those that a product reads, and constants."""
    found: dict[Row, None] = {}
    seen: set[int] = set()

    def go(v: Row) -> None:
        if v.id in seen:
            return
        seen.add(v.id)
        for arg in v.args:
            if arg.row:
                go(arg)
            elif not isinstance(v.rule, Unproject) and not isinstance(arg.rule, Const):
                found[arg] = None

    for v in rows:
        if v.row:
            go(v)
    return list(found)
