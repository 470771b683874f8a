"""Rotary positions: reference and Triton kernel against complex numbers in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.rope_angles import rope_angles
from kernels.rotate import End, Pairs, reference, rotate
from tests.kernels.support import layouts
from tests.kernels.support.compare import assert_near, value_and_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from tests.kernels.support.worker import Worker

STYLES = [(pairs, end) for pairs in ("half", "interleaved") for end in ("first", "last")]


def oracle(x: Tensor, angles: Tensor, *, pairs: Pairs, end: End, inverse: bool) -> Tensor:
    """Pair after pair, each a complex number times e^(+-i angle)."""
    x, angles = x.double(), angles.double()
    out, width, half = x.clone(), x.shape[-1], angles.shape[-2]
    start = 0 if end == "first" else width - 2 * half
    for i in range(half):
        real, imaginary = (start + i, start + half + i) if pairs == "half" else (start + 2 * i, start + 2 * i + 1)
        turn = torch.complex(angles[..., i, 0], -angles[..., i, 1] if inverse else angles[..., i, 1])
        turn = turn.unsqueeze(-1) if x.dim() == 4 else turn
        turned = torch.complex(x[..., real], x[..., imaginary]) * turn
        out[..., real], out[..., imaginary] = turned.real, turned.imag
    return out


def check(
    got: list[Tensor | None], x: Tensor, angles: Tensor, upstream: Tensor, pairs: Pairs, end: End, inverse: bool
) -> None:
    """The output is near the oracle, the gradient near the upstream one rotated back; kept channels are untouched."""
    out, dx = got[0], got[1]
    assert out is not None and dx is not None and out.dtype == dx.dtype == x.dtype
    rotated, width = 2 * angles.shape[-2], x.shape[-1]
    kept = slice(rotated, width) if end == "first" else slice(0, width - rotated)
    for mine, given_, back in ((out, x, inverse), (dx, upstream, not inverse)):
        expected = oracle(given_, angles, pairs=pairs, end=end, inverse=back)
        largest = given_.double().abs().amax(-1, keepdim=True).expand_as(expected) if given_.numel() else None
        assert_near(mine, expected, largest)
        assert torch.equal(mine[..., kept], given_[..., kept])


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(0, 9),
    heads=st.sampled_from((None, 1, 2, 3, 5, 8)),
    width=st.sampled_from((2, 8, 18, 36, 64, 80, 128, 192)),
    share=st.sampled_from((0.1, 0.5, 0.75, 1.0)),
    shared_angles=st.booleans(),
    style=st.sampled_from(STYLES),
    inverse=st.booleans(),
    dtype=layouts.dtypes,
    layout=layouts.layouts,
    upstream_layout=layouts.layouts,
    seed=layouts.seeds,
)
def test_kernel_is_near_float64(
    interpreted: Worker,
    batch: int,
    tokens: int,
    heads: int | None,
    width: int,
    share: float,
    shared_angles: bool,
    style: tuple[Pairs, End],
    inverse: bool,
    dtype: torch.dtype,
    layout: str,
    upstream_layout: str,
    seed: int,
) -> None:
    shape = (batch, tokens, width) if heads is None else (batch, tokens, heads, width)
    pairs, end = style
    x = layouts.random(shape, seed=seed, dtype=dtype, layout=layout)
    upstream = layouts.random(shape, seed=seed + 1, dtype=dtype, layout=upstream_layout)
    generator = torch.Generator().manual_seed(seed + 2)
    positions = torch.randint(0, 10_000, (1 if shared_angles else batch, tokens), generator=generator)
    angles = rope_angles(positions, dim=2 * max(1, int(width * share) // 2), theta=10_000.0)
    how = {"pairs": pairs, "end": end, "inverse": inverse}
    got = interpreted(_value_and_gradient, x, angles, upstream, **how)
    check(got, x, angles, upstream, pairs, end, inverse)
    check(
        value_and_gradients(_reference, (x,), upstream, angles=angles, **how), x, angles, upstream, pairs, end, inverse
    )


def _value_and_gradient(x: Tensor, angles: Tensor, upstream: Tensor, **how: str | bool) -> list[Tensor | None]:
    return value_and_gradients(_rotate, (x,), upstream, angles=angles, **how)


def _rotate(x: Tensor, *, angles: Tensor, pairs: Pairs, end: End, inverse: bool) -> Tensor:
    return rotate(x, angles, pairs=pairs, end=end, inverse=inverse)


def _reference(x: Tensor, *, angles: Tensor, pairs: Pairs, end: End, inverse: bool) -> Tensor:
    return reference(x, angles, pairs=pairs, end=end, inverse=inverse)


@pytest.mark.parametrize(("pairs", "end"), STYLES)
def test_heads_of_the_deepseek_family(interpreted: Worker, pairs: Pairs, end: End) -> None:
    x, upstream = (layouts.random((1, 3, 5, 512), seed=s, dtype=torch.bfloat16) for s in (1, 2))
    angles = rope_angles(torch.tensor([[0, 7, 1_000_000]]), dim=64, theta=160_000.0)
    got = interpreted(_value_and_gradient, x, angles, upstream, pairs=pairs, end=end, inverse=False)
    check(got, x, angles, upstream, pairs, end, False)


def test_queries_of_a_fused_projection_are_read_in_place(interpreted: Worker) -> None:
    fused = layouts.random((2, 6, 512), seed=1, dtype=torch.bfloat16)
    x = fused[..., 128:384].unflatten(-1, (4, 64))
    upstream = layouts.random((2, 4, 6, 64), seed=2, dtype=torch.bfloat16).transpose(1, 2)
    angles = rope_angles(torch.arange(12).view(2, 6), dim=64, theta=10_000.0)
    got = interpreted(_value_and_gradient, x, angles, upstream, pairs="half", end="first", inverse=False)
    check(got, x, angles, upstream, "half", "first", False)


@pytest.mark.parametrize(("pairs", "end"), STYLES)
def test_the_inverse_rotates_back(interpreted: Worker, pairs: Pairs, end: End) -> None:
    x = layouts.random((2, 5, 3, 48), seed=1, dtype=torch.float32)
    angles = rope_angles(torch.arange(5)[None], dim=32, theta=10_000.0)
    there = interpreted(rotate, x, angles, pairs=pairs, end=end)
    assert (there - x).abs().max() > 0.5
    torch.testing.assert_close(interpreted(rotate, there, angles, pairs=pairs, end=end, inverse=True), x)


def test_scores_depend_on_distance_only() -> None:
    q, k = (layouts.random((1, 1, 1, 64), seed=s, dtype=torch.float64) for s in (1, 2))

    def score(query_at: int, key_at: int, pairs: Pairs) -> Tensor:
        at = [rope_angles(torch.tensor([[p]]), dim=64, theta=10_000.0) for p in (query_at, key_at)]
        return (rotate(q, at[0], pairs=pairs) * rotate(k, at[1], pairs=pairs)).sum()

    for pairs in ("half", "interleaved"):
        torch.testing.assert_close(score(25, 11, pairs), score(114, 100, pairs), rtol=1e-4, atol=1e-4)
        assert (score(25, 11, pairs) - score(25, 12, pairs)).abs() > 1e-2


def test_half_pairs_are_those_of_transformers() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    x = layouts.random((2, 7, 3, 32), seed=1, dtype=torch.float32)
    angles = rope_angles(torch.arange(14).view(2, 7), dim=32, theta=10_000.0)
    cos, sin = (angles[..., i].repeat(1, 1, 2) for i in (0, 1))
    expected, _ = llama.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)
    assert torch.equal(rotate(x, angles), expected)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("tokens", [1, 4])
def test_interleaved_pairs_wherever_they_lie(tokens: int, width: int, inverse: bool) -> None:
    """Pairs at odd places of memory, and one alone, turn as the definition says; compiled code the same."""
    x = layouts.random((2, tokens, 3, width + 1), seed=1, dtype=torch.float64)[..., 1:].requires_grad_()
    angles = rope_angles(torch.arange(7, 7 + tokens, dtype=torch.float64)[None], dim=4, theta=100.0)
    options: dict[str, Any] = {"pairs": "interleaved", "end": "last", "inverse": inverse}
    want = x.detach().clone()
    for i in range(2):
        even, odd = (x.detach()[..., width - 4 + 2 * i + j] for j in (0, 1))
        cos, sin = (angles[:, :, None, i, j] * (-1 if inverse and j else 1) for j in (0, 1))
        want[..., width - 4 + 2 * i] = even * cos - odd * sin
        want[..., width - 3 + 2 * i] = odd * cos + even * sin
    pull = layouts.random(want.shape, seed=2, dtype=torch.float64)
    gradients = []
    for run in (rotate, torch.compile(rotate, backend="eager", fullgraph=True)):
        got = run(x, angles, **options)
        torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
        gradients += torch.autograd.grad((got * pull).sum(), x)
    # A rotation is undone by its transpose.
    back = rotate(pull, angles, pairs="interleaved", end="last", inverse=not inverse)
    for gradient in gradients:
        torch.testing.assert_close(gradient, back, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("heads", [None, 1])
def test_the_gradient_of_a_lone_vector_may_lie_anywhere(heads: int | None) -> None:
    """One token with one key, behind an odd number of other channels: what comes back is a slice at an odd place."""
    shape = (1, 1, 4) if heads is None else (1, 1, heads, 4)
    x = layouts.random(shape, seed=1, dtype=torch.float32).requires_grad_()
    angles = rope_angles(torch.tensor([[3]]), dim=4, theta=100.0)
    pull = layouts.random((*shape[:-1], 7), seed=2, dtype=torch.float32)
    turned = rotate(x, angles, pairs="interleaved")
    (gradient,) = torch.autograd.grad(torch.cat((torch.zeros(*shape[:-1], 3), turned), -1), x, pull)
    want = oracle(pull[..., 3:], angles, pairs="interleaved", end="first", inverse=True)
    torch.testing.assert_close(gradient.double(), want, rtol=1e-6, atol=1e-6)


def test_angles_get_no_gradient(interpreted: Worker) -> None:
    assert interpreted(_angle_gradient) is None
    assert _angle_gradient() is None


def _angle_gradient() -> Tensor | None:
    x = torch.randn(1, 3, 2, 8, requires_grad=True)
    angles = rope_angles(torch.arange(3)[None], dim=8, theta=10_000.0).requires_grad_()
    rotate(x, angles).sum().backward()
    assert x.grad is not None
    return angles.grad


@pytest.mark.parametrize(
    ("x", "angles"),
    [
        ((2, 5, 3, 8), (2, 5, 5, 2)),
        ((2, 5, 3, 8), (2, 4, 4, 2)),
        ((2, 5, 3, 8), (3, 5, 4, 2)),
        ((2, 5, 3, 8), (2, 5, 4)),
        ((5, 8), (1, 5, 4, 2)),
    ],
)
def test_angles_of_another_shape_are_refused(x: tuple[int, ...], angles: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        rotate(torch.zeros(x), torch.zeros(angles))


def test_unknown_styles_are_refused() -> None:
    with pytest.raises(ValueError, match="'neox'"):
        rotate(torch.zeros(1, 2, 8), torch.zeros(1, 2, 4, 2), pairs="neox")  # type: ignore[arg-type]
