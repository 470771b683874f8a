"""Experts against one matrix product per token and choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.experts import experts


def operands(seed: int, tokens: int, count: int, k: int, dim: int = 5, hidden: int = 3) -> list[Tensor]:
    """x, ids, weights, gate_up, down; ids of a token differ."""
    r = torch.Generator().manual_seed(seed)
    x, weights, gate_up, down = (
        torch.randn(*s, dtype=torch.float64, generator=r)
        for s in ((2, tokens, dim), (2, tokens, k), (count, 2 * hidden, dim), (count, dim, hidden))
    )
    ids = torch.stack([torch.randperm(count, generator=r)[:k] for _ in range(2 * tokens)]).view(2, tokens, k)
    return [x, ids, weights, gate_up, down]


@given(
    seed=st.integers(0, 1 << 30),
    tokens=st.integers(1, 6),
    count=st.integers(1, 7),
    limit=st.sampled_from([None, 0.5]),
    data=st.data(),
)
def test_experts_are_a_weighted_sum_over_the_chosen(
    seed: int, tokens: int, count: int, limit: float | None, data: st.DataObject
) -> None:
    x, ids, weights, gate_up, down = operands(seed, tokens, count, data.draw(st.integers(1, count)))
    got = experts(x, ids, weights, gate_up, down, limit=limit)
    for b in range(2):
        for t in range(tokens):
            want = torch.zeros(x.shape[-1], dtype=torch.float64)
            for e, mix in zip(ids[b, t].tolist(), weights[b, t].tolist(), strict=True):
                gate, up = (gate_up[e] @ x[b, t]).split(3)
                if limit is not None:
                    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
                want += mix * (down[e] @ (gate / (1 + (-gate).exp()) * up))
            torch.testing.assert_close(got[b, t], want, rtol=0, atol=1e-12)


def test_experts_without_tokens_are_not_touched() -> None:
    x, _, weights, gate_up, down = operands(0, 4, 6, 2)
    ids = torch.tensor([1, 4]).expand(2, 4, 2)
    idle = [0, 2, 3, 5]
    gate_up[idle] = float("nan")
    down[idle] = float("nan")
    assert experts(x, ids, weights, gate_up, down).isfinite().all()


@pytest.mark.parametrize("limit", [None, 0.4])
def test_experts_gradient(limit: float | None) -> None:
    x, ids, weights, gate_up, down = operands(1, 3, 4, 2)
    leaves = [t.requires_grad_() for t in (x, weights, gate_up, down)]
    assert torch.autograd.gradcheck(lambda x, w, g, d: experts(x, ids, w, g, d, limit=limit), leaves)


def test_experts_execute_three_products_per_choice() -> None:
    x, ids, weights, gate_up, down = operands(2, 7, 9, 3)
    with FlopCounterMode(display=False) as counter:
        experts(x, ids, weights, gate_up, down)
    assert counter.get_total_flops() == 2 * (2 * 7 * 3) * 3 * (5 * 3)


def test_experts_sum_in_float32() -> None:
    """Three choices of 1, 2^-8, 2^-8: added one by one in bfloat16 the small ones would be lost."""
    x = torch.ones(1, 1, 1, dtype=torch.bfloat16)
    gate_up = torch.full((3, 2, 1), 1.0, dtype=torch.bfloat16)
    scale = (1 / torch.nn.functional.silu(torch.ones(()))).item()
    down = torch.ones(3, 1, 1, dtype=torch.bfloat16)
    hidden = torch.nn.functional.silu(torch.ones((), dtype=torch.float32)).bfloat16().float().item()
    weights = torch.tensor([[[1.0, 2**-8, 2**-8]]]) * scale
    got = experts(x, torch.tensor([[[0, 1, 2]]]), weights, gate_up, down)
    assert got.item() == torch.tensor(scale * hidden * (1 + 2**-7)).bfloat16().item()
