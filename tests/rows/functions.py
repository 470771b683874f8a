"""Functions that fusion makes of a graph, as row programs and as the ops that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archc.graph import Graph, Scope, Value
from archc.graph.interpreter import Interpreter
from archc.ops import Workload, size
from archc.plan import plan
from archc.plan.passes.fuse import fuse
from archc.rows.interpret import run
from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.lower import Lowered, lower
from archc.rows.rules import Input
from archc.rows.value import Row
from archc.schema import Model

W = Workload(batch=2, new=9)
"""What functions run on: rows that no group of tokens divides."""


def fused(model: Model, *, rotated: bool = True) -> Graph:
    """The plan of a model with functions."""
    return fuse(plan(model, rotated=rotated))


def functions(graph: Graph) -> dict[str, Scope]:
    """The functions of a graph, each once, by name."""
    return {scope.function: scope for scope in graph.root.scopes() if scope.function}


def names(function: Scope) -> tuple[dict[Value, str], dict[str, Value]]:
    """Names for what a function takes and gives."""
    return {v: f"take_{i}" for i, v in enumerate(function.args)}, {
        f"give_{i}": v for i, v in enumerate(function.returns)
    }


def lowered(function: Scope) -> Lowered:
    """The row program of a function."""
    return lower(list(function.nodes()), *names(function), function.function)


def drawn(function: Scope, seed: int = 0) -> dict[Value, Tensor]:
    """Numbers for all that a function takes, in float64: some of each sign, none next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for value in function.args:
        shape = [size(n, W) for n in value.shape]
        if value.type.dtype == "int":
            made[value] = torch.randint(0, 4, shape, generator=generator)
            continue
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        made[value] = torch.sign(x) * (x.abs() + 0.1)
    return made


def evaluated(graph: Graph, function: Scope, values: Mapping[Value, Tensor]) -> list[Tensor]:
    """What the ops of a function give, one by one."""
    interpreter = Interpreter(graph, {})
    found: dict[Value, Any] = dict(values)
    for node in function.nodes():
        interpreter._node(node, found, "", None)
    return [found[v] for v in function.returns]


def array(row: Row, width: int, x: Tensor) -> Any:
    """A value of the graph as the interpreter of rows has it: [tokens or 1, *streams, channels or 1]."""
    made = x.detach().numpy().reshape(-1 if row.token else 1, *row.streams, width if row.row else 1)
    shared = row.rule.shared if isinstance(row.rule, Input) else 1
    return np.repeat(made, shared, 0)


def arrays(kernel: Kernel, function: Scope, values: Mapping[Value, Tensor]) -> dict[str, Any]:
    """What a kernel of a function takes."""
    by_name = {name: value for value, name in names(function)[0].items()}
    return {name: array(row, kernel.width, values[by_name[name]]) for name, row in kernel.takes.items()}


def fits(graph: Graph, function: Scope, seed: int = 0) -> tuple[float, float]:
    """How far the row program of a function is from its ops, and its gradients from theirs: errors as parts of the
    largest number.
    """
    kernel = lowered(function).kernel
    values = drawn(function, seed)
    by_name = {name: value for value, name in names(function)[0].items()}
    wanted = [name for name in kernel.takes if by_name[name].step is None and by_name[name].type.dtype != "int"]
    leaves = [values[by_name[name]].requires_grad_() for name in wanted]
    outs = evaluated(graph, function, values)
    given = arrays(kernel, function, values)
    plain = run(list(optimised(kernel).gives.values()), given)
    forward, backward = trained(kernel, wanted)
    made = dict(zip(forward.gives, run(list(forward.gives.values()), given), strict=True))
    error = max(apart(x, want) for want, *both in zip(outs, plain, made.values(), strict=False) for x in both)
    generator = torch.Generator().manual_seed(seed + 1)
    upstream = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outs]
    reached = [(o, g) for o, g in zip(outs, upstream, strict=True) if o.requires_grad]
    wants = torch.autograd.grad([o for o, _ in reached], leaves, [g for _, g in reached], allow_unused=True)
    grads = {
        f"grad_{name}": array(kernel.gives[name], kernel.width, g)
        for name, g in zip(kernel.gives, upstream, strict=True)
    }
    have = {**given, **made, **grads}
    found = run(list(backward.gives.values()), {name: have[name] for name in backward.takes})
    gradients = dict(zip(backward.gives, found, strict=True))
    worst = 0.0
    for name, want in zip(wanted, wants, strict=True):
        if want is None or not want.any():
            assert name_of(name) not in gradients or not gradients[name_of(name)].any()
        else:
            worst = max(worst, apart(gradients[name_of(name)], want))
    return error, worst


def name_of(take: str) -> str:
    """What the gradient of a take is called."""
    return f"d_{take}"


def apart(got: Any, want: Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    wanted = want.detach().numpy()
    tokens = np.broadcast_to(got, (wanted.size // got[0].size, *got.shape[1:])) if len(got) == 1 else got
    return float(np.abs(tokens.reshape(wanted.shape) - wanted).max() / max(1e-2, np.abs(wanted).max()))
