"""Huawei Ascend 910B."""

from __future__ import annotations

from archc.schema import Hardware


class Ascend910b(Hardware, memory=64e9, bandwidth=1.6e12, bf16=320e12, domain=8):
    """Huawei Ascend 910B with 64 GB, in nodes of 8.

    Sources: https://boardor.com/blog/huawei-ascend-910b-outperforms-h20-910c-approaches-h100 (products, memory; Huawei
    publishes none, and there are faster and slower versions); bandwidth: one of the two dies of the 910C
    (arXiv:2506.12708). No source: links and network (give them in the spec), float32 (its products count as bfloat16
    ones), host, launch, and anything measured.
    """
