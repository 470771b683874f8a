"""Parts of a line of streams taken where the line begins, instead of from what is made of it."""

from __future__ import annotations

from collections.abc import Sequence

from archc.rows.names import called
from archc.rows.rewrite import rebuilt
from archc.rows.rules import Add, Pointwise, Product, Take
from archc.rows.value import Row, order


def taken_first(values: Sequence[Row]) -> list[Row]:
    """With parts of values made of the same parts of what these are made of, where nothing needs such a value whole.

    ``take(x * s)`` becomes ``take(x) * s``: the value is never put together, nor is its gradient.
    """
    users: dict[int, list[Row]] = {}
    for v in order(values):
        for a in v.args:
            users.setdefault(a.id, []).append(v)
    whole = {v.id for v in values}

    def sinks(x: Row, known: dict[int, bool]) -> bool:
        """Whether only parts of a value are needed, and they can be made of parts."""
        if x.id not in known:
            known[x.id] = (
                x.id not in whole
                and _by_parts(x)
                and all(isinstance(u.rule, Take) or sinks(u, known) for u in users[x.id])
            )
        return known[x.id]

    known: dict[int, bool] = {}
    sunk: set[int] = set()

    def part(rule: Take, x: Row) -> Row:
        while isinstance(x.rule, Take):
            rule, x = Take(start=rule.start + x.rule.start, shape=rule.shape), x.args[0]
        if x.id not in sunk:
            return x.program.make(rule, x)
        args = [part(rule, a) if a.streams else a for a in x.args]
        if not isinstance(x.rule, Product):
            return carried_to(x, x.program.make(x.rule, *args))
        letters = "abcdefgh"[: len(rule.shape)]
        spec = ",".join(letters if a.streams else "" for a in x.args) + f"->{letters}"
        return carried_to(x, x.program.make(Product(spec=spec), *args))

    def change(old: Row, new: Row) -> Row:
        if new.streams and sinks(old, known):
            sunk.add(new.id)
        return part(new.rule, new.args[0]) if isinstance(new.rule, Take) else new

    return rebuilt(values, change)


def carried_to(whole: Row, part: Row) -> Row:
    """A part that is called what the whole was."""
    name = called(whole)
    return part.program.hinted(name, part) if name else part


def _by_parts(x: Row) -> bool:
    """Whether a part of a value is made of the same parts of its operands, and of those that have no streams."""
    if isinstance(x.rule, Product):
        ins, out = x.rule.letters()
        return all(letters in ("", out) for letters in ins)
    return isinstance(x.rule, Pointwise | Add)
