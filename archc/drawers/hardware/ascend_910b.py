"""Huawei Ascend 910B."""

from __future__ import annotations

from archc.schema import Hardware


class Ascend910b(Hardware, memory=64e9, bandwidth=1.6e12, bf16=320e12):
    """Huawei Ascend 910B with 64 GB, alone.

    Huawei publishes no figures, there are several versions, and what others say of them differs (products from 256 to
    320 TFLOP/s). Sources: https://boardor.com/blog/huawei-ascend-910b-outperforms-h20-910c-approaches-h100 (products,
    memory); bandwidth: half that of the 910C, which is two of them (https://techpowerup.com/335749). No source: links,
    network and how many devices these join (give them in the spec), float32 (its products count as bfloat16 ones),
    host, launch, and anything measured.
    """
