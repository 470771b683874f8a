"""NVIDIA H800."""

from __future__ import annotations

from archc.schema import Hardware


class H800(
    Hardware,
    memory=80e9,
    bandwidth=3.35e12,
    fp32=67e12,
    tf32=494.7e12,
    bf16=989.4e12,
    fp8=1978.9e12,
    launch=1.3e-6,
    domain=8,
    link=200e9,
    network=50e9,
    host=64e9,
    stream=3.0e12,
    gemm_bf16=794.5e12,
    gemm_fp8=1417e12,
    drain=1.97e12,
    attention=579e12,
    attention_backward=542e12,
    link_latency=3e-6,
    link_measured=158e9,
    network_measured=46e9,
    senders=20 / 132,
):
    """NVIDIA H800 SXM5 80 GB in nodes of 8 (a 400 Gb/s adapter for each): an H100 with NVLink of 400 GB/s both ways.

    Stated: arXiv:2412.19437, section 3.1; links: https://github.com/NVIDIA/nccl/issues/1374 (200 GB/s in a direction);
    the network by the first README of https://github.com/deepseek-ai/DeepEP; the chip as in `h100`. Measured: links and
    network by the same (46 GB/s sending among 64 devices); senders: 20 of 132 cores, arXiv:2412.19437, section 3.2.2;
    stream: FlashMLA's README. ``gemm_fp8`` and ``drain`` are the line through the table of the first README of
    https://github.com/deepseek-ai/DeepGEMM, products of 4096 rows: time of a product = FLOPs / gemm_fp8 + bytes of its
    result / drain (sums over 512 to 16384 channels: within 6 %). The rest as of the H100. No source: latency of the
    network.
    """
