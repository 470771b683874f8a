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

    Source: arXiv:2506.12708, by https://www.emergentmind.com/topics/cloudmatrix-datacenter-architecture (products,
    memory) and by the account of its three networks at https://www.besthub.dev (392 GB/s and 400 Gb/s a device, in a
    direction). No source: float32 (its products count as bfloat16 ones), host, launch, and
    anything measured. It has no FP8 or FP4 products.
    """
