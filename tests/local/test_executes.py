"""What rules say that references run, against what PyTorch's dispatcher sees run: calls, bytes and FLOPs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from archc.cost.count import workload
from archc.cost.local import calls
from archc.graph import Node, Value
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.ops import Workload
from archc.ops.row import Cast
from archc.ops.view import Expand
from archc.plan import plan
from archc.schema import Model
from tests.local.counting import Counted
from tests.plan.test_agreement import LIBRARY, SPECS, model_of

QUICK = ["llama_3_1_8b", "gpt_oss_20b", "deepseek_v3", "deepseek_v4_flash", "picked_latents", "qwen3_235b_a22b"]
QUICK += ["sinks", "routed", "two_stages"]
CASES = [("prefill", 2, 40, 40), ("prefill", 1, 33, 60), ("decode", 1, 1, 60), ("decode", 2, 1, 64)]
ELSEWHERE = {"flatten"}
"""Copies that a flatten makes stand with the op whose result does not lie as rows."""
LOOSE = {"rope_angles", "dispatch", "flatten", "collapse", "mix", "groups"}
"""Ops of which a small call or two may go uncounted, or whose operand may be one row shown several times."""


class Watched(Interpreter):
    """Keeps what every node ran."""

    seen: list[tuple[Node, Counted]]

    def _node(self, node: Node, values: Any, prefix: str, state: Any) -> None:
        with Counted() as counted:
            super()._node(node, values, prefix, state)
        self.seen.append((node, counted))


def clock(past: int, new: int, batch: int) -> Any:
    runtime = import_module(f"{torch_package().__name__}.runtime.time")
    first = torch.full((batch,), past)
    return runtime.Time(
        first=first,
        count=torch.full((batch,), new),
        positions=first[:, None] + torch.arange(new),
        past=past,
        new=new,
        cached=True,
        aligned=True,
        full=True,
    )


@torch.no_grad()
def watched(model: Model, mode: Any, batch: int, seq: int, context: int) -> tuple[Workload, list[tuple[Node, Counted]]]:
    graph = plan(model)
    w, _ = workload(model, mode, batch, seq, context)
    w = replace(w, act=4, layout="fp32")
    torch.manual_seed(0)
    numbers = {
        p.name: 0.1 * torch.randn(p.spec.shape)
        if p.spec.dtype != "int"
        else torch.randint(p.spec.below or 2, p.spec.shape)
        for p in graph.parameters()
    }
    runner = Watched(graph, numbers)
    runner.seen = []
    cache = runner.new_cache(batch, context, dtype=torch.float32)
    if w.past:
        runner.run(torch.randint(model.vocab, (batch, w.past)), clock(0, w.past, batch), cache)
        cache.advance(torch.full((batch,), w.past), [w.past] * batch)
        runner.seen.clear()
    once = runner.new_cache(batch, context, dtype=torch.float32)
    runner.run(torch.randint(model.vocab, (batch, seq)), clock(0, seq, batch), once)  # makes constants that stay
    runner.seen.clear()
    runner.run(torch.randint(model.vocab, (batch, seq)), clock(w.past, seq, batch), cache)
    return w, [(node, counted) for node, counted in runner.seen if not node.op.effect]


def ruled(node: Node, w: Workload) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for c in calls(node, w):
        one = found[c.kind]
        for i, n in enumerate((c.times, c.read * c.times, c.written * c.times, c.flops)):
            one[i] += n
    return found


def shown_again(node: Node) -> bool:
    """Whether an operand is the streams that a model starts with, the embedding shown several times."""

    def shown(value: Value) -> bool:
        made = value.node
        if made is None:
            return value in value.scope.args and len(value.shape) > 3
        return isinstance(made.op, Expand) or (isinstance(made.op, Cast) and shown(made.ins[0]))

    return any(map(shown, node.ins))


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("name", QUICK)
def test_every_op(name: str, case: tuple[Any, ...]) -> None:
    _every_op(name, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("name", [n for n in (*LIBRARY, *SPECS) if n not in QUICK])
def test_every_op_of_others(name: str, case: tuple[Any, ...]) -> None:
    _every_op(name, case)


def _every_op(name: str, case: tuple[Any, ...]) -> None:
    """Products exactly, up to which experts are chosen; all else to a small call or 5 % of bytes. Whole twins, copies
    of flattened results included, to 5 % of calls and of bytes.
    """
    w, seen = watched(model_of(name), *case)
    totals = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    for node, counted in seen:
        rule = ruled(node, w)
        flops = sum(one[3] for one in rule.values())
        assert flops == pytest.approx(sum(s.flops for s in counted.kinds.values()), rel=1e-9), node
        chosen = node.op.kind == "grouped_linear"  # which experts are chosen is the data's business
        mine = [sum(one[i] for one in rule.values()) for i in range(3)]
        real = [
            sum(s.calls for s in counted.kinds.values()),
            sum(s.read for s in counted.kinds.values()),
            sum(s.written for s in counted.kinds.values()),
        ]
        for total, a, b in zip(totals, mine, real, strict=True):
            if not chosen:
                total[0] += a
                total[1] += b
        if chosen or node.op.kind in LOOSE or node.op.kind in {"attend", "latent_attend", "einsum"}:
            continue
        assert mine[0] == real[0], (node, rule, counted.log)
        if shown_again(node):  # a product that reads one row for several reads fewer bytes
            assert sum(mine[1:]) + 1024 >= sum(real[1:]), (node, rule, counted.log)
            continue
        assert sum(mine[1:]) == pytest.approx(sum(real[1:]), rel=0.05, abs=1024), (node, rule, counted.log)
    for mine, real in totals:
        assert mine == pytest.approx(real, rel=0.05), totals
