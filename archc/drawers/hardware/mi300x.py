"""AMD Instinct MI300X."""

from __future__ import annotations

from archc.schema import Hardware


class Mi300x(
    Hardware,
    memory=192e9,
    bandwidth=5.3e12,
    fp32=163.4e12,
    tf32=653.7e12,
    bf16=1307.4e12,
    fp8=2614.9e12,
    domain=8,
    link=448e9,
    host=63e9,
    gemm_bf16=668.4e12,
    link_measured=312.9e9,
):
    """AMD Instinct MI300X in platforms of 8, each with 7 links to the others.

    Stated: https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html (without sparsity; all links
    together, per direction). Measured: products and links (an all-reduce among 8) by
    https://github.com/stas00/ml-engineering. No source: the network, launch, stream, drain, attention.
    """
