"""Gradients of row programs: each rule's own, in reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    The gradient of a value with a name is called d_<name>.
    """
    found: dict[int, Row] = {value.id: grad for value, grad in seeds.items()}
    for value in reversed(order(seeds)):
        if value.id not in found or not value.args:
            continue
        name, grad = value.program.names.get(value.id), found[value.id]
        if name is not None and grad.args:
            value.program.named(f"d_{name}", grad)
        for operand, part in zip(value.args, value.rule.vjp(value, grad), strict=True):
            if part is None or isinstance(operand.rule, Const):
                continue
            mine = fit(part, operand)
            found[operand.id] = add(found[operand.id], mine) if operand.id in found else mine
    return [found.get(value.id) for value in wanted]
