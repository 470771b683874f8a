"""What a printer of Triton gives."""

from __future__ import annotations

from typing import NamedTuple


class Printed(NamedTuple):
    """Functions of a module of Python: Triton kernels, what they call, and a function that launches them.

    ``text`` defines them; ``launcher`` is the name of ``def launcher(take, ...) -> tuple[Tensor, ...]``, which takes
    contiguous arrays and returns new ones in the order of the kernel's gives; ``needs`` are the names that the text
    uses and does not define: ``torch``, ``Tensor``, and what `kernels/library.py` has.
    """

    text: str
    launcher: str
    needs: frozenset[str]
