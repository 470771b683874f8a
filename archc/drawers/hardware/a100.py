"""NVIDIA A100."""

from __future__ import annotations

from archc.schema import Hardware


class A100(
    Hardware,
    memory=80e9,
    bandwidth=2.039e12,
    fp32=19.5e12,
    tf32=156e12,
    bf16=312e12,
    domain=8,
    link=300e9,
    network=25e9,
    host=32e9,
    gemm_bf16=271.2e12,
    attention=173e12,
):
    """NVIDIA A100 SXM4 80 GB in nodes of 8 (DGX A100: a 200 Gb/s adapter for each).

    Stated: https://www.nvidia.com/en-us/data-center/a100/ (dense peaks; NVLink and PCIe per direction). Measured:
    products by https://github.com/stas00/ml-engineering (compute/accelerator); attention: forward and
    backward of 4096 tokens, heads of 128 (https://github.com/Dao-AILab/flash-attention). No source: launch, stream,
    drain.
    """
