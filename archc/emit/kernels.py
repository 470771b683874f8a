"""Kernels of a function in a package: its C++, its Triton, and the table that says what they take and give."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from archc.emit.layout import WIDTH, fill
from archc.rows import traffic
from archc.rows.cpp import HEAD, NoCpp, translation_unit
from archc.rows.kernel import Kernel, Trained, optimised, trained
from archc.rows.rules import Input, Project
from archc.rows.triton import NoTriton, Printed, print_backward, print_forward
from archc.rows.value import Row, order

Dims = tuple[int, ...]

MANY = 4096
"""Tokens for which less is read or more."""

HEADER = "rows.h"
"""The file of what the C++ of all functions uses."""

CARRIED = f"// What the C++ of functions shares: numbers in memory, functions of them, products of matrices\n{HEAD}"
"""Its text."""


class Kernels(NamedTuple):
    """The kernels of a function, of which one is like another (`forward` and `training`) where nothing is saved."""

    forward: Kernel
    training: Kernel
    backward: Kernel | None
    lead: int
    """How many dims of tensors depend on the workload: rows and their tokens."""
    shapes: Mapping[str, Dims]
    """The other dims of takes and gives. Takes that the kernels do not read are among them."""
    spread: Collection[str] = ()
    """Takes that may come with one row for all."""
    alike: Mapping[str, str] = MappingProxyType({})
    """Takes whose gradient is that of another."""

    @property
    def saved(self) -> dict[str, Row]:
        """What is given in training alone."""
        return {n: v for n, v in self.training.gives.items() if n not in self.forward.gives}

    @property
    def learns(self) -> list[str]:
        """The takes that get a gradient."""
        return [] if self.backward is None else [n.removeprefix("d_") for n in self.backward.gives]


def kernels(
    program: Kernel, wanted: Collection[str], lead: int, shapes: Mapping[str, Dims], spread: Collection[str] = ()
) -> Kernels:
    """The kernels of a row program, with a gradient for those of its takes that are ``wanted``.

    What it gives is read again for the gradient where less is read then than to make it again.
    """
    forward = optimised(program)
    if not wanted:
        return Kernels(forward, forward, None, lead, shapes, spread)
    training, backward = trained(forward, wanted, _kept(forward, wanted))
    backward, alike = _distinct(forward, backward, shapes)
    if not backward.gives:
        return Kernels(forward, forward, None, lead, shapes, spread)
    name = forward.name if training.gives.keys() == forward.gives.keys() else f"{forward.name}_training"
    return Kernels(forward, training._replace(name=name), backward, lead, shapes, spread, alike)


def _kept(forward: Kernel, wanted: Collection[str]) -> list[str]:
    """The gives that a gradient reads.

    Products of matrices want each row that they read to be one array, whatever it was made of.
    """

    def moved(kept: Collection[str]) -> int:
        training, backward = trained(forward, wanted, kept)
        saved = [n for n in training.gives if n not in forward.gives]
        return traffic.bound(backward, MANY) + sum(traffic.moved(training, n, MANY) for n in saved)

    kept = [n for n, v in forward.gives.items() if v.row]
    products = any(isinstance(v.rule, Project) for v in order(forward.gives.values()))
    least = moved(kept)
    for name in [n for n, v in forward.gives.items() if not (v.row and products)]:
        other = [n for n in kept if n != name] if name in kept else [*kept, name]
        if (less := moved(other)) < least:
            kept, least = other, less
    return kept


def _distinct(forward: Kernel, backward: Kernel, shapes: Mapping[str, Dims]) -> tuple[Kernel, dict[str, str]]:
    """The kernel of the gradient without what it would give twice, of the terms of a sum, and takes that share one."""
    first: dict[tuple[int, str, Dims | None], str] = {}
    alike: dict[str, str] = {}
    for name, value in backward.gives.items():
        take = name.removeprefix("d_")
        other = first.setdefault((value.id, forward.format(take), shapes.get(take)), take)
        if other != take:
            alike[take] = other
    gives = {n: v for n, v in backward.gives.items() if n.removeprefix("d_") not in alike}
    stored = {n: format for n, format in backward.stored.items() if n in gives}
    return backward._replace(gives=gives, stored=stored), alike


def cpp(made: Kernels) -> str | None:
    """The kernels as one file of C++; None where there are ops that it has no form for."""
    several = {k.name: k for k in (made.forward, made.training, made.backward) if k is not None}
    try:
        return translation_unit(list(several.values()), f'#include "{HEADER}"\n')
    except NoCpp:
        return None


def triton(made: Kernels) -> list[Printed]:
    """The kernels for training and of the gradient in Triton: neither, or the first, or both."""
    out: list[Printed] = []
    try:
        out.append(print_forward(made.training._replace(name=made.forward.name)))
        if made.backward is not None:
            out.append(print_backward(Trained(made.training, made.backward).settled, made.training.gives))
    except NoTriton:
        pass
    return out


def table(made: Kernels, *, native: bool, launchers: Sequence[str]) -> list[str]:
    """The statement that makes the `Fused` of a file."""
    program = made.forward
    tokens = next(n for n, v in program.takes.items() if isinstance(v.rule, Input) and v.rule.shared == 1)
    lines = [
        "KERNELS = Fused(",
        f'    "{program.name}",',
        "    reference,",
        f"    lead={made.lead},",
        f'    tokens="{tokens}",',
        *_arrays("takes", made, [n for n in made.shapes if n not in program.gives] or program.takes),
        *_arrays("gives", made, program.gives),
    ]
    if made.saved:
        lines += _arrays("saved", made, made.saved)
    if made.backward is not None:
        lines += _words("backward", made.backward.takes) + _words("learns", made.learns)
    if made.alike:
        pairs = ", ".join(f'"{take}": "{other}"' for take, other in made.alike.items())
        lines.append(f"    alike={{{pairs}}},")
    if native:
        lines.append('    cpp=Path(__file__).with_suffix(".cpp"),')
    if launchers:
        lines.append(f"    triton=({', '.join(launchers)}{',' * (len(launchers) == 1)}),")
    return [*lines, ")"]


def _arrays(what: str, made: Kernels, names: Iterable[str]) -> list[str]:
    """What a kernel takes or gives, as arrays by name; None for what it does not read."""
    kernel, lines = made.training, [f"    {what}={{"]
    values = {**kernel.takes, **kernel.gives}
    for name in names:
        if name not in values:
            lines.append(f'        "{name}": None,')
            continue
        value = values[name]
        dims = (*value.streams, *((kernel.width,) if value.row else ()))
        more = [str(n) for n in dims]
        more += ["once=True"] * (not value.token) + ["spread=True"] * (name in made.spread)
        if isinstance(value.rule, Input) and value.rule.shared > 1:
            more.append(f"shared={value.rule.shared}")
        if made.shapes.get(name, dims) != dims:
            more.append(f"shape={made.shapes[name]}")
        lines.append(f'        "{name}": {kernel.format(name)}({", ".join(more)}),')
    return [*lines, "    },"]


def _words(what: str, names: Collection[str]) -> list[str]:
    """A list of names as an argument."""
    words = [f'"{name}"' for name in names]
    whole = f"    {what}=[{', '.join(words)}],"
    return (
        [whole] if len(whole) <= WIDTH else [f"    {what}=[", *fill(words, 8)[:-1], f"{fill(words, 8)[-1]},", "    ],"]
    )
