"""`archc plan`: the schedule of a model, its graph after all passes, and the kernels it will run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._console import print_all
from archc.cli.options import format_option, fuse_option, spec_argument, spec_options

if TYPE_CHECKING:
    from archc.api import Fuse
    from archc.graph import Graph, Scope
    from archc.ops import Op
    from archc.schema import Model


@click.command()
@spec_argument
@spec_options
@click.option(
    "--after",
    type=click.Choice(["fuse"]),
    help="What a pass that runs on request makes of it. fuse: the functions that run as one kernel each, their bytes, "
    "and what stays alone.",
)
@fuse_option()
@format_option("text", "json")
def command(
    spec: str,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    after: str | None,
    fuse: Fuse,
    format: str,
) -> None:
    """Show the layers of a SPEC, the graph of each distinct one after all passes, and the kernels picked."""
    from archc.importers import load
    from archc.plan import plan
    from archc.plan.runs import schedule

    resolved = load(spec, model=model, params=params, set=sets, drawers=drawers)
    if after is not None:
        _fused(resolved, "modules" if fuse == "none" else fuse, format)
        return
    graph = plan(resolved)
    facts = {
        "model": resolved.name,
        "schedule": schedule(resolved),
        "mtp": _mtp(resolved),
        "graph": _graph(graph),
        "kernels": _kernels(graph),
    }
    if format == "json":
        import json

        click.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)


def _fused(model: Model, fuse: Fuse, format: str) -> None:
    """Prints the functions of a model as `archc build --fuse` makes them."""
    from archc.api import planned
    from archc.cli._plan.functions import fused, show

    facts = {"fuse": fuse, **fused(planned(model, fuse))}
    if format == "json":
        import json

        click.echo(json.dumps({"model": model.name, **facts}, indent=2))
    else:
        show(model.name, facts)


def _mtp(model: Model) -> dict[str, Any] | None:
    """The modules that predict further tokens, if there are any: their number, loss weight and drawers."""
    from archc.plan import ahead_slots
    from archc.schema import LAYER_SLOTS

    if model.mtp is None:
        return None
    slots = ahead_slots(model, model.mtp)
    drawers = {"mtp": model.mtp.label} | {s: d.label for s in LAYER_SLOTS if (d := getattr(slots, s)) is not None}
    return {"modules": model.mtp.depth, "weight": model.mtp.weight, "drawers": drawers}


def _graph(graph: Graph) -> list[dict[str, Any]]:
    """Every scope in order of execution, with its nodes."""
    from archc.graph import Node, Stack

    def rows(scope: Scope, times: int) -> list[dict[str, Any]]:
        nodes = [
            {
                "op": item.op.kind,
                "name": item.name,
                "fields": _fields(item.op),
                "in": [str(v.type) for v in item.ins if v.type.dtype != "none"],
                "out": [f"{v.type} {v.type.dtype}" for v in item.outs if v.type.dtype != "none"],
                "component": item.component,
            }
            for item in scope.items
            if isinstance(item, Node)
        ]
        where = ".".join(scope.path()) or "model"
        found = [{"scope": where, "class": scope.cls, "times": times, "nodes": nodes}] if nodes else []
        for item in scope.items:
            if isinstance(item, Stack):
                found += [r for k, kind in enumerate(item.kinds) for r in rows(kind, times * len(item.indices(k)))]
            elif not isinstance(item, Node):
                found += rows(item, times)
        return found

    return [
        {"scope": "step", "class": "Step", "times": 1, "nodes": rows(graph.steps, 1)[0]["nodes"]},
        *rows(graph.root, 1),
    ]


SEEN = ("dim", "experts", "inputs_first", "out", "rows", "sizes", "to")
"""Fields of ops that the result shows, or the printed code alone."""


def _fields(op: Op) -> dict[str, Any]:
    """The fields of an op that are not at their defaults, as plain data."""
    given = {name: getattr(op, name) for name, default in op.fields.items() if name not in SEEN}
    changed = {name: value for name, value in given.items() if value != op.fields[name]}
    return {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in changed.items()}


def _kernels(graph: Graph) -> list[dict[str, Any]]:
    """Files of `kernels/` that the graph's ops use, and how each picks its path."""
    from archc import resources

    used: dict[str, set[str]] = {}
    for node, _ in graph.walk():
        form = node.op.code(*(ast.Name(id="_", ctx=ast.Load()) for _ in node.ins))
        names = {n.id for n in ast.walk(form) if isinstance(n, ast.Name)}
        for name, module in node.op.needs.items():
            if module.startswith("kernels.") and name in names:
                used.setdefault(module.removeprefix("kernels."), set()).add(node.op.kind)
    rows = []
    for name, ops in sorted(used.items()):
        fused = "triton" in (resources.kernels() / f"{name}.py").read_text()
        why = "Triton on a GPU, the PyTorch reference elsewhere" if fused else "PyTorch everywhere"
        rows.append({"kernel": name, "ops": sorted(ops), "why": why})
    return rows


def _show(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from archc.plan.runs import spans

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    parts: list[Any] = [f"[bold]{facts['model']}[/bold]", ""]
    layers = table("layers", "drawers")
    for span, drawers in spans(facts["schedule"]):
        layers.add_row(span, ", ".join(f"{slot} {label}" for slot, label in drawers.items()))
    if facts["mtp"] is not None:
        drawers = ", ".join(f"{slot} {label}" for slot, label in facts["mtp"]["drawers"].items())
        modules = "1 module" if facts["mtp"]["modules"] == 1 else f"{facts['mtp']['modules']} modules"
        layers.add_row("further", f"{drawers}: {modules}, {facts['mtp']['weight']:g} of the loss")
    parts.append(layers)
    for scope in facts["graph"]:
        times = f", {scope['times']} times" if scope["times"] > 1 else ""
        parts += ["", f"[bold]{scope['class']}[/bold] [dim]{scope['scope']}{times}[/dim]"]
        nodes = table("op", "name", "with", "result", "counts as")
        for node in scope["nodes"]:
            settings = ", ".join(f"{name} {value}" for name, value in node["fields"].items())
            nodes.add_row(node["op"], node["name"] or "", settings, escape(", ".join(node["out"])), node["component"])
        parts.append(nodes)
    kernels = table("kernel", "of", "path")
    for row in facts["kernels"]:
        kernels.add_row(row["kernel"], ", ".join(row["ops"]), row["why"])
    print_all(*parts, "", kernels)
