"""Row programs printed as Triton: `print_forward`, and `print_backward` for gradients."""

from __future__ import annotations

from archc.rows.kernel import Kernel
from archc.rows.rules import Project
from archc.rows.triton.backward import print_backward as print_backward
from archc.rows.triton.elements import count
from archc.rows.triton.passes import Passes
from archc.rows.triton.printed import NoTriton as NoTriton
from archc.rows.triton.printed import Printed as Printed
from archc.rows.triton.tensors import power_of_two
from archc.rows.triton.whole import Whole
from archc.rows.value import order

HELD = 40960
"""Numbers of rows of a token that a program reads and holds: 80 registers of each of 512 threads."""


def print_forward(kernel: Kernel) -> Printed:
    """A kernel that runs a row program without sums over tokens, in one launch.

    Rows that fit in the registers of a program are read once. Others are walked in chunks, and so are those that meet
    a matrix: its weight is read once for a tile of many tokens, whose rows would not fit.

    Raises `NoTriton` where there is none.
    """
    held = sum(count(v) for v in kernel.takes.values() if v.row and v.token) * power_of_two(kernel.width)
    product = any(isinstance(v.rule, Project) for v in order(kernel.gives.values()))
    return (Passes if product or held > HELD else Whole)(kernel).printed()
