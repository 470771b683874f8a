"""NVIDIA GeForce RTX 5090."""

from __future__ import annotations

from archc.schema import Hardware


class Rtx5090(
    Hardware,
    memory=32e9,
    bandwidth=1.792e12,
    fp32=104.8e12,
    tf32=104.8e12,
    bf16=209.5e12,
    fp8=419e12,
    fp4=1676e12,
    host=64e9,
):
    """NVIDIA GeForce RTX 5090, alone.

    Source: https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf,
    as https://main-horse.github.io/posts/5090-mm-perf quotes it (dense, sums in float32; products in bfloat16 were seen
    to reach more); memory: https://www.spheron.network/blog/nvidia-rtx-5090-specs/; host: 16 lanes of PCIe 5.0, per
    direction. No source: launch, and anything measured.
    """
