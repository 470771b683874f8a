"""What of each parameter a process holds when a package's `apply_fsdp` has sharded it (FSDP2 of PyTorch)."""

from __future__ import annotations

from archc.graph import Graph


def rank_rows(rows: int, ways: int, rank: int) -> int:
    """Rows of a dimension that process ``rank`` of ``ways`` holds: chunks of ceil(rows / ways), as `torch.chunk` has
    them, until none are left. The last chunk may be short, and processes after it hold none.
    """
    chunk = -(-rows // ways)
    return max(0, min(chunk, rows - rank * chunk))


def rank_shapes(graph: Graph, ways: int, rank: int, *, padded: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by name, in process ``rank`` of ``ways``: dimension 0 is cut, all others are whole.

    Gradients and the states of an optimizer have the same shapes. Buffers are on every process whole and are not among
    these. ``padded``: as it is allocated and sent; all processes then have the shape of the first.

    Raises ValueError for a rank that is not one of ``ways``.
    """
    if not 0 <= rank < ways:
        raise ValueError(f"rank is {rank}, of {ways} it is 0 to {ways - 1}")
    held = 0 if padded else rank
    return {
        p.name: (rank_rows(p.spec.shape[0], ways, held), *p.spec.shape[1:])
        for p in graph.parameters()
        if not p.spec.buffer
    }
