"""Sinkhorn's iteration, division by the sum, and the short convolution."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.normalize import normalize
from kernels.short_conv import short_conv
from kernels.sinkhorn import sinkhorn
from tests.kernels_reference.clock import Rows, recalled, rows


@given(
    m=st.integers(1, 5),
    iters=st.integers(1, 20),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 1 << 30),
)
def test_sinkhorn_divides_rows_and_columns_in_turn_and_ends_on_columns(
    m: int, iters: int, spread: float, seed: int
) -> None:
    logits = torch.randn(2, m, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * spread
    eps = 1e-6
    got = sinkhorn(logits, iters=iters, eps=eps)
    for b in range(2):
        c = [[logits[b, i, j].exp().item() for j in range(m)] for i in range(m)]
        for i in range(m):
            total = sum(c[i])
            c[i] = [v / total + eps for v in c[i]]
        for n in range(iters):
            if n:
                for i in range(m):
                    total = sum(c[i]) + eps
                    c[i] = [v / total for v in c[i]]
            for j in range(m):
                total = sum(c[i][j] for i in range(m)) + eps
                for i in range(m):
                    c[i][j] /= total
        torch.testing.assert_close(got[b], torch.tensor(c, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_sinkhorn_makes_columns_sum_to_one() -> None:
    logits = torch.randn(50, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    got = sinkhorn(logits, iters=20, eps=1e-6)
    assert ((got.sum(-2) - 1).abs() < 2e-6).all() and ((got.sum(-1) - 1).abs() < 0.1).all() and (got >= 0).all()


def test_sinkhorn_gradient_is_right_and_finite_under_large_upstream() -> None:
    logits = (torch.randn(3, 4, 4, dtype=torch.float64) * 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sinkhorn(z, iters=20, eps=1e-6), (logits,))
    small = logits.detach().float().requires_grad_()
    (sinkhorn(small, iters=20, eps=1e-6) * 1e30).sum().backward()
    assert small.grad is not None and small.grad.isfinite().all()


def test_normalize_divides_by_the_sum_of_the_last_dim() -> None:
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    assert normalize(x, eps=1e-20).tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert normalize(x, eps=4.0).tolist() == [[0.125, 0.375], [0.0, 0.0]]


@given(time=rows(), taps=st.integers(1, 4), dilation=st.integers(1, 3), seed=st.integers(0, 1 << 30))
def test_short_conv_sums_dilated_taps_inside_a_sequence(time: Rows, taps: int, dilation: int, seed: int) -> None:
    r = torch.Generator().manual_seed(seed)
    history = torch.randn(len(time.pasts), time.past + time.new, 2, 3, dtype=torch.float64, generator=r)
    weight = torch.randn(2, 3, taps, dtype=torch.float64, generator=r)
    got = short_conv(recalled(history, time, keep=(taps - 1) * dilation), weight, time, dilation=dilation)
    for b, j in time.valid():
        t = time.pasts[b] + j
        want = torch.zeros(2, 3, dtype=torch.float64)
        for i in range(taps):
            s = t - (taps - 1 - i) * dilation
            if s >= time.start(b, t):
                want += weight[..., i] * history[b, s]
        torch.testing.assert_close(got[b, j], want, rtol=0, atol=1e-13)


def test_short_conv_gradient() -> None:
    time = Rows(pasts=(0, 0), counts=(5, 3), new=5, cached=False)
    x, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 2), (2, 3)))
    assert torch.autograd.gradcheck(lambda x, w: short_conv(x, w, time, dilation=2), (x, weight))
