"""NVIDIA B200."""

from __future__ import annotations

from archc.schema import Hardware


class B200(
    Hardware,
    memory=180e9,
    bandwidth=8e12,
    fp32=80e12,
    tf32=1125e12,
    bf16=2250e12,
    fp8=4500e12,
    fp4=9000e12,
    domain=8,
    link=900e9,
    network=50e9,
    host=63e9,
    gemm_bf16=1745e12,
    gemm_fp8=3432.5e12,
    attention=1460e12,
    attention_backward=1000e12,
):
    """NVIDIA B200 180 GB in nodes of 8 (DGX B200: a 400 Gb/s adapter for each).

    Stated: https://resources.nvidia.com/en-us-dgx-systems/dgx-b200-datasheet, by device and without sparsity as in
    https://github.com/stas00/ml-engineering (compute/accelerator, network). Measured: products by the latter; attention
    by the README of https://github.com/deepseek-ai/FlashMLA. No source: launch, stream, drain.
    """
