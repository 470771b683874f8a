"""Kernels of a function in a package: its C++, its Triton, and the table that says what they take and give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from archc.emit.layout import WIDTH, fill
from archc.rows.cpp import translation_unit
from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.rules import Input
from archc.rows.triton import Printed, print_forward
from archc.rows.value import Row

Dims = tuple[int, ...]


class Kernels(NamedTuple):
    """The kernels of a function, of which one is like another (`forward` and `training`) where nothing is saved."""

    forward: Kernel
    training: Kernel
    backward: Kernel | None
    lead: int
    """How many dims of tensors count tokens."""
    shapes: Mapping[str, Dims]
    """Dims of takes and gives as tensors have them, without those of tokens."""

    @property
    def saved(self) -> dict[str, Row]:
        """What is given in training alone."""
        return {n: v for n, v in self.training.gives.items() if n not in self.forward.gives}

    @property
    def learns(self) -> list[str]:
        """The takes that get a gradient."""
        return [] if self.backward is None else [n.removeprefix("d_") for n in self.backward.gives]


def kernels(program: Kernel, wanted: Collection[str], lead: int, shapes: Mapping[str, Dims]) -> Kernels:
    """The kernels of a row program, with a gradient for those of its takes that are ``wanted``.

    Rows that it gives are read again for the gradient, not made again.
    """
    forward = optimised(program)
    if not wanted:
        return Kernels(forward, forward, None, lead, shapes)
    training, backward = trained(forward, wanted, [n for n, v in forward.gives.items() if v.row])
    if not backward.gives:
        return Kernels(forward, forward, None, lead, shapes)
    name = forward.name if training.gives.keys() == forward.gives.keys() else f"{forward.name}_training"
    return Kernels(forward, training._replace(name=name), backward, lead, shapes)


def cpp(made: Kernels) -> str:
    """The kernels as one file of C++."""
    several = {k.name: k for k in (made.forward, made.training, made.backward) if k is not None}
    return translation_unit(list(several.values()))


def triton(made: Kernels) -> list[Printed]:
    """The kernels for training and of the gradient in Triton: neither, or the first, or both."""
    try:
        from archc.rows.triton import print_backward  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        print_backward = None
    out: list[Printed] = []
    try:
        out.append(print_forward(made.training._replace(name=made.forward.name)))
        if made.backward is not None and print_backward is not None:
            out.append(print_backward(made.backward))
    except (NotImplementedError, TypeError):
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
        *_arrays("takes", program, program.takes, made.shapes),
        *_arrays("gives", program, program.gives, made.shapes),
    ]
    if made.saved:
        lines += _arrays("saved", made.training, made.saved, {})
    if made.backward is not None:
        lines += _words("backward", made.backward.takes) + _words("learns", made.learns)
    if native:
        lines.append('    cpp=Path(__file__).with_suffix(".cpp"),')
    if launchers:
        lines.append(f"    triton=({', '.join(launchers)}{',' * (len(launchers) == 1)}),")
    return [*lines, ")"]


def _arrays(what: str, kernel: Kernel, values: Mapping[str, Row], shapes: Mapping[str, Dims]) -> list[str]:
    """What a kernel takes or gives, as arrays by name."""
    lines = [f"    {what}={{"]
    for name, value in values.items():
        dims = (*value.streams, *((kernel.width,) if value.row else ()))
        more = [str(n) for n in dims]
        more += ["once=True"] * (not value.token)
        if isinstance(value.rule, Input) and value.rule.shared > 1:
            more.append(f"shared={value.rule.shared}")
        if shapes.get(name, dims) != dims:
            more.append(f"shape={shapes[name]}")
        lines.append(f'        "{name}": {kernel.format(name)}({", ".join(more)}),')
    return [*lines, "    },"]


def _words(what: str, names: Collection[str]) -> list[str]:
    """A list of names as an argument."""
    words = [f'"{name}"' for name in names]
    whole = f"    {what}=[{', '.join(words)}],"
    return (
        [whole] if len(whole) <= WIDTH else [f"    {what}=[", *fill(words, 8)[:-1], f"{fill(words, 8)[-1]},", "    ],"]
    )
