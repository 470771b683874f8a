"""What `archc plan --after fuse` shows: the functions that run as one kernel each, and what stayed alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from archc.cli._console import print_all
from archc.cli._cost.units import bytes_text

if TYPE_CHECKING:
    from archc.emit.kernels import Kernels
    from archc.graph import Graph, Node, Scope, Value
    from archc.plan.groups import Region

AT = (1, 4096)
"""New tokens of one row for which bytes are told: of decoding, and of training."""

ALONE = "no row program beside it"
"""Why an op that is a row program stays alone."""


def fused(graph: Graph) -> dict[str, Any]:
    """The functions of a graph, and its row-local ops outside of these, as plain data."""
    return {"functions": _functions(graph), "alone": _alone(graph)}


def _functions(graph: Graph) -> list[dict[str, Any]]:
    found: dict[str, list[tuple[Scope, int]]] = {}
    for scope, times in graph.scopes():
        if scope.function:
            found.setdefault(scope.function, []).append((scope, times))
    from archc.emit.fused import kernels_of

    made = kernels_of(graph)
    return [
        _told(name, places) | (_function(name, places, made[name]) if name in made else _experts(places))
        for name, places in found.items()
    ]


def _told(name: str, places: list[tuple[Scope, int]]) -> dict[str, Any]:
    """What is said of any function that is called in several places, each so many times."""
    from archc.plan.functions import word
    from archc.plan.groups import is_work

    function = places[0][0]
    return {
        "function": name,
        "calls": sum(times for _, times in places),
        "modules": sorted({scope.parent.cls for scope, _ in places if scope.parent is not None}),
        "ops": [word(node) for node in function.nodes() if is_work(node)],
        "takes": [str(v.type) for v in function.args],
        "gives": [str(v.type) for v in function.returns],
    }


def _experts(places: list[tuple[Scope, int]]) -> dict[str, Any]:
    """A function of experts: of their matrices those move that some token chooses."""
    from archc.ops import Workload
    from archc.ops.base import nbytes
    from archc.plan.passes.mixtures import gate_of

    function, rows = places[0][0], []
    for new in AT:
        w = Workload(batch=1, new=new)
        read = {v: size for node in function.nodes() for v, size in _read(node, w).items()}
        moved = sum(read[v] for v in function.args) + sum(nbytes(v.type, w) for v in function.returns)
        rows.append({"new_tokens": new, "bound": moved, "requested": None, "op_by_op": _op_by_op(function, w)})
    return {"launches": [], "cpp": gate_of(function) is not None, "bytes": rows}


def _read(node: Node, w: Any) -> dict[Value, int]:
    """Bytes that a node reads of each of its operands."""
    from archc.ops.base import nbytes

    types, made = tuple(v.type for v in node.ins), tuple(v.type for v in node.outs)
    shares = zip(node.ins, node.op.shares(w, types, made), strict=True)
    return {v: round(nbytes(v.type, w) * share) for v, share in shares}


def _function(name: str, places: list[tuple[Scope, int]], made: Kernels) -> dict[str, Any]:
    """A function that is a row program."""
    from archc.emit.kernels import cpp, triton
    from archc.ops import Workload, size
    from archc.rows.lower import lower
    from archc.rows.traffic import bound, requested

    function, kernel, printed = places[0][0], made.forward, triton(made)
    takes = {v: f"x{i}" for i, v in enumerate(function.args)}
    tokens = lower(list(function.nodes()), takes, {f"y{i}": v for i, v in enumerate(function.returns)}, name).tokens
    rows = []
    for new in AT:
        w = Workload(batch=1, new=new)
        count = math.prod(size(n, w) for n in tokens)
        moves = (bound(kernel, count), requested(kernel, count), _op_by_op(function, w)) if count else (0, 0, 0)
        rows.append({"new_tokens": new, **dict(zip(("bound", "requested", "op_by_op"), moves, strict=True))})
    return {
        "launches": [_launches(p.text) for p in printed],
        "cpp": cpp(made) is not None,
        "bytes": rows,
    }


def _launches(text: str) -> int:
    """Kernels that a printed launcher starts."""
    return len(re.findall(r"^ +_\w+\[", text, re.MULTILINE))


def _op_by_op(function: Scope, w: Any) -> int:
    """Bytes that the ops of a function read and write where each is a kernel of its own."""
    from archc.ops.base import nbytes
    from archc.plan.groups import is_work, operands

    nodes = [node for node in function.nodes() if is_work(node) or node.op.kind == "cast"]
    moved = [_read(node, w)[v] for node in nodes for v in operands(node)]
    return sum(moved) + sum(nbytes(v.type, w) for node in nodes for v in node.outs)


def _alone(graph: Graph) -> list[dict[str, Any]]:
    """Row-local ops that are in no function, and why."""
    from archc.graph import Node
    from archc.plan.functions import word
    from archc.plan.groups import Region, is_work, may_join, readers

    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    read_by = readers(graph)
    for scope, times in graph.scopes():
        nodes = [item for item in scope.items if isinstance(item, Node) and may_join(item) and is_work(item)]
        if scope.function or not nodes:
            continue
        region = Region(scope, (), read_by)
        for node in nodes:
            key = word(node), scope.cls, str(node.outs[0].type)
            row = dict(zip(("op", "module", "result"), key, strict=True)) | {"why": _why(region, node)}
            found.setdefault(key, {**row, "calls": 0})["calls"] += times
    return list(found.values())


def _why(region: Region, node: Node) -> str:
    """Why a row-local op is in no function: the reason if it is no row program, or what it lacks."""
    from archc.plan.passes.fuse import fits, lowered
    from archc.rows.lower import Unfit

    if region.fitting([node], fits) is None:
        try:
            lowered(region.group([node]))
        except Unfit as why:
            return str(why)
    return ALONE


def show(model: str, facts: dict[str, Any]) -> None:
    """Prints the functions as tables."""
    from rich.markup import escape
    from rich.table import Table

    def table(*columns: str, right: int = 0) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if 0 < i <= right else "left", overflow="fold")
        return made

    functions, alone = facts["functions"], facts["alone"]
    if not functions:
        print_all(f"[bold]{model}[/bold]: no two row-local ops that could run as one")
        return
    programs = [row for row in functions if row["bytes"][-1]["requested"] is not None]
    calls = sum(row["calls"] for row in programs)
    ops = sum(row["calls"] * len(row["ops"]) for row in programs)
    heading = f"[bold]{model}[/bold]: {len(programs)} functions run {ops:,} ops of a forward as {calls:,} kernels"
    sizes = table("function", "calls", "kernels", *(f"at {n:,}" for n in AT), "asked", "by op", right=6)
    for row in functions:
        last = row["bytes"][-1]
        sizes.add_row(
            row["function"],
            f"{row['calls']:,}",
            " + ".join(map(str, row["launches"])) or "-",
            *(bytes_text(at["bound"]) if at["bound"] else "-" for at in row["bytes"]),
            *(f"{last[key] / last['bound']:.2f}" if last[key] else "-" for key in ("requested", "op_by_op")),
        )
    what = table("function", "in", "ops")
    for row in functions:
        times = Counter(row["ops"])
        told = ", ".join(op + f" x {n}" * (n > 1) for op, n in times.items())
        what.add_row(row["function"], ", ".join(row["modules"]), told)
    notes = NOTES if len(programs) == len(functions) else (*NOTES, EXPERTS)
    parts: list[Any] = [heading, "", sizes, "", *map(escape, notes), "", what]
    if alone:
        rest = table("alone", "in", "calls", "result", "why")
        for row in alone:
            rest.add_row(row["op"], row["module"], f"{row['calls']:,}", escape(row["result"]), escape(row["why"]))
        parts += ["", rest]
    print_all(*parts)


NOTES = (
    "Kernels of the forward, and of its gradient. Bytes at a number of new tokens: takes and gives, once, in bfloat16.",
    f"At {AT[-1]:,}, as multiples of this: what the kernel asks of caches and memory, and what op by op would move.",
)

EXPERTS = "Experts are one call in C++; elsewhere each of their ops is a kernel."
