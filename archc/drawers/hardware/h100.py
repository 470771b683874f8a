"""NVIDIA H100."""

from __future__ import annotations

from archc.schema import Hardware, field


class H100(Hardware):
    """NVIDIA H100 SXM5 80 GB in nodes of 8.

    Source: https://www.nvidia.com/en-us/data-center/h100/ (dense peaks: half of those stated with sparsity).
    """

    memory: float = field("memory of a device", unit="bytes", default=80e9, gt=0)
    bandwidth: float = field("what its memory reads or writes", unit="bytes/s", default=3.35e12, gt=0)
    fp32: float = field("matrix products in float32 without tensor cores", unit="FLOP/s", default=67e12, gt=0)
    tf32: float = field("matrix products in TF32", unit="FLOP/s", default=494.7e12, ge=0)
    bf16: float = field("matrix products in bfloat16", unit="FLOP/s", default=989.4e12, gt=0)
    fp8: float = field("matrix products in FP8", unit="FLOP/s", default=1978.9e12, ge=0)
    launch: float = field("time from one kernel to the next that waits for it", unit="s", default=3e-6, ge=0)
    domain: int = field("devices joined by fast links", default=8, gt=0)
    link: float = field("what a device sends over these links, in one direction", unit="bytes/s", default=450e9, ge=0)
    network: float = field("what a device sends beyond them, in one direction", unit="bytes/s", default=50e9, ge=0)
    host: float = field("from host memory to a device", unit="bytes/s", default=64e9, ge=0)
