"""The repaired interpreter computes what PyTorch computes, in every format a kernel may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

probes: Any = pytest.importorskip("tests.kernels.support.probes")

HALVES = (torch.bfloat16, torch.float16)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", torch.add),
        ("sub", torch.sub),
        ("mul", torch.mul),
        ("neg", lambda x, y: -x),
        ("abs", lambda x, y: x.abs()),
        ("maximum", torch.maximum),
        ("minimum", torch.minimum),
        ("clamp", lambda x, y: torch.clamp(x, y.clamp(max=0), y.clamp(min=0))),
        ("fma", lambda x, y: (x.double() * y.double() + y.double()).to(x.dtype)),
        ("where", torch.minimum),
        ("less", lambda x, y: (x < y).to(x.dtype)),
        ("equal", lambda x, y: (x == y).to(x.dtype)),
    ],
)
def test_arithmetic_is_that_of_the_format(
    interpreted: Worker, operation: str, expected: Any, dtype: torch.dtype
) -> None:
    x, y = normal(256, seed=1).to(dtype), normal(256, seed=2).to(dtype)
    y[::7] = x[::7]
    assert torch.equal(interpreted(probes.arithmetic, operation, x, y), expected(x, y))


def test_negative_and_positive_bfloat16_compare_by_value(interpreted: Worker) -> None:
    x, y = torch.tensor([-1.0, 0.0, -0.0, 2.0]).bfloat16(), torch.tensor([1.0, -0.0, 0.0, -3.0]).bfloat16()
    assert interpreted(probes.arithmetic, "less", x, y).tolist() == [1, 0, 0, 0]
    assert interpreted(probes.arithmetic, "equal", x, y).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("dtype", HALVES)
def test_reductions_see_values(interpreted: Worker, dtype: torch.dtype) -> None:
    x = normal(4, 256).to(dtype)
    assert torch.equal(interpreted(probes.reduce, "max", x), x.max(1).values.float())
    assert torch.equal(interpreted(probes.reduce, "argmax", x), x.double().argmax(1).float())
    # Each of the eight levels of the tree rounds once.
    bound = 8 * torch.finfo(dtype).eps / 2 * x.double().abs().sum(1)
    assert (interpreted(probes.reduce, "sum", x).double() - x.double().sum(1)).abs().le(bound).all()


def test_a_sum_of_bfloat16_rounds_along_a_tree(interpreted: Worker) -> None:
    assert interpreted(probes.reduce, "sum", torch.ones(1, 1024, dtype=torch.bfloat16)).item() == 1024
    x = torch.tensor([[256.0, 1.0, 1.0, 1.0]], dtype=torch.bfloat16)
    assert interpreted(probes.reduce, "sum", x).item() == 258


@pytest.mark.parametrize("target", HALVES)
def test_casts_round_to_nearest_even(interpreted: Worker, target: torch.dtype) -> None:
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-8, 1e30, -1e-30, torch.inf])
    x = torch.cat([normal(4088), ties])
    assert torch.equal(interpreted(probes.cast, x, target, torch.float32), x.to(target).float())


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", FP8)
def test_casts_to_fp8_round_and_saturate(interpreted: Worker, source: torch.dtype, target: torch.dtype) -> None:
    largest = torch.finfo(target).max
    x = normal(1024, scale=largest / 4).to(source)
    x[:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]).to(source)
    expected = x.float().clamp(-largest, largest).to(target).float()
    expected[2] = torch.nan
    assert (x.float().abs() > largest).sum() > 2
    torch.testing.assert_close(
        interpreted(probes.cast, x, target, torch.float32), expected, rtol=0, atol=0, equal_nan=True
    )


def test_a_cast_between_16_bit_formats_keeps_the_value(interpreted: Worker) -> None:
    x = normal(256).bfloat16()
    assert torch.equal(interpreted(probes.cast, x, torch.float16, torch.float32), x.half().float())


def test_bits_can_be_reinterpreted(interpreted: Worker) -> None:
    x = normal(64).bfloat16()
    bits = interpreted(probes.bitcast, x, torch.int16)
    assert torch.equal(bits, x.view(torch.int16))
    assert torch.equal(interpreted(probes.bitcast, bits, torch.bfloat16), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("other", [None, 1.5])
def test_masked_loads_fill_and_masked_stores_leave(
    interpreted: Worker, dtype: torch.dtype, other: float | None
) -> None:
    x = normal(16).to(dtype)
    got = interpreted(probes.masked, x, 5, other).float()
    assert torch.equal(got[:5], x[:5].float())
    assert got[5] == (other or 0)
    assert got[6:].eq(-1).all()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_dot_multiplies_values(interpreted: Worker, dtype: torch.dtype) -> None:
    a, b = normal(16, 32, seed=1).to(dtype), normal(32, 16, seed=2).to(dtype)
    expected = (a.double() @ b.double()).float()
    torch.testing.assert_close(interpreted(probes.dot, a, b), expected, rtol=1e-6, atol=1e-5)


def test_dot_rounds_to_tf32_only_where_asked(interpreted: Worker) -> None:
    a, b = normal(16, 32, seed=1), normal(32, 16, seed=2)
    exact = (a.double() @ b.double()).float()

    def tf32(x: torch.Tensor) -> torch.Tensor:
        scale = 2.0 ** (10 - x.abs().log2().floor())
        return (x * scale).round() / scale

    got = interpreted(probes.dot, a, b, "tf32")
    torch.testing.assert_close(got, (tf32(a).double() @ tf32(b).double()).float(), rtol=1e-6, atol=1e-5)
    assert (got - exact).abs().max() > 1e-4
    torch.testing.assert_close(interpreted(probes.dot, a, b, "tf32x3"), exact, rtol=1e-6, atol=1e-5)


def test_dot_of_block_scaled_fp8(interpreted: Worker) -> None:
    a, b = normal(16, 64, seed=1).to(torch.float8_e4m3fn), normal(64, 16, seed=2).to(torch.float8_e4m3fn)
    a_scale = torch.randint(120, 135, (16, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    b_scale = torch.randint(120, 135, (16, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    left = a.double() * torch.exp2(a_scale.double() - 127).repeat_interleave(32, 1)
    right = b.double() * torch.exp2(b_scale.double() - 127).repeat_interleave(32, 1).T
    got = interpreted(probes.dot_scaled, a, a_scale, b, b_scale)
    torch.testing.assert_close(got, (left @ right).float(), rtol=1e-5, atol=1e-3)
    # The repairs are in force again after it.
    assert (
        interpreted(probes.arithmetic, "add", torch.ones(4).bfloat16(), torch.ones(4).bfloat16()).tolist() == [2.0] * 4
    )


@pytest.mark.parametrize("scale", [2.5, 1e-6, 0.1])
def test_float_arguments_are_float32_scalars(interpreted: Worker, scale: float) -> None:
    assert torch.equal(interpreted(probes.scalar, scale, 8), torch.arange(8) * torch.tensor(scale))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tanh", lambda x, y: x.tanh()),
        ("erf", lambda x, y: x.erf()),
        ("rsqrt", lambda x, y: y.rsqrt()),
        ("log1p", lambda x, y: y.log1p()),
        ("round", lambda x, y: x.sign() * (x.abs() + 0.5).floor()),
        ("pow", lambda x, y: y.pow(x)),
        ("copysign", lambda x, y: y.copysign(x)),
    ],
)
def test_libdevice_computes(interpreted: Worker, name: str, expected: Any) -> None:
    x, y = normal(64, seed=1, scale=2), normal(64, seed=2).abs() + 0.1
    x[:4] = torch.tensor([0.5, -0.5, 1.5, -2.5])
    torch.testing.assert_close(interpreted(probes.device_function, name, x, y), expected(x, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_atomic_additions_to_one_address_all_count(interpreted: Worker, dtype: torch.dtype) -> None:
    x, bins = torch.arange(1, 17).to(dtype), torch.arange(16) % 3
    sums, before = interpreted(probes.atomic_add, x, bins, 3)
    assert sums.tolist() == [sum(range(b + 1, 16, 3)) for b in range(3)]
    assert before[:6].tolist() == [0, 0, 0, 1, 2, 3]


def test_the_last_of_several_programs_sees_what_the_others_stored(interpreted: Worker) -> None:
    out, arrived = interpreted(probes.last_arriver, torch.arange(128.0).reshape(8, 16))
    assert out.item() == 128 * 127 / 2
    assert arrived.item() == 0


def test_programs_wait_for_those_before_them(interpreted: Worker) -> None:
    out, counters = interpreted(probes.waiting, 8, 5)
    assert out.tolist() == [4 * sum(range(8)) + 8.0] * 5 and counters.tolist() == [0, 0, 0]
