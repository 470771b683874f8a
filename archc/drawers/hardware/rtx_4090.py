"""NVIDIA GeForce RTX 4090."""

from __future__ import annotations

from archc.schema import Hardware


class Rtx4090(
    Hardware,
    memory=24e9,
    bandwidth=1.008e12,
    fp32=82.6e12,
    tf32=82.6e12,
    bf16=165.2e12,
    fp8=330.3e12,
    host=32e9,
):
    """NVIDIA GeForce RTX 4090, alone.

    Source: https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf, appendix A (dense,
    sums in float32; PCIe per direction). No source: launch, and anything measured.
    """
