"""Rotary angles are, bit for bit, those of transformers, and near the published formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.rope_angles import rope_angles

dims = st.sampled_from((2, 8, 18, 32, 64, 96, 128, 256))
thetas = st.sampled_from((100.0, 10_000.0, 50_000.0, 160_000.0, 500_000.0, 1_000_000.0))
factors = st.sampled_from((1.0, 2.0, 4.0, 7.3, 8.0, 16.0, 40.0))
originals = st.sampled_from((32, 1024, 4096, 8192, 65_536))
positions = st.lists(st.integers(0, 2_000_000), min_size=1, max_size=5)


def transformers_angles(at: list[int], dim: int, parameters: dict[str, Any], longest: int) -> torch.Tensor:
    """cos and sin of LlamaRotaryEmbedding, as [1, S, dim / 2, 2]."""
    transformers = pytest.importorskip("transformers")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=2 * dim,
        num_attention_heads=2,
        head_dim=dim,
        max_position_embeddings=longest,
        rope_parameters=parameters,
    )
    cos, sin = llama.LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor([at]))
    return torch.stack((cos[..., : dim // 2], sin[..., : dim // 2]), dim=-1)


@settings(max_examples=25, deadline=None)
@given(at=positions, dim=dims, theta=thetas)
def test_default_equals_transformers(at: list[int], dim: int, theta: float) -> None:
    expected = transformers_angles(at, dim, {"rope_type": "default", "rope_theta": theta}, 4096)
    assert torch.equal(rope_angles(torch.tensor([at]), dim=dim, theta=theta), expected)


@settings(max_examples=25, deadline=None)
@given(at=positions, dim=dims, theta=thetas, factor=factors)
def test_linear_equals_transformers(at: list[int], dim: int, theta: float, factor: float) -> None:
    expected = transformers_angles(at, dim, {"rope_type": "linear", "rope_theta": theta, "factor": factor}, 4096)
    got = rope_angles(torch.tensor([at]), dim=dim, theta=theta, scaling="linear", factor=factor)
    assert torch.equal(got, expected)


@settings(max_examples=50, deadline=None)
@given(
    at=positions,
    dim=dims,
    theta=thetas,
    factor=factors,
    original=originals,
    low=st.sampled_from((0.5, 1.0, 1.5)),
    high=st.sampled_from((2.0, 4.0, 8.0)),
)
def test_llama3_equals_transformers(
    at: list[int], dim: int, theta: float, factor: float, original: int, low: float, high: float
) -> None:
    parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low}
    parameters |= {"high_freq_factor": high, "original_max_position_embeddings": original}
    expected = transformers_angles(at, dim, parameters, 2 * original)
    scaled = {"factor": factor, "original": original, "low": low, "high": high}
    assert torch.equal(rope_angles(torch.tensor([at]), dim=dim, theta=theta, scaling="llama3", **scaled), expected)


@settings(max_examples=60, deadline=None)
@given(
    at=positions,
    dim=dims,
    theta=thetas,
    factor=factors,
    original=originals,
    fast=st.sampled_from((16.0, 32.0, 64.0)),
    slow=st.sampled_from((0.5, 1.0, 2.0)),
    truncate=st.booleans(),
    attention_factor=st.sampled_from((None, 1.0, 1.27)),
)
def test_yarn_equals_transformers(
    at: list[int],
    dim: int,
    theta: float,
    factor: float,
    original: int,
    fast: float,
    slow: float,
    truncate: bool,
    attention_factor: float | None,
) -> None:
    parameters = {"rope_type": "yarn", "rope_theta": theta, "factor": factor, "beta_fast": fast, "beta_slow": slow}
    parameters |= {"original_max_position_embeddings": original, "truncate": truncate}
    if attention_factor is not None:
        parameters["attention_factor"] = attention_factor
    expected = transformers_angles(at, dim, parameters, int(original * factor))
    magnitude = (0.1 * math.log(factor) + 1 if factor > 1 else 1.0) if attention_factor is None else attention_factor
    ramp = {"original": original, "beta_fast": fast, "beta_slow": slow, "truncate": truncate, "magnitude": magnitude}
    got = rope_angles(torch.tensor([at]), dim=dim, theta=theta, scaling="yarn", factor=factor, **ramp)
    assert torch.equal(got, expected)


def test_deepseek_v3_frequencies_against_the_formula() -> None:
    """YaRN as published with DeepSeek-V3: base 10000, 64 channels, factor 40 over 4096 tokens."""

    def corner(rotations: float) -> float:
        return 64 * math.log(4096 / (2 * math.pi * rotations)) / (2 * math.log(10_000))

    first, last = math.floor(corner(32)), math.ceil(corner(1))
    assert (first, last) == (10, 23)
    got = rope_angles(torch.tensor([[1]]), dim=64, theta=10_000.0, scaling="yarn", factor=40.0, original=4096)
    for i in range(32):
        stretched = min(max((i - first) / (last - first), 0), 1)
        frequency = 10_000 ** (-2 * i / 64) * (stretched / 40 + 1 - stretched)
        assert got[0, 0, i].tolist() == pytest.approx([math.cos(frequency), math.sin(frequency)], rel=1e-6, abs=1e-9)


def test_angles_have_the_batch_of_the_positions_and_are_float32() -> None:
    got = rope_angles(torch.tensor([[0, 1, 2], [5, 6, 7]], dtype=torch.int32), dim=8, theta=100.0)
    assert got.shape == (2, 3, 4, 2) and got.dtype == torch.float32
    assert torch.equal(got[0, 0], torch.tensor([[1.0, 0.0]] * 4))
    assert rope_angles(torch.zeros(2, 0, dtype=torch.long), dim=8, theta=100.0).shape == (2, 0, 4, 2)
    assert rope_angles(torch.zeros(2, 3, device="meta"), dim=8, theta=100.0).device.type == "meta"


@pytest.mark.parametrize("scaling", [None, "linear", "llama3", "yarn"])
def test_float64_positions_give_float64(scaling: Any) -> None:
    at, settings = torch.tensor([[3, 1000]]), {"dim": 64, "theta": 10_000.0, "factor": 8.0, "original": 4096}
    wide = rope_angles(at.double(), scaling=scaling, **settings)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(rope_angles(at, scaling=scaling, **settings).double(), wide, rtol=0, atol=2e-4)
    if scaling is None:
        turn = 1000 * 10_000 ** (-2 * 5 / 64)
        assert wide[0, 1, 5].tolist() == pytest.approx([math.cos(turn), math.sin(turn)], abs=1e-12)


def test_unknown_scalings_are_refused() -> None:
    with pytest.raises(ValueError, match="'ntk'"):
        rope_angles(torch.zeros(1, 1), dim=8, theta=100.0, scaling="ntk")  # type: ignore[arg-type]
