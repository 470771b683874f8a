"""The laws of mixing matrices, with eps (DeepSeek-V4) and without (the paper).

Rows are what a stream gives, columns what a stream gets; the passes end on columns.
"""

from __future__ import annotations

import itertools

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.sinkhorn import sinkhorn

EPS = 1e-6
FORMS = pytest.mark.parametrize("eps", [EPS, 0.0])
LIMITS = {EPS: 5e-6, 0.0: 1e-6}
"""How far from one a sum of the direction normalised last may be, in float32."""


def drawn(m: int, spread: float, seed: int, count: int = 50) -> Tensor:
    """Normal logits [count, m, m] in float32."""
    return torch.randn(count, m, m, generator=torch.Generator().manual_seed(seed)) * spread


def by_hand(logits: list[list[float]], iters: int, eps: float) -> list[list[float]]:
    """The definition with 60 digits, in which exp can neither overflow nor vanish."""
    with mpmath.workdps(60):
        m = len(logits)
        c = [[mpmath.exp(v) for v in row] for row in logits]
        for i, row in enumerate(c):
            c[i] = [v / mpmath.fsum(row) + eps for v in row]
        for n in range(iters):
            if n:
                for i, row in enumerate(c):
                    total = mpmath.fsum(row) + eps
                    c[i] = [v / total for v in row]
            for j in range(m):
                total = mpmath.fsum(c[i][j] for i in range(m)) + eps
                for i in range(m):
                    c[i][j] /= total
        return [[float(v) for v in row] for row in c]


@given(
    m=st.integers(1, 5),
    iters=st.integers(1, 20),
    spread=st.sampled_from([0.1, 3.0, 30.0, 1e4]),
    seed=st.integers(0, 1 << 30),
    eps=st.sampled_from([EPS, 0.0]),
)
@settings(max_examples=40)
def test_divides_rows_and_columns_in_turn_and_ends_on_columns(
    m: int, iters: int, spread: float, seed: int, eps: float
) -> None:
    """Also where exp of the logits is far beyond any float."""
    logits = drawn(m, spread, seed, count=1).double()
    got = sinkhorn(logits, iters=iters, eps=eps)
    want = torch.tensor(by_hand(logits[0].tolist(), iters, eps), dtype=torch.float64)
    # With logits of 1e4 a logarithm keeps twelve digits after the point
    torch.testing.assert_close(got[0], want, rtol=1e-12 * max(1.0, spread), atol=1e-14)


@given(seed=st.integers(0, 1 << 30), shift=st.floats(-1e4, 1e4), eps=st.sampled_from([EPS, 0.0]))
def test_what_a_row_of_logits_has_in_common_does_not_matter(seed: int, shift: float, eps: float) -> None:
    """exp(logits + shift) is exp(logits) times a number, which the first pass divides away: so the largest logit may
    be subtracted first, and is.
    """
    logits = drawn(4, 1.0, seed, count=3).double()
    moved = logits + torch.tensor([[shift], [-shift], [0.0], [shift / 2]], dtype=torch.float64)
    got = sinkhorn(moved, iters=20, eps=eps)
    torch.testing.assert_close(got, sinkhorn(logits, iters=20, eps=eps), rtol=0, atol=1e-10)


ADVERSARIAL = {
    "all on one stream": [[1e4, 0, 0, 0]] * 4,
    "one stream apart": [[1e4, 0, 0, 0]] * 3 + [[0, 1e4, 1e4, 1e4]],
    "equal and huge": [[1e4] * 4] * 4,
    "equal and hugely negative": [[-1e4] * 4] * 4,
    "constant rows": [[1e4] * 4, [-1e4] * 4, [0] * 4, [30] * 4],
    "constant columns": [[1e4, -1e4, 0, 30]] * 4,
    "a permutation": [[0, 1e4, 0, 0], [0, 0, 1e4, 0], [0, 0, 0, 1e4], [1e4, 0, 0, 0]],
    "one entry": [[1e4, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4],
    "a triangle": [[0, -1e4, -1e4, -1e4], [0, 0, -1e4, -1e4], [0, 0, 0, -1e4], [0, 0, 0, 0]],
}


@given(
    m=st.integers(1, 8),
    spread=st.floats(0, 100),
    seed=st.integers(0, 1 << 30),
    eps=st.sampled_from([EPS, 0.0]),
)
def test_what_a_stream_gets_sums_to_one(m: int, spread: float, seed: int, eps: float) -> None:
    check_sums(drawn(m, spread, seed), eps)


@FORMS
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_what_a_stream_gets_sums_to_one_for_the_worst_logits(name: str, eps: float) -> None:
    check_sums(torch.tensor([ADVERSARIAL[name]], dtype=torch.float32), eps)


@FORMS
@pytest.mark.parametrize("size", [5.0, 14.0, 100.0])
def test_what_a_stream_gets_sums_to_one_for_every_pattern_of_three_streams(size: float, eps: float) -> None:
    """14: where a softmax gives what eps is."""
    patterns = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=9))).view(-1, 3, 3)
    check_sums(patterns * size, eps)


def check_sums(logits: Tensor, eps: float) -> None:
    """Columns sum to one, no weight is negative or not a number."""
    got = sinkhorn(logits, iters=20, eps=eps)
    assert got.dtype == torch.float32 and got.isfinite().all() and (got >= 0).all()
    assert ((got.double().sum(-2) - 1).abs() <= LIMITS[eps]).all()


@given(
    m=st.integers(1, 8),
    spread=st.floats(0, 0.5),
    seed=st.integers(0, 1 << 30),
    eps=st.sampled_from([EPS, 0.0]),
)
@example(m=2, spread=0.5, seed=0, eps=EPS)
def test_what_a_stream_gives_nearly_sums_to_one_for_small_logits(m: int, spread: float, seed: int, eps: float) -> None:
    """Matrices whose own logits have a standard deviation of ``spread``."""
    logits = drawn(m, 1.0, seed).double()
    logits = logits - logits.mean((-1, -2), keepdim=True)
    logits = logits / logits.std((-1, -2), keepdim=True, correction=0).clamp(min=1e-9) * spread
    got = sinkhorn(logits.float(), iters=20, eps=eps)
    assert ((got.double().sum(-1) - 1).abs() <= 1e-5).all()


@FORMS
def test_four_streams_of_normal_logits_give_nearly_one(eps: float) -> None:
    """The streams of DeepSeek-V4, drawn from a distribution of standard deviation 0.5."""
    got = sinkhorn(drawn(4, 0.5, seed=0, count=50_000), iters=20, eps=eps)
    assert ((got.double().sum(-1) - 1).abs() <= 1e-5).all()


@given(m=st.integers(1, 8), spread=st.floats(0, 100), seed=st.integers(0, 1 << 30), eps=st.sampled_from([EPS, 0.0]))
def test_no_vector_grows_by_more_than_the_largest_sums_allow(m: int, spread: float, seed: int, eps: float) -> None:
    """The spectral norm is at most sqrt(largest row sum * largest column sum), and at least about one: equal streams
    stay as they are.
    """
    got = sinkhorn(drawn(m, spread, seed), iters=20, eps=eps).double()
    norm = torch.linalg.matrix_norm(got, ord=2)
    bound = (got.sum(-1).amax(-1) * got.sum(-2).amax(-1)).sqrt()
    assert (norm <= bound * (1 + 1e-12)).all()
    assert (norm >= 1 - LIMITS[eps]).all()


@FORMS
def test_the_gradient_is_the_slope(eps: float) -> None:
    logits = (drawn(4, 2.0, seed=1, count=3).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sinkhorn(z, iters=20, eps=eps), (logits,))


@FORMS
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("upstream", [1e30, 1e-30])
def test_the_gradient_is_finite_under_any_upstream(spread: float, upstream: float, eps: float) -> None:
    logits = drawn(4, spread, seed=2).requires_grad_()
    pull = torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(3))
    (sinkhorn(logits, iters=20, eps=eps) * (pull * upstream)).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    if spread == 3.0:  # and of the right size: that of a pull of one, times the upstream
        one = logits.detach().clone().requires_grad_()
        (sinkhorn(one, iters=20, eps=eps) * pull).sum().backward()
        assert one.grad is not None
        torch.testing.assert_close(logits.grad / upstream, one.grad, rtol=1e-3, atol=1e-6)


@FORMS
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_gradient_is_finite_for_the_worst_logits(name: str, eps: float) -> None:
    logits = torch.tensor([ADVERSARIAL[name]], dtype=torch.float32).requires_grad_()
    pull = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(3))
    (sinkhorn(logits, iters=20, eps=eps) * pull * 1e30).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@FORMS
def test_narrow_logits_are_mixed_in_float32(eps: float) -> None:
    logits = drawn(4, 2.0, seed=4).bfloat16()
    got = sinkhorn(logits, iters=20, eps=eps)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, sinkhorn(logits.float(), iters=20, eps=eps).bfloat16())
