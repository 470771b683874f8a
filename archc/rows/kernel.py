"""Row programs as kernels: named values that come from memory and go there, and the kernels of their gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain, count
from typing import NamedTuple

from archc.rows.gradient import gradients
from archc.rows.names import hint
from archc.rows.rewrite import collected, hoisted, rebuilt, summed_last
from archc.rows.rules import Format, Input, Param, Project, RowMax, RowSum, TokenSum
from archc.rows.softmax import Softmax
from archc.rows.takes import taken_first
from archc.rows.value import Row, order


class Kernel(NamedTuple):
    """A row program with names for what it takes and gives; rows are ``width`` channels wide.

    In memory an array is [tokens, *streams, width or nothing] without gaps, or without tokens where it has none: a
    parameter, or a sum over tokens. Takes say in which format they come (`Input.format`); ``stored`` says in which
    gives are written, float32 where it says nothing. What is computed in between is float32.
    """

    name: str
    width: int
    takes: Mapping[str, Row]
    gives: Mapping[str, Row]
    stored: Mapping[str, Format]

    def format(self, name: str) -> Format:
        """The format in memory of what is taken or given by a name."""
        if name in self.takes:
            rule = self.takes[name].rule
            assert isinstance(rule, Input | Param)
            return rule.format
        return self.stored.get(name, "fp32")


class Trained(NamedTuple):
    """A kernel that also gives what its gradient needs (``saved_...``), and the kernel of the gradient.

    The latter takes what the former took (as far as it reads it), what it saved, of its gives those that were to be
    kept, and the gradients ``grad_...`` of all its gives; it gives ``d_...`` of the takes that were wanted. Sums over
    tokens are float32 whatever the parameter is: tiles of tokens are added one after another.
    """

    forward: Kernel
    backward: Kernel

    @property
    def settled(self) -> Kernel:
        """The latter for those who add up sums over tokens before they store them: in the formats of parameters."""
        kernel = self.backward
        sums = {n: self.forward.format(n.removeprefix("d_")) for n, v in kernel.gives.items() if not v.token}
        return kernel._replace(stored={**kernel.stored, **sums})


def optimised(kernel: Kernel) -> Kernel:
    """The kernel with as few passes over the row and products as the rewrites know to reach."""
    made = summed_last(collected(hoisted(taken_first(list(kernel.gives.values())))))
    return kernel._replace(gives=dict(zip(kernel.gives, made, strict=True)))


def bare(kernel: Kernel) -> Kernel:
    """The kernel without what only gradients ask for: a softmax is what it is computed by."""
    gives = rebuilt(list(kernel.gives.values()), lambda _, new: new.args[1] if isinstance(new.rule, Softmax) else new)
    return kernel._replace(gives=dict(zip(kernel.gives, gives, strict=True)))


def trained(kernel: Kernel, wanted: Collection[str], kept: Collection[str] = ()) -> Trained:
    """The kernels of a step of training: what every pass over the row summed is saved, all else is computed again.

    ``wanted`` are the takes with a gradient; gives that are ``kept`` are read from memory in the backward pass instead
    of made again.
    """
    kernel = optimised(kernel)
    program = next(iter(kernel.gives.values())).program
    sums = [v for v in order(kernel.gives.values()) if isinstance(v.rule, RowSum | RowMax | Project) and v.token]
    saved: dict[str, Row] = {}
    for v in sums:
        name = f"saved_{hint(v)}"
        saved[next(n for n in chain((name,), (f"{name}_{i}" for i in count(2))) if n not in saved)] = v
    forward = kernel._replace(gives={**kernel.gives, **saved})

    def leaf(name: str, like: Row, format: Format) -> Row:
        return program.make(Input(name=name, streams=like.streams, row=like.row, format=format))

    seeds = {f"grad_{name}": leaf(f"grad_{name}", v, kernel.format(name)) for name, v in kernel.gives.items()}
    made = gradients(dict(zip(kernel.gives.values(), seeds.values(), strict=True)), [kernel.takes[n] for n in wanted])
    inputs = {v.id: leaf(name, v, "fp32") for name, v in saved.items()}
    inputs |= {kernel.gives[name].id: leaf(name, kernel.gives[name], kernel.format(name)) for name in kept}
    found = {f"d_{name}": g for name, g in zip(wanted, made, strict=True) if g is not None}
    for name, g in found.items():
        program.hinted(name, g.args[0] if isinstance(g.rule, TokenSum) else g)
    cut = rebuilt(list(found.values()), lambda old, new: inputs.get(old.id, new))
    backward = optimised(
        Kernel(
            name=f"{kernel.name}_backward",
            width=kernel.width,
            takes={},
            gives=dict(zip(found, cut, strict=True)),
            stored={n: kernel.format(n.removeprefix("d_")) for n, v in zip(found, cut, strict=True) if v.token},
        )
    )
    leaves = {v.rule.name: v for v in order(backward.gives.values()) if isinstance(v.rule, Input | Param)}
    ordered = [n for n in (*kernel.takes, *kernel.gives, *saved, *seeds) if n in leaves]
    forward = forward._replace(gives={n: v for n, v in forward.gives.items() if n in kernel.gives or n in leaves})
    return Trained(forward, backward._replace(takes={n: leaves[n] for n in ordered}))
