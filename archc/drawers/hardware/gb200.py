"""NVIDIA GB200."""

from __future__ import annotations

from archc.schema import Hardware


class Gb200(
    Hardware,
    memory=186e9,
    bandwidth=8e12,
    fp32=80e12,
    tf32=1250e12,
    bf16=2500e12,
    fp8=5000e12,
    fp4=10000e12,
    domain=72,
    link=900e9,
    host=450e9,
    gemm_bf16=1822e12,
    gemm_fp8=3615.6e12,
):
    """One of the 72 devices of an NVIDIA GB200 NVL72, all joined by NVLink.

    Stated: https://www.nvidia.com/en-us/data-center/gb200-nvl72/, by device and without sparsity as in
    https://github.com/stas00/ml-engineering (compute/accelerator, network). Measured: products by the latter. No
    source: the network of a rack, which its buyer chooses; launch, stream, drain, attention.
    """
