"""Training the printed package of the hard drawers: what is executed, and what stays in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from archc.cost.count import count
from archc.graph.gradient import trained
from archc.plan import plan
from tests.hard_cases.test_emitted import IDS, model, module

__all__ = ["model", "module"]  # fixtures


def test_training_executes_what_the_plan_says(model: Any, module: Any) -> None:
    """Forward and backward: attention computes its weights again, an indexer learns, and for choices nothing is
    computed.
    """
    report = count(model, plan(model), mode="train", batch=2, seq=IDS.shape[1])
    with FlopCounterMode(display=False) as counter:
        module(IDS, labels=IDS).loss.backward()
    module.zero_grad()
    assert counter.get_total_flops() == report.flops.executed.workload_total


def test_what_serves_a_choice_does_not_learn(model: Any) -> None:
    graph = plan(model)
    learns = trained(graph)
    products = {"linear", "project", "einsum", "grouped_linear", "sparse_attention", "index_topk"}
    idle = [node for node, _ in graph.walk() if node not in learns and node.op.kind in products]
    assert {node.op.kind for node in idle} == {"index_topk"}


def test_bfloat16_keeps_islands_in_float32(module: Any) -> None:
    """The mean error is judged, not the largest: a rounded score may choose another expert or entry."""
    half = type(module)(dtype=torch.bfloat16)
    half.load_state_dict(module.state_dict())
    islands = [
        p
        for n, p in half.named_parameters()
        if any(part in n for part in ("_hc.", "hc_head", "sinks", "position_bias"))
    ]
    assert islands and {p.dtype for p in islands} == {torch.float32}
    with torch.no_grad():
        want, got = module(IDS).logits, half(IDS).logits.double()
    assert (got - want).abs().mean() < 0.2 * want.abs().mean()
