"""A model with a mla_fp8 cache is, in any chunking, the model whose latents are rounded as that cache rounds them.

The model that it is compared with has no cache: what it would keep goes through the format and back, and on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import archc
from archc.drawers import drawer_class
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model
from tests import laws
from tests.built import built, randomise
from tests.hard_cases.rounded import Rounded
from tests.oracles.packed import tile_channels, tile_row

LAYOUT = "mla_fp8"
SPEC = """arch 1
model latents {
  vocab = 61, dim = 36, layers = 5, context = 200
  attention one = mla {
    heads = 3, q_rank = 20, kv_rank = 131, nope_dim = 7, rope_dim = 6, v_dim = 9, rope = rope
  }
  attention two = mla { heads = 2, kv_rank = 10, nope_dim = 4, rope_dim = 2, v_dim = 3, rope = rope }
  attention picked = dsa {
    heads = 2, q_rank = 9, kv_rank = 10, nope_dim = 4, rope_dim = 2, v_dim = 3, rope = rope
    indexer = lightning { heads = 3, head_dim = 7, topk = 4, key_norm = layer }
  }
  attention staged = picked {
    indexer = two_stage { heads = 3, head_dim = 130, topk = 4, block = 3, blocks = 3, key_norm = layer }
  }
  attention wide = gqa { heads = 3, kv_heads = 1, head_dim = 8, window = 5 }
  ffn = swiglu { hidden = 40 }
  schedule { attention = [one, wide, two, picked, staged] }
}
"""
"""Two tiles with a last one of three channels, a tile that is not full, and a layer that knows no packing."""


@pytest.fixture(scope="module")
def spec() -> Model:
    return load_text(SPEC)[0]


@pytest.fixture(scope="module")
def package(spec: Model, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return built(spec, tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def model(package: ModuleType) -> Any:
    made = package.Model(dtype=torch.float64)
    randomise(made)
    return made.eval()


@pytest.fixture(scope="module")
def rounded(model: Any, package: ModuleType) -> Iterator[Rounded]:
    with pytest.MonkeyPatch.context() as patch:
        yield Rounded(model, package, patch, LAYOUT)


@pytest.mark.parametrize("law", laws.LAWS)
def test_laws_with_packed_latents(law: Any, rounded: Rounded) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        law(rounded, 61, data)

    holds()


def test_rounding_changes_the_result(rounded: Rounded, model: Any) -> None:
    """So that the laws above are of something: by what FP8 rounds, and the choice of other tokens that comes of it."""
    ids = torch.randint(61, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (rounded(ids).logits - model(ids).logits).norm() / model(ids).logits.norm()
    assert 1e-3 < change < 0.4


def test_stores_hold_the_bytes_of_the_tokens(model: Any) -> None:
    """Against the format's definition number by number. The first layer's latents depend on no cache."""
    ids = torch.randint(61, (1, 19), generator=torch.Generator().manual_seed(0))
    wide, narrow = model.new_cache(1, 30, layout="fp32"), model.new_cache(1, 30, layout=LAYOUT)
    with torch.no_grad():
        for cache in (wide, narrow):
            model(ids, cache=cache)
    latents, packed = wide.layers[0].latents, narrow.layers[0].latents
    assert packed.data.shape == (1, 30, 131 + 2 * 4 + 6 * 2)
    for i in range(19):
        row = packed.data[0, i].tolist()
        assert row == tile_row(latents.data[0, i].tolist(), 6)
        assert packed.packing.decode(packed.data[0, i], 137, torch.float64).tolist() == tile_channels(row, 137, 6)
    assert not bool(packed.data[0, 19:].any())


def test_bytes_are_those_of_the_format(spec: Model, model: Any) -> None:
    cache = model.new_cache(3, 50, max_rewind=4, layout=LAYOUT)
    one, two, gqa = 131 + 2 * 4 + 6 * 2, 10 + 4 + 2 * 2, 2 * 8 * 2
    picked, staged, block = two + 7 + 4, two + 130 + 2 * 4, 130 + 2 * 4
    each = one + two + picked + staged
    assert cache.bytes() == 3 * (50 * each + 50 // 3 * block + (4 + 4) * gqa + 8)
    planned = spec.model_copy(update={"cache": drawer_class("cache", LAYOUT)()})
    for batch, context in ((1, 1), (3, 50), (2, 200)):
        counted = archc.cost(planned, mode="decode", batch=batch, context=context).kv_cache
        assert counted.layout == LAYOUT
        assert counted.bytes_total == model.new_cache(batch, context, layout=LAYOUT).bytes()
        assert counted.bytes_per_token == pytest.approx(each + block / 3)


@pytest.mark.parametrize(
    ("name", "layers", "token"),
    [("deepseek_v3", 61, 656), ("kimi_k2", 61, 656), ("deepseek_v3_2", 61, 656 + 132), ("glm_5", 78, 656 + 132)],
)
def test_a_token_takes_the_bytes_of_flash_mla(name: str, layers: int, token: int) -> None:
    report = archc.cost(archc.load(name, set={"cache": LAYOUT}))
    assert report.kv_cache.bytes_per_token == layers * token


def test_what_decodes_in_chunks_decodes_what_it_picks(rounded: Rounded, package: ModuleType) -> None:
    """One new token reads 4 latents of a layer that picks, and 9 index keys where blocks are chosen first."""
    ids = torch.randint(61, (2, 90), generator=torch.Generator().manual_seed(0))
    cache = rounded.new_cache(2, 91)
    formats = sys.modules[f"{package.__name__}.kernels.packed_rows"]
    read: list[tuple[int, ...]] = []
    real = formats.Fp8Tiles.decode

    def decode(self: Any, rows: Tensor, *given: Any) -> Tensor:
        read.append(tuple(rows.shape[:-1]))
        return real(self, rows, *given)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        rounded(ids[:, :89], cache=cache)
        patch.setattr(formats.Fp8Tiles, "decode", decode)
        rounded(ids[:, 89:], cache=cache)
    # Latents of two layers, index keys of one; 4 picks of two layers; the 3 keys of the block that this token closes,
    # the keys of 30 blocks and of the entries of 3.
    assert sorted(read) == sorted([(2, 90)] * 3 + [(2, 4)] * 2 + [(2, 3), (2, 30), (2, 9)])


def test_the_graph_reads_as_the_module_does(spec: Model, model: Any, rounded: Rounded) -> None:
    """The interpreter's own cache, which it makes of the graph's declarations."""
    interpreter = Interpreter(plan(spec), dict(model.state_dict()))
    runtime = import_module(f"{torch_package().__name__}.runtime.model")
    ids = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(0))
    cache = interpreter.new_cache(2, 40, dtype=torch.bfloat16, layout=LAYOUT)
    assert cache.bytes() == model.new_cache(2, 40, layout=LAYOUT).bytes()
    got = []
    for part in ids.split((22, 1, 17), 1):
        rows = runtime.Rows.whole(part)
        got += interpreter.run(part, runtime.time_of(rows, None, cache), cache)
        cache.advance(rows.count, rows.known)
    with torch.no_grad():
        want = rounded(ids).logits
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-9, atol=1e-10)
