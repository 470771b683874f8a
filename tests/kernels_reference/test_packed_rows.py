"""Packed keys, byte for byte as the formats are defined, and what they read as."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.ops import packing as planned
from kernels.packed_rows import Fp4Keys, Fp8Keys, Fp8Tiles, read_picked
from kernels.state import Packed
from tests.oracles import packed as oracle

Packing = Fp8Keys | Fp4Keys | Fp8Tiles
KINDS: tuple[Packing, ...] = (Fp8Keys(plain=0), Fp4Keys(), Fp8Tiles())
LARGEST = torch.finfo(torch.float32).max


def rounded(packing: Packing, x: Tensor) -> Tensor:
    """What a packed store returns of x, in float64."""
    return packing.decode(packing.encode(x), x.shape[-1], torch.float64)


def expected(packing: Packing, row: list[float]) -> tuple[list[int], list[float]]:
    """The bytes of a row, and what they read as."""
    if isinstance(packing, Fp8Keys):
        packed = oracle.fp8_row(row, packing.plain)
        return packed, oracle.fp8_channels(packed, len(row), packing.plain)
    if isinstance(packing, Fp8Tiles):
        packed = oracle.tile_row(row, packing.plain)
        return packed, oracle.tile_channels(packed, len(row), packing.plain)
    packed = oracle.fp4_row(row)
    return packed, oracle.fp4_channels(packed, len(row))


def assert_as_defined(packing: Packing, row: list[float], dtype: torch.dtype = torch.float32) -> None:
    x = torch.tensor([row], dtype=dtype)
    packed, numbers = expected(packing, x[0].tolist())
    got = packing.encode(x)
    assert got.dtype == torch.uint8
    assert got[0].tolist() == packed
    for wide in (torch.float64, torch.float32, torch.bfloat16):
        # Exact in bfloat16: the same numbers, signs of zeros included.
        back = packing.decode(got, len(row), wide)
        assert back.dtype == wide
        assert list(map(repr, back[0].tolist())) == list(map(repr, numbers))


# --- every code ----------------------------------------------------------------------------------
def points(values: list[float]) -> list[float]:
    """Every number of a format, every middle between two neighbours, and what lies closely beside it."""
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    beside = [math.nextafter(m, way) for m in map(float, torch.tensor(middles)) for way in (0.0, math.inf)]
    near = [m * (1 + sign * 2.0**-20) for m in middles for sign in (-1, 1)]
    return [*values, *middles, *beside, *near]


@pytest.mark.parametrize("shift", [0, 9, -3])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_number_and_every_tie_of_fp8(sign: int, shift: int) -> None:
    """The largest number stands in each group, so that its scale is 2 ** shift."""
    numbers = points(oracle.FP8)
    for start in range(0, len(numbers), 63):
        group = [448.0, *(sign * x for x in numbers[start : start + 63])]
        assert_as_defined(Fp8Keys(plain=0), [x * 2.0**shift for x in group])


@pytest.mark.parametrize("shift", [0, 9, -30, -126, 125])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_number_and_every_tie_of_fp4(sign: int, shift: int) -> None:
    numbers = points(oracle.FP4)
    for start in range(0, len(numbers), 31):
        group = [6.0, *(sign * x for x in numbers[start : start + 31])]
        assert_as_defined(Fp4Keys(), [x * 2.0**shift for x in group])


def test_every_byte_reads_as_its_number() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    rows = torch.cat([codes[:, None].expand(256, 64), torch.full((256, 8), 130, dtype=torch.uint8)], 1)
    got = Fp8Keys(plain=0).decode(rows[:, :72], 64, torch.float64)[:, 5]
    want = torch.tensor([8 * oracle.e4m3(code) for code in range(256)], dtype=torch.float64)
    assert torch.equal(got.nan_to_num(nan=1e9), want.nan_to_num(nan=1e9))
    pairs = torch.stack([codes, torch.full_like(codes, 127)], 1)
    got = Fp4Keys().decode(pairs, 2, torch.float64)
    assert got.tolist() == [[oracle.e2m1(code & 15), oracle.e2m1(code >> 4)] for code in range(256)]


@pytest.mark.parametrize("scale", [0.0, 2.0**-149, 1.0, 3.1, -0.7, LARGEST, math.inf])
def test_a_tile_reads_with_whatever_scale_it_has(scale: float) -> None:
    """1.5 is code 0x3c; others write scales that are no powers of two."""
    row = torch.tensor([0x3C, 0, *struct.pack("<f", scale)], dtype=torch.uint8)
    got = Fp8Tiles().decode(row, 2, torch.float32)
    exact = struct.unpack("<f", struct.pack("<f", scale))[0]
    assert got[0].item() == torch.tensor(1.5 * exact, dtype=torch.float64).float().item()


@pytest.mark.parametrize("packing", KINDS[:2])
@pytest.mark.parametrize("exponent", range(255))
def test_every_scale_reads_as_its_power_of_two(packing: Packing, exponent: int) -> None:
    """1 in FP8 is code 0x38, in FP4 code 2."""
    code, size = (0x38, 8) if isinstance(packing, Fp8Keys) else (0x22, 1)
    row = torch.tensor([[code] * size + [exponent] + [0] * (7 if size == 8 else 0)], dtype=torch.uint8)
    channels = 8 if size == 8 else 2
    assert packing.decode(row, channels, torch.float64)[0, 0].item() == 2.0 ** (exponent - 127)


# --- scales --------------------------------------------------------------------------------------
@pytest.mark.parametrize("packing", KINDS)
def test_a_scale_is_the_smallest_power_of_two_that_fits(packing: Packing) -> None:
    largest = 6.0 if isinstance(packing, Fp4Keys) else 448.0
    for k in (-22, -8, 0, 5, 100):
        for top in (largest, math.nextafter(largest, 0), largest * (1 + 2.0**-23), largest / 2, largest / 2 * 1.01):
            assert_as_defined(packing, [0.0, top * 2.0**k, -0.3 * 2.0**k])


@pytest.mark.parametrize("packing", KINDS)
@pytest.mark.parametrize("x", [0.0, -0.0, 1e-45, 1e-40, 2.0**-126, 1e-9, 9.9e-5, 1e-4, 1.1e-4, 1e30, 2.0**127, 2.9e38])
def test_extreme_groups(packing: Packing, x: float) -> None:
    assert_as_defined(packing, [x, -x / 3, x / 1000, 0.0])


@pytest.mark.parametrize("packing", KINDS)
def test_what_rounds_beyond_float32_reads_as_infinite(packing: Packing) -> None:
    """As it does in every format."""
    got = packing.encode(torch.tensor([LARGEST, 1.0]))
    assert got.tolist() == expected(packing, [LARGEST, 1.0])[0]
    assert packing.decode(got, 2, torch.float32).tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("packing", KINDS)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_not_hidden(packing: Packing, bad: float) -> None:
    """Its group reads as NaN, the other groups and rows as they are."""
    edge = 128 if isinstance(packing, Fp8Tiles) else 64
    x = torch.ones(2, edge + 6)
    x[0, edge + 2] = bad
    got = rounded(packing, x)
    assert bool(got[0, edge:].isnan().all())
    assert torch.equal(got[0, :edge], x[0, :edge].double())
    assert torch.equal(got[1], x[1].double())


@pytest.mark.parametrize("packing", [*KINDS, Fp8Keys(plain=6), Fp8Tiles(plain=6)])
def test_fresh_bytes_read_as_zeros(packing: Packing) -> None:
    got = packing.decode(torch.zeros(3, 2, packing.bytes(26), dtype=torch.uint8), 26, torch.float32)
    assert torch.equal(got, torch.zeros(3, 2, 26))


# --- rows ----------------------------------------------------------------------------------------
def test_rows_of_deepseek_v4() -> None:
    assert Fp8Keys(plain=64).bytes(512) == 448 + 64 * 2 + 7 + 1 == 584
    assert Fp4Keys().bytes(128) == 128 // 2 + 4 == 68


def test_rows_of_flash_mla() -> None:
    assert Fp8Tiles(plain=64).bytes(576) == 512 + 4 * 4 + 64 * 2 == 656
    assert Fp8Tiles().bytes(128) == 128 + 4 == 132


plain = st.integers(0, 9)
packings = st.one_of(st.builds(Fp8Keys, plain=plain), st.just(Fp4Keys()), st.builds(Fp8Tiles, plain=plain))


@given(packings, st.integers(1, 140), st.integers(0, 2**31), st.sampled_from((torch.float32, torch.bfloat16)))
@example(Fp8Keys(plain=6), 26, 0, torch.float32)  # a last group of its own size
@example(Fp8Keys(plain=3), 8, 0, torch.bfloat16)  # bfloat16 at an odd byte
@example(Fp8Keys(plain=4), 4, 0, torch.float32)  # nothing in FP8
@example(Fp8Tiles(plain=3), 134, 0, torch.bfloat16)  # a last tile of three channels, numbers at odd bytes
@example(Fp8Tiles(plain=4), 4, 0, torch.float32)
@example(Fp4Keys(), 33, 0, torch.float32)  # half a byte left, and a group of one
@settings(max_examples=60, deadline=None)
def test_rows_are_as_defined_in_any_width(packing: Packing, channels: int, seed: int, dtype: torch.dtype) -> None:
    plain = getattr(packing, "plain", 0)
    channels = max(channels, plain, 1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(channels, generator=generator) * 10.0 ** torch.randint(-6, 6, (channels,), generator=generator)
    assert_as_defined(packing, x.tolist(), dtype)
    twin = getattr(planned, type(packing).__name__)(**({"plain": plain} if hasattr(packing, "plain") else {}))
    assert sum(twin.parts(channels).values()) == packing.bytes(channels)
    assert twin.layout == packing.layout


@given(packings, st.integers(9, 140), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_what_was_read_is_read_again(packing: Packing, channels: int, seed: int) -> None:
    """Rounding twice is rounding once, in any shape and memory layout."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, channels, 2, generator=generator).mT.exp()
    once = rounded(packing, x)
    assert torch.equal(rounded(packing, once), once)
    assert torch.equal(rounded(packing, x.contiguous()), once)
    assert torch.equal(rounded(packing, x[1:2, 1:])[0, 0], once[1, 1])


def test_errors_are_within_half_a_step() -> None:
    """At most 1/16 of a number in FP8, of a group's largest number 1/6 in FP4 (the step from 4 to 6)."""
    x = torch.randn(50, 512, generator=torch.Generator().manual_seed(0))
    wide, narrow = rounded(Fp8Keys(plain=64), x), rounded(Fp4Keys(), x)
    assert bool(((wide - x).abs() <= x.abs() / 16 + 2.0**-10 * 2.0**-6).all())
    assert torch.equal(wide[:, 448:], x[:, 448:].bfloat16().double())
    largest = x.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(-2)
    assert bool(((narrow - x).abs() <= largest / 4).all())
    assert (narrow - x).abs().max() > 0.05  # it is narrow


# --- reading what was picked ---------------------------------------------------------------------
def packed(x: Tensor, packing: Packing) -> Packed:
    return Packed(data=packing.encode(x), packing=packing, channels=x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize("new", [1, 3, 5])
def test_picks_mean_the_same_entries(new: int) -> None:
    """Whether all entries are decoded or only those that are picked."""
    generator = torch.Generator().manual_seed(new)
    packing = Fp8Keys(plain=2)
    entries = torch.randn(2, 13, 10, generator=generator)
    picks = torch.randint(-1, 13, (2, new, 4), generator=generator)
    held = packed(entries, packing)
    assert held.shape == entries.shape
    got, places = read_picked(held, picks)
    assert places is not None
    assert got.shape[1] == min(13, new * 4)
    whole = held.decode()
    assert torch.equal(whole.double(), rounded(packing, entries))
    for b, s, k in torch.cartesian_prod(torch.arange(2), torch.arange(new), torch.arange(4)).tolist():
        pick, place = picks[b, s, k].item(), places[b, s, k].item()
        assert (pick < 0) == (place < 0)
        if pick >= 0:
            assert torch.equal(got[b, int(place)], whole[b, int(pick)])


def test_without_picks_all_is_read() -> None:
    entries = packed(torch.randn(1, 3, 4), Fp4Keys())
    got, picks = read_picked(entries, None)
    assert picks is None
    assert torch.equal(got, entries.decode())


@pytest.mark.parametrize("packing", [Fp8Keys(plain=6), Fp4Keys(), Fp8Tiles(plain=6)])
def test_it_compiles_as_one_graph(packing: Packing) -> None:
    x = torch.randn(3, 33, generator=torch.Generator().manual_seed(0))

    def there_and_back(x: Tensor) -> Tensor:
        return packing.decode(packing.encode(x), x.shape[-1], torch.float32)

    torch._dynamo.reset()
    got = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(got, there_and_back(x))
    assert packing.encode(x.to("meta")).shape == (3, packing.bytes(33))
