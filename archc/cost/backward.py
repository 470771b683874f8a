"""A backward pass over tensors without numbers: which gradients live when, as PyTorch's engine runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from archc.ops.tape import Back, Storage, Tape, Tensor


def reached(roots: Iterable[Back]) -> list[Back]:
    """All that makes gradients for some, in the order in which it was made."""
    todo = list(roots)
    found = {id(back): back for back in todo}
    while todo:
        for edge in todo.pop().edges:
            if id(edge[0]) not in found:
                found[id(edge[0])] = edge[0]
                todo.append(edge[0])
    return sorted(found.values(), key=lambda back: back.order)


def backward(t: Tape, given: Iterable[tuple[Back, int, Storage]]) -> dict[int, dict[int, Storage]]:
    """Runs a backward pass from gradients that are given, the last made first; what was kept is freed on the way.

    Returns the gradients of what has no `Back` of its own further down, by its id and place.
    """
    buffers: dict[int, dict[int, Storage]] = {}
    roots = []
    for back, place, storage in given:
        buffers.setdefault(id(back), {})[place] = storage
        roots.append(back)
        del storage
    del given
    order = reached(roots)
    while order:
        back = order.pop()
        if back.leaf or not (back.edges or back.through) or id(back) not in buffers:
            continue
        grads = buffers.pop(id(back))
        made = back.through(grads) if back.through else _gradients(t, back, grads, buffers)
        back.kept = ()
        del grads
        while made:
            edge, storage = back.edges[len(made) - 1], made.pop()
            _deliver(t, buffers, edge, storage)
            del storage
    return buffers


def _gradients(t: Tape, back: Back, grads: dict[int, Storage], buffers: dict[int, dict[int, Storage]]) -> list[Storage]:
    """Gradients of operands; the first of a parameter stays, and lives beside what activations take."""
    t.use(back.work)
    only = grads.get(0) if len(grads) == 1 else None
    made = []
    for target, _, size, passes in back.edges:
        first = bool(target.leaf) and id(target) not in buffers
        if first:
            t.leaves += size
            t.largest = max(t.largest, size)
        made.append(only if passes and only is not None and not first else Storage(t, size, given=first))
    t.use(back.work)
    return made


def _deliver(
    t: Tape, buffers: dict[int, dict[int, Storage]], edge: tuple[Back, int, int, bool], storage: Storage
) -> None:
    """Adds a gradient to what has come for an operand before."""
    target, place, size, _ = edge
    held = buffers.setdefault(id(target), {})
    if place not in held:
        held[place] = storage
    elif not target.leaf and sys.getrefcount(held[place]) > 2:  # others see it: the sum is a new tensor
        held[place] = Storage(t, size)


def kept(roots: Iterable[Tensor]) -> list[tuple[Storage, object]]:
    """Storages that the gradients of some tensors read, each once, with what first keeps it."""
    found: dict[int, tuple[Storage, object]] = {}
    for back in reached(x.back for x in roots if x.back is not None):
        for storage in back.kept:
            found.setdefault(id(storage), (storage, back.owner))
    return list(found.values())
