"""Huawei Ascend 910C."""

from __future__ import annotations

from archc.schema import Hardware


class Ascend910c(
    Hardware,
    memory=128e9,
    bandwidth=3.2e12,
    bf16=752e12,
    domain=384,
    link=392e9,
    network=50e9,
):
    """Huawei Ascend 910C, two dies in a package, 384 of which a CloudMatrix384 joins.

    Source: arXiv:2506.12708, section 3. No source: float32 (its products count as bfloat16 ones), host, launch, and
    anything measured. It has no FP8 or FP4 products.
    """
