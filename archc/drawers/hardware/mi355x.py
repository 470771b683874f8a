"""AMD Instinct MI355X."""

from __future__ import annotations

from archc.schema import Hardware


class Mi355x(
    Hardware,
    memory=288e9,
    bandwidth=8e12,
    fp32=157.3e12,
    bf16=2500e12,
    fp8=5000e12,
    fp4=10100e12,
    domain=8,
    link=535.5e9,
    host=63e9,
    gemm_bf16=1565e12,
):
    """AMD Instinct MI355X in platforms of 8, each with 7 links to the others.

    Stated: https://www.amd.com/en/products/accelerators/instinct/mi350/mi355x.html (without sparsity; all links
    together, per direction). Measured: products by https://github.com/stas00/ml-engineering. No source: the network,
    launch, stream, drain, attention.
    """
