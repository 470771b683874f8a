"""Counts of the library's models, against figures counted apart from this code. Published ones: test_published.py."""

from __future__ import annotations

from typing import Any

import pytest

import archc
from archc import resources
from archc.cost.count import DEFAULT_REWIND

ACTIVE = {
    "deepseek_moe_16b": (2.829, 2.619, 2.409),
    "deepseek_v2_lite": (2.661, 2.451, 2.242),
    "deepseek_v2": (21.376, 20.852, 20.327),
    "deepseek_v3": (37.552, 36.626, 35.699),
    "deepseek_v3_2": (38.404, 37.477, 36.550),
    "glm_5": (41.785, 40.833, 39.882),
    "kimi_k2": (32.861, 31.687, 30.513),
    "deepseek_v4_flash": (13.800, 13.270, 12.741),
    "deepseek_v4_pro": (49.779, 48.852, 47.926),
}
"""Billions of parameters that a token uses: all of them, without the embedding, and without the head too."""


@pytest.mark.parametrize("name", sorted(path.stem for path in resources.specs().glob("*.arch")))
def test_parameters_add_up(name: str) -> None:
    params = archc.cost(archc.load(name)).params
    assert sum(params.by_component.values()) - params.by_component["mtp"] == params.total


@pytest.mark.parametrize("name", sorted(path.stem for path in resources.specs().glob("*.arch")))
def test_a_model_says_what_it_is(name: str) -> None:
    """In a comment that reports show: one above an `import` belongs to nothing."""
    assert archc.load(name).doc


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


def test_what_v3_2_has_beside_its_parameters() -> None:
    """One MTP module, which has an indexer as well; the indexers of the model are 851.5 million."""
    params = archc.cost(archc.load("deepseek_v3_2")).params
    assert params.mtp == 11_624_027_392
    assert params.by_component["indexer"] == params.total - 671_026_404_352 == 851_524_864


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


@pytest.mark.parametrize("mode", ["train", "prefill"])
@pytest.mark.parametrize(("seq", "expected"), [(4096, 84.68e9), (131_072, 150.6e9)])
def test_ideal_flops_of_v3_2(mode: Any, seq: int, expected: float) -> None:
    """Index scores of all that a token sees, attention to the 2048 it picks; counted apart from this code."""
    report = archc.cost(archc.load("deepseek_v3_2"), mode=mode, seq=seq)
    assert report.flops.ideal.forward_per_token == pytest.approx(expected, rel=1e-3)


# Latents of 512 + 64 and an index key of 128; in FP8 as FlashMLA keeps them: 656 bytes, and 132 of the index.
@pytest.mark.parametrize(("name", "layers"), [("deepseek_v3_2", 61), ("glm_5", 78)])
def test_cache_of_latents_and_index_keys(name: str, layers: int) -> None:
    for layout, size in (("bf16", 2 * (576 + 128)), ("mla_fp8", 656 + 132)):
        report = archc.cost(archc.load(name, set={"cache": layout}), context=131_072)
        assert report.kv_cache.bytes_per_token == layers * size


@pytest.mark.parametrize("mode", ["train", "prefill"])
@pytest.mark.parametrize(
    ("name", "seq", "expected"),
    [
        ("deepseek_v4_flash", 4096, 28.52e9),
        ("deepseek_v4_flash", 131_072, 35.64e9),
        ("deepseek_v4_pro", 4096, 104.12e9),
        ("deepseek_v4_pro", 131_072, 119.9e9),
    ],
)
def test_ideal_flops_of_v4(mode: Any, name: str, seq: int, expected: float) -> None:
    """Linear layers, and attention and index scores over what a token sees on the average.

    The figures expected are counted apart from this code and leave the mixing of residual streams out; ours have it,
    and it is less than the 1 % that both may differ by.
    """
    ideal = archc.cost(archc.load(name), mode=mode, seq=seq).flops.ideal
    assert ideal.forward_per_token == pytest.approx(expected, rel=0.01)
    streams = archc.cost(archc.load(name), mode="prefill", seq=seq).flops.ideal.by_component["residual"] / seq
    assert 0 < streams < 0.003 * expected
    assert ideal.forward_per_token - streams == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("name", "csa", "hca"), [("deepseek_v4_flash", 21, 20), ("deepseek_v4_pro", 30, 31)])
def test_cache_of_compressed_attention(name: str, csa: int, hca: int) -> None:
    """Entries of 512 for every 4 and 128 tokens, index keys of 128, in bfloat16; windows and open groups stay."""
    cache = archc.cost(archc.load(name, set={"cache": "bf16"}), context=1 << 20).kv_cache
    assert cache.bytes_per_token == csa * (512 + 128) * 2 // 4 + hca * 512 * 2 // 128
    assert cache.bytes_per_token == {"deepseek_v4_flash": 6880, "deepseek_v4_pro": 9848}[name]
    # Beside 127 tokens of window: key and score of 2 x 4 - 1 tokens (both halves), or of 127, and what a rewind needs.
    window = 127 + DEFAULT_REWIND
    open_group = {"csa": (7 + DEFAULT_REWIND) * 4 * (512 + 128), "hca": (127 + DEFAULT_REWIND) * 2 * 512}
    layers = archc.load(name).layers
    fixed = 2 * (layers * window * 512 + csa * open_group["csa"] + hca * open_group["hca"])
    assert cache.bytes_per_sequence_fixed == fixed + 8


@pytest.mark.parametrize(("name", "experts", "routed"), [("deepseek_v4_flash", 256, 40), ("deepseek_v4_pro", 384, 58)])
def test_tables_and_biases_of_v4_are_buffers(name: str, experts: int, routed: int) -> None:
    """A table of experts for every token in three layers, a bias for every expert in the others."""
    assert archc.cost(archc.load(name)).params.buffers == 3 * 129_280 * 6 + routed * experts
