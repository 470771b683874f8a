"""Prints the functions that chains of ops became: what runs them, their reference, and their kernels."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import NamedTuple

from archc.emit.body import Body
from archc.emit.classes import returned
from archc.emit.flow import Flow
from archc.emit.kernels import CARRIED, HEADER, Kernels, cpp, kernels, table, triton
from archc.emit.layout import WIDTH, aligned, docstring, fill
from archc.graph import Graph, Scope, Value
from archc.graph.gradient import FLOATS, gradients
from archc.ops import Workload
from archc.ops.base import nbytes
from archc.ops.expert import Dispatch, GroupedLinear
from archc.plan.functions import word
from archc.plan.groups import is_work
from archc.plan.passes.mixtures import gate_of, is_mixture, opening
from archc.rows.lower import lower
from archc.rows.traffic import bound, moved
from archc.rows.triton import Printed

EXTERNAL = {"torch": "import torch", "F": "import torch.nn.functional as F", "Path": "from pathlib import Path"}
"""Names of other libraries, and how they are imported."""

MACHINERY = {
    **dict.fromkeys(("Fused", "act", "fp32"), "kernels.fused"),
    **dict.fromkeys(("Gate", "Mixture"), "kernels.experts"),
}
"""What the files use of what packages carry, beside what ops need and Triton."""

LIBRARY = "kernels.library"
"""Where what Triton texts need is."""


ONE = Workload(batch=1, new=1)
"""A token."""


class Function(NamedTuple):
    """A function as it is printed: its files by their names, and the modules of the package that they import."""

    name: str
    files: Mapping[str, str]
    modules: tuple[str, ...]
    bound: tuple[int, int]
    """Bytes that must move in bfloat16, forward: for each token, and once."""


def functions(graph: Graph, known: Mapping[str, str], *, above: str = "..") -> list[Function]:
    """The functions of a graph, each once.

    ``known`` are the modules of names that printed code may use; ``above`` is how their files reach the package.
    """
    return [printer.function(wanted) for printer, wanted in _printers(graph, known, above)]


def kernels_of(graph: Graph) -> dict[str, Kernels]:
    """The kernels of each function of a graph that is a row program."""
    found = [pair for pair in _printers(graph, {}, "..") if not isinstance(pair[0], _Experts)]
    return {printer.name: printer.kernels(wanted) for printer, wanted in found}


def _printers(graph: Graph, known: Mapping[str, str], above: str) -> Iterator[tuple[_Printer, list[int]]]:
    """What prints each function, and the places of those of its arguments that get a gradient."""
    found: dict[str, list[Scope]] = {}
    for scope in graph.root.scopes():
        if scope.function:
            found.setdefault(scope.function, []).append(scope)
    if not found:
        return
    flow, fixed = Flow(graph), gradients(graph).constants
    known = {**known, **{name: f"fused.{name}" for name in found}}

    def learns(values: Iterable[Value]) -> bool:
        """Whether a take gets a gradient in one of the places where a function is called."""
        return any(
            v.type.dtype in FLOATS and v not in fixed and v.step is None and not (v.param and v.param.buffer)
            for v in values
        )

    for name, scopes in found.items():
        wanted = [i for i, like in enumerate(zip(*(s.args for s in scopes), strict=True)) if learns(like)]
        printer = _Experts if is_mixture(scopes[0]) else _Printer
        yield printer(name, scopes[0], flow, known, above), wanted


class _Printer:
    """Prints one function."""

    def __init__(self, name: str, scope: Scope, flow: Flow, known: Mapping[str, str], above: str) -> None:
        self.name, self.scope, self.flow, self.above = name, scope, flow, above
        self.known = {**known, **MACHINERY}
        self.heads = 1
        own = {"KERNELS", "Tensor", "opened", "reference", "tl", name}
        self.reserved = frozenset(self.known) | frozenset(EXTERNAL) | own
        self.takes = _named(scope, scope.args, self.reserved)
        self.gives = _named(scope, scope.returns, self.reserved | frozenset(self.takes.values()), "y", "next")

    def function(self, wanted: Sequence[int]) -> Function:
        """The function, of whose arguments those that are wanted get a gradient."""
        made = self.kernels(wanted)
        native, launched = cpp(made), triton(made)
        parts = [
            self._public(),
            self._reference(),
            *(p.text.strip("\n").split("\n") for p in launched),
            table(made, native=native is not None, launchers=[p.launcher for p in launched]),
        ]
        body = "\n\n\n".join("\n".join(lines) for lines in parts)
        imports, modules = self._imports(body, launched)
        per_token, once = _bytes(made, self.heads)
        text = "\n".join([*self._head(made, per_token, once), "", *imports, "", "", body]) + "\n"
        files = {f"{self.name}.py": text}
        if native is not None:
            files |= {f"{self.name}.cpp": native, HEADER: CARRIED}
        return Function(self.name, files, modules, (per_token, once))

    def kernels(self, wanted: Sequence[int]) -> Kernels:
        """Its kernels."""
        gives = {name: value for value, name in self.gives.items()}
        lowered = lower(list(self.scope.nodes()), self.takes, gives, self.name)
        lead = sum(not isinstance(n, int) for n in lowered.tokens)
        self.heads = math.prod(n for n in lowered.tokens if isinstance(n, int))
        shapes = {}
        for value, name in (*self.takes.items(), *self.gives.items()):
            dims = value.shape if value.param is not None else value.shape[lead:]
            shapes[name] = tuple(n for n in dims if isinstance(n, int))
        args = [self.takes[self.scope.args[i]] for i in wanted]
        spread = [name for value, name in self.takes.items() if value.step is not None]
        return kernels(lowered.kernel, [n for n in args if n in lowered.kernel.takes], lead, shapes, spread)

    def _head(self, made: Kernels, per_token: int, once: int) -> list[str]:
        """The documentation of the file."""
        *some, last = dict.fromkeys(map(word, filter(is_work, self.scope.nodes())))
        ops = f"{', '.join(some)} and {last}" if some else last
        whole = f", and {once:,} for all" if once else ""
        text = (
            f"One kernel of {ops}.\n\nAt least {per_token:,} bytes must move for each token{whole}, activations in"
            " bfloat16: what comes in and goes out, once."
        )
        return docstring(text, 0)

    def _signature(self, name: str) -> list[str]:
        arguments = [f"{n}: Tensor" for n in self.takes.values()]
        result = returned(self.scope.returns)
        whole = f"def {name}({', '.join(arguments)}) -> {result}:"
        return [whole] if len(whole) <= WIDTH else [f"def {name}(", *fill(arguments, 4), f") -> {result}:"]

    def _public(self) -> list[str]:
        """The function that a model calls."""
        takes = ", ".join(f"{n} {v.type}" for v, n in self.takes.items())
        gives = ", ".join(f"{n} {v.type}" for v, n in self.gives.items())
        call = f"    return KERNELS({', '.join(self.takes.values())})"
        if len(call) > WIDTH:
            call = "\n".join(["    return KERNELS(", *fill(list(self.takes.values()), 8), "    )"])
        return [*self._signature(self.name), *docstring(f"{takes} -> {gives}", 4), call]

    def _reference(self) -> list[str]:
        """The ops one by one."""
        body = Body(self.scope, self.flow, dict(self.takes), self.scope.returns, self.reserved, indent=4)
        body.run()
        return [
            *self._signature("reference"),
            *docstring("The same in plain PyTorch, op by op.", 4),
            *aligned(body.returns(self.scope.returns)),
        ]

    def _imports(self, body: str, launched: Sequence[Printed]) -> tuple[list[str], tuple[str, ...]]:
        """How the file imports what it uses, and the modules of the package among that."""
        used = set().union(*map(_read, ast.parse(body).body))
        needed = {name for p in launched for name in p.needs} - {"torch", "Tensor"}
        wanted = {
            name: self.known[name]
            for name in used & self.known.keys()
            if not self.known[name].startswith("torch") and name != self.name
        }
        wanted |= dict.fromkeys(needed, LIBRARY)
        modules: dict[str, list[str]] = {}
        for name, module in wanted.items():
            modules.setdefault(module, []).append(name)
        lines = ["from __future__ import annotations", ""]
        lines += [EXTERNAL["Path"], ""] * ("Path" in used)
        lines += [EXTERNAL[n] for n in ("torch", "F") if n in used]
        lines += ["from torch import Tensor", ""]
        for module, names in sorted(modules.items(), key=lambda pair: (pair[0].startswith("fused."), pair[0])):
            ordered = sorted(names, key=lambda n: (not n.isupper(), not n[:1].isupper(), n))
            place = f".{names[0]}" if module.startswith("fused.") else f"{self.above}{module}"
            line = f"from {place} import {', '.join(ordered)}"
            lines += [line] if len(line) <= WIDTH else [f"from {place} import (", *fill(ordered, 4), ")"]
        return lines, tuple(module for module in sorted(modules) if not module.startswith("fused."))


def _read(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module reads and does not make: a kernel may call its own values as an op."""
    every = list(ast.walk(statement))
    own = {n.arg for n in every if isinstance(n, ast.arg)}
    names = [n for n in every if isinstance(n, ast.Name)]
    own |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return {n.id for n in names} - own


class _Experts(_Printer):
    """Prints the function of the experts of a mixture, which is no row program."""

    def function(self, wanted: Sequence[int]) -> Function:
        """The function; whichever of its arguments get a gradient, its reference gives it."""
        parts = (self._public(), self._reference(), self._opened(), self._made())
        body = "\n\n\n".join("\n".join(lines) for lines in parts)
        imports, modules = self._imports(body, ())
        own, other = ([v for v in self.takes if (v.param is None) is first] for first in (True, False))
        per_token = sum(nbytes(v.type, ONE) for v in (*own, *self.gives))
        once = sum(nbytes(v.type, ONE) for v in other)
        count = next(n.op.experts for n in self.scope.nodes() if isinstance(n.op, Dispatch))
        text = (
            f"Each token through the experts that are chosen for it.\n\nAt least {per_token:,} bytes must move for each"
            f" token, and {once // count:,} for each of {count} experts that some token chooses, in bfloat16."
        )
        return Function(
            self.name,
            {f"{self.name}.py": "\n".join([*docstring(text, 0), "", *imports, "", "", body]) + "\n"},
            modules,
            (per_token, once),
        )

    def _opened(self) -> list[str]:
        """What stands between the two matrices of each expert."""
        items, taken, given = opening(self.scope)
        names = {taken: self.scope.hints.get(taken, "rows")}
        body = Body(self.scope, self.flow, names, [given], self.reserved, indent=4, items=items)
        body.run()
        return [
            f"def opened({names[taken]}: Tensor) -> Tensor:",
            *docstring("What the second matrices of experts take, of what the first give.", 4),
            *aligned(body.returns([given])),
        ]

    def _made(self) -> list[str]:
        """The statement that makes the `Mixture`."""
        grouped = next(n.op for n in self.scope.nodes() if isinstance(n.op, GroupedLinear))
        gate = gate_of(self.scope)
        arguments = ["reference", "opened"]
        if gate is not None:
            arguments.append(f"gate=Gate({', '.join(f'{name}={value!r}' for name, value in gate.items())})")
        arguments += ["inputs_first=True"] * grouped.inputs_first
        return [f"KERNELS = Mixture({', '.join(arguments)})"]


def _bytes(made: Kernels, heads: int) -> tuple[int, int]:
    """Bytes that must move for each of many tokens with ``heads`` that a kernel works on one by one, and once."""
    kernel = made.forward
    once = sum(moved(kernel, n, 1) for n, v in kernel.takes.items() if not v.token)
    many = 1 << 12
    return round((bound(kernel, many * heads) - once) / many), once


def _named(
    scope: Scope, values: Sequence[Value], taken: frozenset[str], other: str = "x", again: str = "2"
) -> dict[Value, str]:
    """Names of what a function takes or gives: those that the drawer gave, others where these are taken."""
    names: dict[Value, str] = {}
    for value in values:
        base = scope.hints.get(value) or (value.param.name.rpartition(".")[2] if value.param else value.step or other)
        tried = chain((base, f"{base}_{again}"), (f"{base}_{n}" for n in count(3)))
        names[value] = next(n for n in tried if n not in taken and n not in names.values())
    return names
