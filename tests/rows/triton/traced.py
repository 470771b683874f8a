"""What printed kernels move, counted in the worker that interprets them."""

from __future__ import annotations

from torch import Tensor

from archc.rows.triton import Printed
from tests.rows.triton.printed import call


def traced(
    printed: Printed, takes: dict[str, Tensor], processors: int | None = None
) -> list[tuple[str, dict[str, int], dict[str, int]]]:
    """Of each launch its name, and by array the distinct bytes that it touches and those that it asks for."""
    from archc.cli._bench.static.traced import tracing

    with tracing() as made:
        call(printed, *takes.values(), processors=processors)
    return [(one.kernel, one.distinct, one.requested) for one in made]
