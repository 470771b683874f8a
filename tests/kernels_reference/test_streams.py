"""Division by the sum, and the short convolution."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.normalize import normalize
from kernels.short_conv import short_conv
from tests.kernels_reference.clock import Rows, recalled, rows


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
