"""What a printer of Triton gives."""

from __future__ import annotations

import re
from typing import NamedTuple

FUNCTIONS = frozenset(
    (
        *("add_to_share", "add_to_shares", "load_numbers", "store_numbers"),
        *("column", "columns", "stacked", "taken"),
        *("arrive", "ticket", "wait_for"),
        *("stable_root_softplus", "stable_softplus", "stable_tanh"),
    )
)
"""Functions that `kernels/library.py` has for ops, for tensors of numbers and for runs of accesses (`runs`)."""


class NoTriton(TypeError):
    """A kernel that has no Triton."""


def called(text: str) -> frozenset[str]:
    """Those of `FUNCTIONS` that a text calls."""
    return frozenset(name for name in re.findall(r"(?<![\w.])(\w+)\(", text) if name in FUNCTIONS)


class Printed(NamedTuple):
    """Functions of a module of Python: Triton kernels, what they call, and a function that launches them.

    ``text`` defines them; ``launcher`` is the name of ``def launcher(take, ...) -> tuple[Tensor, ...]``, which takes
    contiguous arrays and returns new ones in the order of the kernel's gives; ``needs`` are the names that the text
    uses and does not define: ``torch``, ``Tensor``, and what `kernels/library.py` has.
    """

    text: str
    launcher: str
    needs: frozenset[str]
