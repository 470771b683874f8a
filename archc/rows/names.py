"""What values are called in what is printed: by those who give and take them, by rules of ops, else by what they do."""

from __future__ import annotations

from archc.rows.rules import (
    Add,
    Clip,
    Const,
    Exp,
    Input,
    Outer,
    Param,
    Placeholder,
    Product,
    Project,
    Recip,
    RowMax,
    RowSum,
    Rsqrt,
    Sigmoid,
    StreamMax,
    Take,
    TokenSum,
    Unproject,
)
from archc.rows.value import Row

WORDS: dict[type, str] = {
    Add: "added",
    Clip: "limited",
    Exp: "power",
    Outer: "outer_product",
    Placeholder: "state",
    Project: "projected",
    Recip: "inverse",
    RowMax: "most",
    RowSum: "total",
    Rsqrt: "inverse_root",
    Sigmoid: "gate",
    StreamMax: "most",
    TokenSum: "of_tokens",
    Unproject: "unprojected",
}
"""What values are called that nothing else names, where the name of their rule does not say it."""

LONGEST = 32
"""Characters of a name made of other names: longer ones say less than a short word."""


def called(value: Row) -> str | None:
    """The name of a value, or of what it is read from."""
    if isinstance(value.rule, Input | Param):
        return value.rule.name
    program = value.program
    return program.names.get(value.id) or program.hints.get(value.id)


def hint(value: Row) -> str:
    """What a value may be called."""
    return called(value) or _made_of(value) or WORDS.get(type(value.rule), type(value.rule).__name__.lower())


def _made_of(value: Row) -> str | None:
    """A name made of those of operands, if that says it in few characters."""
    rule = value.rule
    args = [a for a in value.args if not isinstance(a.rule, Const)]
    names = [called(a) for a in args]
    name = None
    if isinstance(rule, RowSum) and isinstance(args[0].rule, Product) and len(args[0].args) == 2:
        a, b = map(called, args[0].args)
        name = f"{a}_dot_{b}" if a and b and a != b else None
    elif len(args) == 1 and len(value.args) == 2 and names[0] and isinstance(rule, Product):
        name = f"minus_{names[0]}" if any(_number(a) == -1 for a in value.args) else f"scaled_{names[0]}"
    elif isinstance(rule, Take) and names[0]:
        name = f"{names[0]}_from_{rule.start}"
    elif isinstance(rule, Product) and len(args) == 2 and all(names) and names[0] != names[1]:
        name = f"{names[0]}_times_{names[1]}"
    elif isinstance(rule, Product) and len(args) == 1 and names[0]:
        name = f"{names[0]}_sums"
    elif isinstance(rule, Recip) and names[0]:
        name = f"inverse_{names[0]}"
    elif isinstance(rule, Sigmoid) and names[0]:
        name = f"{names[0]}_gate"
    elif isinstance(rule, Add) and len(names) == 1 and names[0]:
        name = f"{names[0]}_plus"
    return name if name and len(name) <= LONGEST else None


def _number(value: Row) -> float | None:
    return value.rule.number if isinstance(value.rule, Const) else None
