"""A model with a v4_fp8 cache is, in any chunking, the model whose keys are rounded as that cache rounds them.

The model that it is compared with has no cache: what it would keep goes through the formats and back, and on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
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
from tests.oracles.packed import fp4_channels, fp4_row, fp8_channels, fp8_row

LAYOUT = "v4_fp8"
SPEC = """arch 1
model packed {
  vocab = 61, dim = 36, layers = 5, context = 200, residual = mhc { streams = 2 }
  attention swa = windowed {
    heads = 4, head_dim = 26, rope_dim = 6, q_rank = 22, out_groups = 2, out_rank = 11, window = 7
    rope = rope { pairs = interleaved }
  }
  attention csa = swa { compress = csa { ratio = 4, indexer = lightning { heads = 5, head_dim = 37, topk = 3 } } }
  attention hca = swa { compress = hca { ratio = 8 } }
  attention wide = gqa { heads = 3, kv_heads = 1, head_dim = 8, window = 5 }
  ffn = swiglu { hidden = 40 }
  schedule { attention = [swa, csa, hca, wide, csa] }
}
"""
"""Widths that leave groups, nibbles and multiples of 8 unfilled, and a layer that knows no packing."""


@pytest.fixture(scope="module")
def spec() -> Model:
    return load_text(SPEC)[0]


@pytest.fixture(scope="module")
def package(spec: Model, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return built(spec, tmp_path_factory.mktemp("packed"))


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
def test_laws_with_packed_keys(law: Any, rounded: Rounded) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        law(rounded, 61, data)

    holds()


def test_rounding_changes_the_result(rounded: Rounded, model: Any) -> None:
    """So that the laws above are of something; by a few per cent, as FP8 and FP4 should."""
    ids = torch.randint(61, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (rounded(ids).logits - model(ids).logits).norm() / model(ids).logits.norm()
    assert 1e-3 < change < 0.2


def test_stores_hold_the_bytes_of_the_tokens(model: Any) -> None:
    """Window keys, entries and index keys, against the formats' definitions number by number."""
    ids = torch.randint(61, (1, 19), generator=torch.Generator().manual_seed(0))
    wide, narrow = model.new_cache(1, 30, layout="fp32"), model.new_cache(1, 30, layout=LAYOUT)
    with torch.no_grad():
        # The first layer's keys depend on no cache
        for cache in (wide, narrow):
            model(ids, cache=cache)
    keys, packed = wide.layers[0].window.data[0], narrow.layers[0].window.data[0]
    assert packed.dtype == torch.uint8
    rows = [(19 - 1 - i) % len(keys) for i in range(6)]
    for row in rows:
        assert packed[row].tolist() == fp8_row(keys[row].tolist(), 6)
    # The entries of the second depend on the first, which differs; what they hold reads as the definitions say.
    second = narrow.layers[1]
    entries, index = second.compressor_entries, second.compressor_indexer_entries
    for i in range(19 // 4):
        row = entries.data[0, i].tolist()
        assert entries.packing.decode(entries.data[0, i], 26, torch.float64).tolist() == fp8_channels(row, 26, 6)
        assert fp8_row(fp8_channels(row, 26, 6), 6)[20:32] == row[20:32]
        row = index.data[0, i].tolist()
        channels = fp4_channels(row, 37)
        assert index.packing.decode(index.data[0, i], 37, torch.float64).tolist() == channels
        assert fp4_channels(fp4_row(channels), 37) == channels
        assert any(channels)
    assert not bool(entries.data[0, 19 // 4 :].any())


def test_bytes_are_those_of_the_formats(model: Any) -> None:
    """Of 26 channels, 6 with positions: 20 + 12 + 1 and 7 of padding. Of 37 index channels: 19 + 2."""
    cache = model.new_cache(3, 50, max_rewind=4, layout=LAYOUT)
    window, entry, index = (7 - 1 + 4) * 40, 40, 21
    csa = window + 50 // 4 * (entry + index) + (7 + 4) * 2 * 2 * (2 * 26 + 2 * 37)
    hca = window + 50 // 8 * entry + (7 + 4) * 2 * 2 * 26
    gqa = (4 + 4) * 2 * 8 * 2
    assert cache.bytes() == 3 * (window + 2 * csa + hca + gqa + 8)
    kinds = {(store.data.dtype, store.packing is None) for layer in cache.layers for store in vars(layer).values()}
    assert kinds == {(torch.uint8, False), (torch.bfloat16, True)}


def test_what_decodes_in_chunks_decodes_what_it_picks(rounded: Rounded, package: ModuleType) -> None:
    """One new token picks 3 of its entries: no more are decoded, however long the row."""
    ids = torch.randint(61, (2, 90), generator=torch.Generator().manual_seed(0))
    cache = rounded.new_cache(2, 91)
    formats = sys.modules[f"{package.__name__}.kernels.packed_rows"]
    read: list[tuple[int, ...]] = []
    real = formats.Fp8Keys.decode

    def decode(self: Any, rows: Tensor, *given: Any) -> Tensor:
        read.append(tuple(rows.shape[:-1]))
        return real(self, rows, *given)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        rounded(ids[:, :89], cache=cache)
        patch.setattr(formats.Fp8Keys, "decode", decode)
        rounded(ids[:, 89:], cache=cache)
    # Windows of 6 tokens and the new one in four layers, 3 picks in two of them, all 11 entries in one.
    assert sorted(read) == sorted([(2, 7)] * 4 + [(2, 3)] * 2 + [(2, 90 // 8)])


def test_reordered_rows_go_on_as_their_own(rounded: Rounded) -> None:
    ids = torch.randint(61, (3, 30), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 0])
    cache = rounded.new_cache(3, 31)
    with torch.no_grad():
        rounded(ids[:, :21], cache=cache)
        cache.reorder(order)
        got = rounded(ids[order, 21:], cache=cache).logits
        want = rounded(ids).logits[order, 21:]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_cropped_rows_go_on_from_there(rounded: Rounded) -> None:
    ids = torch.randint(61, (2, 30), generator=torch.Generator().manual_seed(0))
    cache = rounded.new_cache(2, 40, max_rewind=8)
    with torch.no_grad():
        rounded(torch.cat([ids[:, :20], ids[:, :6]], 1), cache=cache)
        cache.crop(20)
        got = rounded(ids[:, 20:], cache=cache).logits
        want = rounded(ids).logits[:, 20:]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


# --- which layout --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "layout", "stored"),
    [
        (torch.bfloat16, None, {torch.uint8, torch.bfloat16}),
        (torch.float32, None, {torch.float32}),
        (torch.float64, None, {torch.float64}),
        (torch.float32, LAYOUT, {torch.uint8, torch.bfloat16}),
        (torch.bfloat16, "bf16", {torch.bfloat16}),
        (torch.bfloat16, "fp32", {torch.float32}),
    ],
)
def test_a_package_of_the_layout_packs_unless_it_computes_in_more(
    spec: Model, tmp_path: Path, dtype: torch.dtype, layout: str | None, stored: set[torch.dtype]
) -> None:
    packing = spec.model_copy(update={"cache": drawer_class("cache", LAYOUT)()})
    made = built(packing, tmp_path).Model(dtype=dtype)
    assert made.cache_layout == LAYOUT
    cache = made.new_cache(2, 20, layout=layout)
    assert {store.data.dtype for layer in cache.layers for store in vars(layer).values()} == stored
    with torch.no_grad():
        logits = made(torch.arange(12).view(2, 6), cache=cache).logits
        assert logits.dtype == dtype
        ids = made.generate(torch.arange(12).view(2, 6), max_new_tokens=5)
    assert ids.shape == (2, 11)


def test_a_layout_that_nothing_knows_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout is 'fp7'; this package stores bf16, fp32 or v4_fp8"):
        model.new_cache(1, 4, layout="fp7")
    text = "arch 1\nmodel plain { vocab = 7, dim = 8, layers = 1, context = 9, attention = gqa { heads = 2 }\n"
    plain = built(load_text(f"{text}ffn = swiglu {{ hidden = 8 }} }}")[0], tmp_path).Model()
    with pytest.raises(ValueError, match="layout is 'v4_fp8'; this package stores bf16 or fp32"):
        plain.new_cache(1, 4, layout=LAYOUT)


def test_moving_a_model_leaves_its_cache_alone(package: ModuleType) -> None:
    made = package.Model(dtype=torch.bfloat16)
    cache = made.new_cache(1, 20, layout=LAYOUT)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        made(ids[:, :5], cache=cache)
        made.to(torch.float32)
        logits = made(ids[:, 5:], cache=cache).logits
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())


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


def test_the_plan_counts_what_the_cache_holds(spec: Model, model: Any) -> None:
    planned = spec.model_copy(update={"cache": drawer_class("cache", LAYOUT)()})
    for batch, context in ((1, 1), (3, 50), (2, 200)):
        counted = archc.cost(planned, mode="decode", batch=batch, context=context).kv_cache
        assert counted.layout == LAYOUT
        assert counted.bytes_total == model.new_cache(batch, context, layout=LAYOUT).bytes()
    assert counted.bytes_per_token == 2 * (40 + 21) / 4 + 40 / 8
