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
    from archc.graph import Graph, Node, Scope
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
    return [_function(name, places, made[name]) for name, places in found.items()]


def _function(name: str, places: list[tuple[Scope, int]], made: Kernels) -> dict[str, Any]:
    """A function that is called in several places, each so many times."""
    from archc.emit.kernels import cpp, triton
    from archc.ops import Workload, size
    from archc.plan.functions import word
    from archc.plan.groups import is_work
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
        "function": name,
        "calls": sum(times for _, times in places),
        "modules": sorted({scope.parent.cls for scope, _ in places if scope.parent is not None}),
        "ops": [word(node) for node in function.nodes() if is_work(node)],
        "takes": [str(v.type) for v in function.args],
        "gives": [str(v.type) for v in function.returns],
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
    return sum(nbytes(v.type, w) for node in nodes for v in (*operands(node), *node.outs))


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
    calls = sum(row["calls"] for row in functions)
    ops = sum(row["calls"] * len(row["ops"]) for row in functions)
    heading = f"[bold]{model}[/bold]: {len(functions)} functions run {ops:,} ops of a forward as {calls:,} kernels"
    sizes = table("function", "calls", "kernels", *(f"at {n:,}" for n in AT), "asked", "by op", right=6)
    for row in functions:
        last = row["bytes"][-1]
        sizes.add_row(
            row["function"],
            f"{row['calls']:,}",
            " + ".join(map(str, row["launches"])) or "-",
            *(bytes_text(at["bound"]) if at["bound"] else "-" for at in row["bytes"]),
            *(f"{last[key] / last['bound']:.2f}" for key in ("requested", "op_by_op")),
        )
    what = table("function", "in", "ops")
    for row in functions:
        times = Counter(row["ops"])
        told = ", ".join(op + f" x {n}" * (n > 1) for op, n in times.items())
        what.add_row(row["function"], ", ".join(row["modules"]), told)
    parts: list[Any] = [heading, "", sizes, "", *map(escape, NOTES), "", what]
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
