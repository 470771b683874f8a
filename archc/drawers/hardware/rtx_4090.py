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

    Source: https://hmc-tech.com/gpus/nvidia-geforce-rtx-4090-vs-nvidia-rtx-pro-5000-blackwell, which has the figures of
    the maker's white paper on Ada (dense, sums in float32); host: 16 lanes of PCIe 4.0, per direction. No source:
    launch, and anything measured.
    """
