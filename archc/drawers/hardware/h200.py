"""NVIDIA H200."""

from __future__ import annotations

from archc.schema import Hardware


class H200(
    Hardware,
    memory=141e9,
    bandwidth=4.8e12,
    fp32=67e12,
    tf32=494.7e12,
    bf16=989.4e12,
    fp8=1978.9e12,
    launch=1.3e-6,
    domain=8,
    link=450e9,
    network=50e9,
    host=64e9,
    gemm_bf16=794.5e12,
    gemm_fp8=1453.4e12,
    drain=1.97e12,
    attention=579e12,
    attention_backward=542e12,
    link_latency=3e-6,
    link_measured=396.4e9,
):
    """NVIDIA H200 SXM 141 GB in nodes of 8 (DGX H200: a 400 Gb/s adapter for each).

    Stated: https://www.nvidia.com/en-us/data-center/h200/ (half of the peaks with sparsity; NVLink and PCIe per
    direction). Measured: products and links by https://github.com/stas00/ml-engineering; launch, drain, attention
    and latency of links as of the H100, which is the same chip. No source: stream, latency of the network.
    """
