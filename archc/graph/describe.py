"""The op vocabulary as text: how each op is called, for people (`archc ops`) and type checkers (`vocabulary.pyi`)."""

from __future__ import annotations

import inspect
import re

from archc.ops import OPS, Op
from archc.record import REQUIRED, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a drawer calls one op."""

    kind: str
    family: str
    doc: str
    named: bool
    """Takes a name first: it declares parameters or prints as a submodule."""
    operands: tuple[str, ...]
    """Names of its operands; those that may be left out end in "?", a starred one takes any number."""
    fields: tuple[tuple[str, str, str], ...]
    """(name, type, default or "") of each field."""
    result: str
    """The type of what it returns: a value, a tuple of values, or None for an effect."""

    @property
    def call(self) -> str:
        """``g.linear(name, x, out=..., bias=False)``"""
        parts = (["name"] if self.named else []) + list(self.operands)
        parts += [f"{n}={d or '...'}" for n, _, d in self.fields]
        return f"g.{self.kind}({', '.join(parts)})"


def usages() -> tuple[Usage, ...]:
    """Every op, by family and name."""
    return tuple(sorted((_usage(op) for op in OPS.values()), key=lambda u: (u.family, u.kind)))


def _usage(op: type[Op]) -> Usage:
    named = op.params is not Op.params or op.module is not Op.module
    signature = inspect.signature(op.infer)
    declared = _declared(op)
    operands = []
    for p in list(signature.parameters.values())[1:]:
        if p.name in declared:
            continue
        if p.kind is p.VAR_POSITIONAL:
            operands.append(f"*{p.name}")
        else:
            operands.append(p.name if p.default is p.empty else f"{p.name}?")
    hints = {name: hint for base in reversed(op.__mro__) for name, hint in inspect.get_annotations(base).items()}
    fields = tuple((n, hints[n], "" if d is REQUIRED else repr(d)) for n, d in op.fields.items())
    doc = inspect.cleandoc(op.__doc__ or "")
    several = signature.return_annotation.startswith("tuple")
    return Usage(
        kind=op.kind,
        family=op.__module__.rpartition(".")[2],
        doc=doc,
        named=named,
        operands=tuple(operands),
        fields=fields,
        result="None" if op.effect else "tuple[Value, ...]" if several else "Value",
    )


def _declared(op: type[Op]) -> set[str]:
    """Operands of `infer` that are the op's own parameters: those that `params` does not know."""
    if op.params is Op.params:
        return set()
    known = set(inspect.signature(op.params).parameters)
    return {name for name in inspect.signature(op.infer).parameters if name not in known}


def vocabulary() -> str:
    """The text of `vocabulary.pyi`: a method for every op."""
    lines = [
        '"""Every op as a method of the builder. Generated from `archc/ops/` by `make golden`; do not edit."""',
        "",
        "from typing import Literal",
        "",
        "from archc.graph.value import Value",
        "from archc.ops import Role",
        "",
        "class Vocabulary:",
    ]
    for u in usages():
        arguments = ["self"] + (["name: str | None"] if u.named else [])
        optional = False
        for operand in u.operands:
            if operand.startswith("*"):
                arguments.append(f"{operand}: Value | None")
            elif operand.endswith("?"):
                optional = True
                arguments.append(f"{operand[:-1]}: Value | None = ...")
            else:
                arguments.append(f"{operand}: Value")
        if u.fields and not any(o.startswith("*") for o in u.operands):
            arguments.append("*")
        arguments += [f"{n}: {t}" + (" = ..." if d else "") for n, t, d in u.fields]
        assert not optional or u.operands[-1].endswith("?"), u.kind
        lines.append(f"    def {u.kind}({', '.join(arguments)}) -> {u.result}:")
        first = re.sub(r"\s+", " ", u.doc.split("\n\n")[0])
        lines += [f'        """{first}"""', ""]
    return "\n".join(lines).rstrip() + "\n"
