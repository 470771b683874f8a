"""Counts of the library's models against published figures, and those of public implementations."""

from __future__ import annotations

from typing import Any

import pytest

import archc
from tests.importers.configs import MIXTURES, PARAMETERS

TOTALS = {name: PARAMETERS[name] for name in MIXTURES} | {"deepseek_moe_16b": 16_375_728_128}
"""Exact totals: transformers on the meta device; DeepSeekMoE 16B, which it has no class for, from its tensors."""

ACTIVE = {
    "deepseek_moe_16b": (2.829, 2.619, 2.409),
    "deepseek_v2_lite": (2.661, 2.451, 2.242),
    "deepseek_v2": (21.376, 20.852, 20.327),
    "deepseek_v3": (37.552, 36.626, 35.699),
    "kimi_k2": (32.861, 31.687, 30.513),
}
"""Billions of parameters that a token uses: all of them, without the embedding, and without the head too.

Each paper rounds one of them: 2.8 (DeepSeekMoE), 2.4 (V2-Lite, without the embedding), 21 (V2), 37 (V3), 32 (K2).
"""


@pytest.mark.parametrize("name", TOTALS)
def test_parameters(name: str) -> None:
    params = archc.cost(archc.load(name)).params
    assert params.total == TOTALS[name]
    assert sum(params.by_component.values()) - params.by_component["mtp"] == params.total


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name: str) -> None:
    params = archc.cost(archc.load(name)).params
    counted = (params.active, params.active_without_embedding, params.active_core)
    assert tuple(round(n / 1e9, 3) for n in counted) == ACTIVE[name]


def test_what_v3_has_beside_its_parameters() -> None:
    """One MTP module, and a bias for every expert: 671,026,419,200 with these (DeepSeek-V3 README_WEIGHTS)."""
    params = archc.cost(archc.load("deepseek_v3")).params
    assert params.mtp == params.by_component["mtp"] == 11_610_067_968
    assert params.buffers == 58 * 256 == 14_848
    assert params.total + params.buffers == 671_026_419_200
    assert archc.cost(archc.load("kimi_k2")).params.mtp == 0


@pytest.mark.parametrize(("name", "count"), [("deepseek_v4_flash", 6_610_048_635), ("deepseek_v4_pro", 25_840_145_595)])
def test_what_v4_has_beside_its_parameters(name: str, count: int) -> None:
    """One MTP module, by the tensors of the published checkpoints; Pro has 1598.84 billion with it."""
    params = archc.cost(archc.load(name)).params
    assert params.mtp == params.by_component["mtp"] == count


# V3: 70.272 KB (DeepSeek-AI 2025, arXiv:2505.09343, table 1). V2 and V2-Lite: 34.6K and 15.6K elements of two bytes
# (arXiv:2405.04434, tables 9 and 10), in full 60 and 27 layers of 512 + 64.
@pytest.mark.parametrize(
    ("name", "size"),
    [("deepseek_v3", 70_272), ("kimi_k2", 70_272), ("deepseek_v2", 2 * 34_560), ("deepseek_v2_lite", 2 * 15_552)],
)
def test_cache_of_latent_attention(name: str, size: int) -> None:
    assert archc.cost(archc.load(name), context=4096).kv_cache.bytes_per_token == size


@pytest.mark.parametrize("mode", ["train", "prefill"])
@pytest.mark.parametrize(("seq", "published"), [(4096, 83.49e9), (131_072, 400.7e9)])
def test_ideal_flops_of_v3(mode: Any, seq: int, published: float) -> None:
    """Linear layers and attention as the equations have them, keys and values expanded once for every token."""
    report = archc.cost(archc.load("deepseek_v3"), mode=mode, seq=seq)
    assert report.flops.ideal.forward_per_token == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("name", "published"), [("deepseek_v3", 250e9), ("deepseek_v2", 155e9)])
def test_training_flops_as_published(name: str, published: float) -> None:
    """GFLOPs a token at 4,096, without multi-token prediction (arXiv:2505.09343, table 2)."""
    report = archc.cost(archc.load(name), mode="train", seq=4096)
    assert report.flops.ideal.train_per_token == pytest.approx(published, rel=0.02)
