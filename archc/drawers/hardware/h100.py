"""NVIDIA H100."""

from __future__ import annotations

from archc.schema import Hardware


class H100(
    Hardware,
    memory=80e9,
    bandwidth=3.35e12,
    fp32=67e12,
    tf32=494.7e12,
    bf16=989.4e12,
    fp8=1978.9e12,
    launch=1.3e-6,
    domain=8,
    link=450e9,
    network=50e9,
    host=64e9,
    stream=3.0e12,
    gemm_bf16=794.5e12,
    gemm_fp8=1402.6e12,
    drain=1.97e12,
    attention=579e12,
    attention_backward=542e12,
    link_latency=3e-6,
    link_measured=396.4e9,
):
    """NVIDIA H100 SXM5 80 GB in nodes of 8 (DGX H100: a 400 Gb/s adapter for each).

    Stated: https://www.nvidia.com/en-us/data-center/h100/ (half of the peaks with sparsity; NVLink and PCIe per
    direction). Measured: launch in CUDA graphs by https://hazyresearch.stanford.edu/blog/2025-05-27-no-bubbles;
    products and links (a pairwise copy on H200) by https://github.com/stas00/ml-engineering; attention:
    figures 5 and 6 of arXiv:2407.08608 (4096 tokens, heads of 128); stream and drain as of the H800, which is the same
    chip; ``link_latency``: half of what NCCL takes for a small all-reduce between two devices in CUDA graphs (6 us,
    https://github.com/NVIDIA/nccl/issues/1259). No source: latency of the network.
    """
