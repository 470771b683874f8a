"""Division by the sum, and the short convolution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.normalize import normalize
from kernels.rms_norm import inverse_rms, rms_norm
from kernels.short_conv import short_conv
from kernels.streams import collapse, mix
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


def _operands(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    r = torch.Generator().manual_seed(0)
    return [torch.randn(*s, dtype=torch.float64, generator=r, requires_grad=True) for s in shapes]


def test_collapse_and_mix_are_the_sums_they_say() -> None:
    streams, comb, y, post = _operands((2, 3, 4, 5), (2, 3, 4, 4), (2, 3, 5), (2, 3, 4))
    torch.testing.assert_close(collapse(streams, post), torch.einsum("bsn,bsnd->bsd", post, streams))
    want = torch.einsum("bsjk,bsjd->bskd", comb, streams) + torch.einsum("bsk,bsd->bskd", post, y)
    torch.testing.assert_close(mix(streams, comb, y, post), want)
    with torch.no_grad():
        torch.testing.assert_close(mix(streams, comb, y, post), want)
    assert torch.autograd.gradcheck(collapse, (streams, post))
    assert torch.autograd.gradcheck(mix, (streams, comb, y, post))


def test_no_tokens_have_no_streams() -> None:
    streams, comb, y, post = _operands((0, 3, 4, 5), (0, 3, 4, 4), (0, 3, 5), (0, 3, 4))
    assert collapse(streams, post).shape == (0, 3, 5)
    assert mix(streams, comb, y, post).shape == streams.shape


@pytest.mark.parametrize("width", [3, 256, 512, 1000])
def test_inverse_rms_is_what_a_norm_multiplies_by(width: int) -> None:
    """Of rows short and long enough that squares are summed in pieces."""
    (x,) = _operands((2, 200, width))
    want = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(inverse_rms(x, eps=1e-6), want, rtol=1e-14, atol=0)
    torch.testing.assert_close(rms_norm(x, eps=1e-6), x * want, rtol=1e-13, atol=0)
    got, expected = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (inverse_rms(x, eps=1e-6), want))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)
