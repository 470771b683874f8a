"""Gradients of row programs: each rule's own, in reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.names import called
from archc.rows.rules import Const, RowSum, TokenSum, add, product
from archc.rows.value import Row, order


def fit(grad: Row, operand: Row) -> Row:
    """A gradient summed over the axes that the operand does not have."""
    make = grad.program.make
    if grad.row and not operand.row:
        grad = make(RowSum(), grad)
    if grad.streams != operand.streams and not operand.streams:
        letters = "abcd"[: len(grad.streams)]
        grad = product(f"{letters}->", grad)
    if grad.token and not operand.token:
        grad = make(TokenSum(), grad)
    return grad


def gradients(seeds: Mapping[Row, Row], wanted: Sequence[Row]) -> list[Row | None]:
    """What ``wanted`` get of the gradients ``seeds`` of some values; None for what these do not depend on.

    The gradient of a value is called d_<name> where that has a name; its parts d_<name>_by_<reader>, where several read
    the value.
    """
    found: dict[int, Row] = {value.id: grad for value, grad in seeds.items()}
    parts: dict[int, list[tuple[Row, Row]]] = {}
    sums: dict[int, list[Row]] = {}
    for value in reversed(order(seeds)):
        if value.id not in found:
            continue
        grad, name = found[value.id], called(value)
        if name is not None:
            _call(grad, name, parts.get(value.id, ()))
            for part in sums.get(value.id, ())[:-1]:
                value.program.hinted(f"part_of_d_{name}", part)
        if not value.args:
            continue
        for operand, part in zip(value.args, value.rule.vjp(value, grad), strict=True):
            if part is None or isinstance(operand.rule, Const):
                continue
            mine = fit(part, operand)
            parts.setdefault(operand.id, []).append((value, mine))
            if operand.id in found:
                mine = add(found[operand.id], mine)
                sums.setdefault(operand.id, []).append(mine)
            found[operand.id] = mine
    return [found.get(value.id) for value in wanted]


def _call(grad: Row, name: str, parts: Sequence[tuple[Row, Row]]) -> None:
    """Gives names to a gradient and to what of it each reader of the value gives."""
    hinted = grad.program.hinted
    hinted(f"d_{name}", grad)
    if isinstance(grad.rule, TokenSum):
        hinted(f"d_{name}", grad.args[0])
    for reader, part in parts if len(parts) > 1 else ():
        by = called(reader)
        hinted(f"d_{name}_by_{by}" if by else f"part_of_d_{name}", part)
