"""A plan and the package it becomes agree: parameters, executed FLOPs, cache bytes, and every number that comes out.

Over the twins of the library, the configs of tests/parity, and specs of what no importer reads.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import archc
from archc import resources
from archc.cost.count import count
from archc.drawers import drawer_class, kinds
from archc.graph import Graph
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.graph.verify import verify
from archc.importers import convert
from archc.ops import Ring, Table
from archc.plan import plan, shrink
from archc.resolve import load_text
from archc.schema import Cache, Model
from tests.built import built, randomise
from tests.flops import counted
from tests.parity.configs import cases

HEAD = "arch 1\nmodel spec { vocab = 61, context = 90\n"
SPECS = {
    "sinks": "dim = 20, layers = 2\n"
    "attention = gqa { heads = 6, kv_heads = 2, head_dim = 6, sinks = true, rope = rope }\n"
    "ffn = swiglu { hidden = 33 }",
    "window_of_sinks": "dim = 21, layers = 3, norm_placement = both\n"
    "attention local = gqa { heads = 3, head_dim = 8, window = 5, sinks = true, rope = rope { dim = 4 } }\n"
    "attention far = gqa { heads = 3, kv_heads = 1, head_dim = 10, clip = 0.5 }\n"
    "ffn = swiglu { hidden = 17, bias = true }\nschedule { attention = [local, far, local] }",
    "layer_norm": "dim = 18, layers = 2, norm = layer { bias = false }, head = untied { bias = true }\n"
    "attention = gqa { heads = 3, qk_norm = head, rope = rope { pairs = interleaved, dim = 4, end = last } }\n"
    "ffn = swiglu { hidden = 30, activation = relu }",
    "narrow_cache": "dim = 24, layers = 4, head = tied, cache = bf16\n"
    "init = normal { std = 0.1, output_by_depth = true }\n"
    "attention wide = gqa { heads = 4, kv_heads = 1, out_bias = true }\nattention local = wide { window = 1 }\n"
    "ffn = swiglu { hidden = 7 }\nschedule { attention = [wide, local * 2, wide] }",
    "latent": "dim = 20, layers = 3\n"
    "attention low = mla { heads = 4, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 2, v_dim = 3, bias = true,\n"
    "  rope = yarn { factor = 4, original = 16, mscale = 0.7, mscale_all_dim = 0.5, pairs = interleaved } }\n"
    "attention wide = mla { heads = 3, kv_rank = 2, nope_dim = 5, rope_dim = 3, v_dim = 10 }\n"
    "ffn = swiglu { hidden = 9 }\nschedule { attention = [low * 2, wide] }",
    "picked_latents": "dim = 20, layers = 3\n"
    "attention low = dsa { heads = 4, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 4, v_dim = 3, bias = true,\n"
    "  rope = rope { pairs = interleaved }, indexer = lightning { heads = 3, head_dim = 6, topk = 5, end = first,\n"
    "  pairs = half, key_norm = layer { eps = 1e-6 } } }\n"
    "attention wide = dsa { heads = 3, q_rank = 7, kv_rank = 2, nope_dim = 5, rope_dim = 3, v_dim = 10,\n"
    "  indexer = lightning { heads = 1, head_dim = 5, topk = 23, loss_weight = 0 } }\n"
    "ffn = swiglu { hidden = 9 }\nschedule { attention = [low * 2, wide] }",
    "rounded_index": "dim = 18, layers = 3\n"
    "attention low = dsa { heads = 2, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 4, v_dim = 3,\n"
    "  rope = rope { pairs = interleaved }, indexer = lightning { heads = 3, head_dim = 8, topk = 5, rounding = fp8,\n"
    "  key_norm = layer { eps = 1e-6 } } }\n"
    "attention swa = windowed { heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6,\n"
    "  window = 5, rope = rope { pairs = interleaved } }\n"
    "attention csa = swa { compress = csa { ratio = 2,\n"
    "  indexer = lightning { heads = 3, head_dim = 16, topk = 5, rounding = fp4 } } }\n"
    "attention staged = swa { compress = csa { ratio = 2, indexer = two_stage { heads = 1, head_dim = 4, topk = 5,\n"
    "  block = 4, blocks = 3, rounding = fp4 } } }\n"
    "ffn = swiglu { hidden = 9 }\nschedule { attention = [low, csa, staged] }",
    "routed": "dim = 18, layers = 4\n"
    "attention = gqa { heads = 3, kv_heads = 1, rope = rope }\n"
    "ffn dense = swiglu { hidden = 21, activation = glu { alpha = 1.3, shift = 0.5, clamp = 1 } }\n"
    "ffn mix = moe { experts = 12, hidden = 11, shared = 2,\n"
    "  router = sigmoid { active = 3, groups = 4, keep_groups = 2, scale = 2.5, balance_weight = 1e-2 } }\n"
    "ffn gated = moe { experts = 5, hidden = 9, shared = 1, shared_hidden = 14, shared_gate = true, names = qwen,\n"
    "  activation = gelu_tanh, router = softmax { active = 2, balance_weight = 1e-1, balance = batch } }\n"
    "ffn clamped = moe { experts = 6, hidden = 10, bias = true, names = gpt_oss,\n"
    "  activation = glu { alpha = 1.702, shift = 1, clamp = 7 },\n"
    "  router = softmax { active = 4, topk_first = true, bias = true } }\n"
    "schedule { ffn = [dense, mix, gated, clamped] }",
    "no_attention": "dim = 16, layers = 3\n"
    "attention full = gqa { heads = 2, rope = yarn { factor = 4, original = 16 } }\n"
    "ffn mix = swiglu { hidden = 40 }\nschedule { attention = [full, none, full], ffn = [none, mix, mix] }",
    "further_token": "dim = 18, layers = 2, norm_placement = both, head = tied\n"
    "attention = gqa { heads = 3, kv_heads = 1, rope = rope, qk_norm = head }\nffn = swiglu { hidden = 20 }\n"
    "mtp = concat { norm = layer { bias = true } }",
    "streams_of_the_paper": "dim = 18, layers = 3, residual = mhc { streams = 3, form = paper, sinkhorn_iters = 4 }\n"
    "attention = gqa { heads = 3, kv_heads = 1, head_dim = 6, window = 9, rope = rope }\n"
    "ffn = swiglu { hidden = 20 }\nmtp = concat { depth = 1 }",
    "streams_mixed_freely": "dim = 18, layers = 3, residual = hc { streams = 3 }\n"
    "attention = gqa { heads = 3, kv_heads = 1, head_dim = 6, rope = rope }\n"
    "ffn = swiglu { hidden = 20 }\nmtp = mtp_streams { depth = 2 }",
    "streams_mixed_alike": "dim = 15, layers = 4, residual = hc { streams = 5, dynamic = false }\n"
    "attention far = gqa { heads = 3, kv_heads = 1, head_dim = 6 }\nffn mix = swiglu { hidden = 20 }\n"
    "schedule { attention = [far * 2, none, far], ffn = [mix, none, mix * 2] }",
    "streams_read_ahead": "dim = 18, layers = 3, residual = mhc { streams = 3, form = single_pass, norm_eps = 1e-20 }\n"
    "attention = gqa { heads = 3, kv_heads = 1, head_dim = 6, rope = rope }\n"
    "ffn = swiglu { hidden = 20 }\nmtp = mtp_streams { depth = 2 }",
    "one_stream": "dim = 15, layers = 2, residual = mhc { streams = 1, hc_eps = 1e-3, norm_eps = 1e-4 }\n"
    "attention = gqa { heads = 3, kv_heads = 1, head_dim = 6 }\nffn = swiglu { hidden = 20 }",
    "further_tokens": "dim = 20, layers = 2\nattention far = gqa { heads = 4, kv_heads = 2, head_dim = 6 }\n"
    "attention local = far { window = 6, sinks = true, rope = rope }\nffn = swiglu { hidden = 30 }\n"
    "schedule { attention = [far, local] }\nmtp = concat { depth = 3, ffn = swiglu { hidden = 12, bias = true } }",
    "further_streams": "dim = 20, layers = 2, residual = mhc { streams = 3 }\n"
    "attention swa = windowed { heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6,\n"
    "  window = 5, rope = rope { pairs = interleaved } }\nattention csa = swa { compress = csa { ratio = 4,\n"
    "  indexer = lightning { heads = 3, head_dim = 8, topk = 3 } } }\nffn = swiglu { hidden = 12 }\n"
    "schedule { attention = [swa, csa] }\nmtp = mtp_streams { depth = 2 }",
    "groups_of_a_channel": "dim = 14, layers = 2\n"
    "attention swa = windowed { heads = 2, head_dim = 6, rope_dim = 2, q_rank = 5, out_groups = 12, out_rank = 3,\n"
    "  window = 7, rope = rope { pairs = interleaved } }\nattention hca = swa { compress = hca { ratio = 8 } }\n"
    "ffn = swiglu { hidden = 11 }\nschedule { attention = [swa, hca] }",
    "two_stages": "dim = 18, layers = 2\n"
    "attention = windowed { heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6,\n"
    "  window = 5, rope = rope { pairs = interleaved }, compress = csa { ratio = 2,\n"
    "  indexer = two_stage { heads = 3, head_dim = 8, topk = 5, block = 4, blocks = 3 } } }\n"
    "ffn = swiglu { hidden = 12 }",
    "chosen_blocks": "dim = 18, layers = 4\n"
    "attention far = nsa { heads = 6, kv_heads = 2, head_dim = 6, v_dim = 5, stride = 2, compress_block = 6,\n"
    "  select_block = 8, blocks = 3, local = 1, window = 7, mapping = plus, gate_hidden = none,\n"
    "  rope = rope { dim = 4, end = last } }\n"
    "attention one = nsa { heads = 3, kv_heads = 1, head_dim = 8, stride = 4, compress_block = 4, select_block = 8,\n"
    "  blocks = 2, initial = 0, window = 1, mapping = minus, gates = shared }\n"
    "attention each = one { kv_heads = 3, stride = 2, compress_block = 4, initial = 1, blocks = 4,\n"
    "  mapping = overlap }\n"
    "ffn = swiglu { hidden = 20 }\nschedule { attention = [far, one, each, far] }",
    "further_stream": "dim = 18, layers = 1, head = tied\nattention = gqa { heads = 3, rope = rope }\n"
    "ffn = swiglu { hidden = 20 }\nmtp = mtp_streams",
    "bypass": "dim = 18, layers = 4\n"
    "attention = gqa { heads = 3, kv_heads = 1, head_dim = 6, rope = rope }\nffn = swiglu { hidden = 20 }\n"
    "memory table = engram { heads = 2, head_dim = 5, rows = 40, taps = 0, bypass = confidence }\n"
    "schedule { memory = table at [1, 2] }",
}
"""What no importer reads, by name."""

PARTS = {
    "": "residual",
    r"\.self_attn": "attention",
    r"\.self_attn\.compressor": "compressor",
    r"\.self_attn\.compressor\.indexer": "indexer",
    r"\.self_attn\.indexer": "indexer of tokens",
    r"\.(memory|bypass)": "memory",
    r"\.mlp": "dense_ffn",
    r"\.mlp\.(gate|router)": "router",
    r"\.mlp\.experts": "experts",
    r"\.mlp\.shared_experts?(_gate)?": "shared_experts",
}
"""What a layer and its modules count as, less what modules inside them count as."""

STORES = {
    "memory_": "memory",
    "compressor_indexer_": "indexer",
    "indexer_": "indexer",
    "compressor_": "compressor",
    "": "attention",
}
"""What the stores of a cache count as, by how their names begin; the first that fits."""

FURTHER = [name for name, text in SPECS.items() if "mtp" in text]

SAME = {"mhc_9b": "mhc_3b", "mhc_27b": "mhc_3b", "engram_40b": "engram_27b"}
"""Specs whose twins are those of others."""

LIBRARY = sorted({path.stem for path in resources.specs().glob("*.arch")} - SAME.keys())
IMPORTED = {str(c): c for family in ("llama", "qwen3", "olmo2") for c in cases(family)[::2]}
SPAN = 40
"""Tokens in a row: more than any window of these specs but one."""


def model_of(name: str) -> Model:
    """A small model by the name of its spec, its config, or its text."""
    if name in LIBRARY:
        return shrink(archc.load(name))
    if name in SPECS:
        return load_text(f"{HEAD}{SPECS[name]}\n}}\n")[0]
    case = IMPORTED[name]
    text, _ = convert({"model_type": case.family, **case.keywords}, "spec")
    return load_text(text)[0]


@pytest.mark.parametrize("name", SAME)
def test_twins_that_are_left_out_are_the_same(name: str) -> None:
    one, other = (shrink(archc.load(n)).model_dump(exclude={"name", "doc"}) for n in (name, SAME[name]))
    assert one == other


class Both:
    """A planned model and its package."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model = model
        self.graph: Graph = plan(model)
        self.package = built(model, folder)

    @cached_property
    def module(self) -> Any:
        return self.package.Model()

    @cached_property
    def wide(self) -> Any:
        """The module in float64, with weights that matter."""
        module = self.package.Model(dtype=torch.float64)
        randomise(module)
        return module.eval()

    def tokens(self, batch: int, columns: int) -> Tensor:
        return torch.randint(self.model.vocab, (batch, columns), generator=torch.Generator().manual_seed(columns))

    def executed(self, mode: Any, batch: int, seq: int, context: int) -> Any:
        return count(self.model, self.graph, mode=mode, batch=batch, seq=seq, context=context).flops.executed


@pytest.fixture(scope="module", params=[*LIBRARY, *SPECS, *IMPORTED])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(model_of(request.param), tmp_path_factory.mktemp(request.param))


def test_the_graph_is_sound(both: Both) -> None:
    verify(both.graph)


# --- parameters ----------------------------------------------------------------------------------
def test_parameters(both: Both) -> None:
    planned = {p.name: p.spec for p in both.graph.parameters()}
    trainable = dict(both.module.named_parameters())
    assert {name: spec.shape for name, spec in planned.items() if not spec.buffer} == {
        name: tuple(p.shape) for name, p in trainable.items()
    }
    assert {name for name, spec in planned.items() if spec.buffer} == {name for name, _ in both.module.named_buffers()}
    counted = count(both.model, both.graph).params
    ahead = sum(p.numel() for name, p in trainable.items() if name.startswith("mtp."))
    assert counted.mtp == counted.by_component["mtp"] == ahead
    assert (ahead > 0) == (both.model.mtp is not None)
    assert counted.total == sum(p.numel() for p in trainable.values()) - ahead


# --- FLOPs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 3])
def test_flops_of_training(both: Both, batch: int) -> None:
    ids = both.tokens(batch, SPAN)
    with counted() as mode:
        both.module(ids, labels=ids).loss.backward()
    assert mode.get_total_flops() == both.executed("train", batch, SPAN, SPAN).workload_total


@pytest.mark.parametrize(("batch", "past", "new"), [(2, 0, SPAN), (2, 20, 9), (1, 3, 2), (3, 38, 5)])
def test_flops_of_prefill(both: Both, batch: int, past: int, new: int) -> None:
    _, mode = _cached(both, batch, past, new)
    assert mode.get_total_flops() == both.executed("prefill", batch, new, past + new).workload_total


@pytest.mark.parametrize(("batch", "past"), [(1, 0), (2, 3), (3, SPAN)])
def test_flops_of_decoding(both: Both, batch: int, past: int) -> None:
    _, mode = _cached(both, batch, past, 1)
    assert mode.get_total_flops() == both.executed("decode", batch, 1, past + 1).workload_total


def test_flops_by_component(both: Both) -> None:
    """What every module runs is what the plan says of its component."""
    _, mode = _cached(both, 2, 0, SPAN)
    run = dict.fromkeys(PARTS.values(), 0)
    for name, counts in mode.get_flop_counts().items():
        for part, component in PARTS.items():
            if re.fullmatch(rf".*layers\.\d+{part}", name):
                run[component] += sum(counts.values())
    # Of the backbone only the residual path multiplies what is no layer's: at the end
    run["residual"] = sum(mode.get_flop_counts()["Model.model"].values())
    run["residual"] -= run["attention"] + run["dense_ffn"] + run["memory"]
    run["attention"] -= run["compressor"] + run["indexer of tokens"]
    run["compressor"] -= run["indexer"]
    run["indexer"] += run.pop("indexer of tokens")
    run["dense_ffn"] -= run["router"] + run["experts"] + run["shared_experts"]  # parts of a mixture
    run["head"] = mode.get_total_flops() - sum(run.values())
    planned = both.executed("prefill", 2, SPAN, SPAN).by_component
    assert {component: flops for component, flops in planned.items() if flops} == {c: n for c, n in run.items() if n}


@torch.no_grad()
def _cached(both: Both, batch: int, past: int, new: int) -> tuple[Tensor, FlopCounterMode]:
    ids = both.tokens(batch, past + new)
    cache = both.module.new_cache(batch, past + new)
    if past:
        both.module(ids[:, :past], cache=cache)
    with counted() as mode:
        return both.module(ids[:, past:], cache=cache).logits, mode


@torch.no_grad()
def test_flops_of_further_tokens(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are labels, and then as much as the plan says, products with the head included."""
    monkeypatch.setattr(both.module, "index_stage", "off")
    ids = both.tokens(2, SPAN)
    runs = []
    for labels in (None, ids):
        with counted() as mode:
            both.module(ids, labels=labels)
        runs.append(mode.get_total_flops())
    trained = both.executed("train", 2, SPAN, SPAN)
    assert runs[0] == trained.forward_per_token * 2 * SPAN
    # Forward and backward of a module are three times its forward, but for scores that are computed again, and for
    # those of a choice, which have no gradient.
    more, least = runs[1] - runs[0], 2.9 if both.module.has_indexers else 3
    assert least * more <= trained.by_component["mtp"] <= 3.5 * more
    assert both.executed("prefill", 2, SPAN, SPAN).by_component["mtp"] == 0
    kv = count(both.model, both.graph, mode="decode").kv_cache
    assert kv.by_component["mtp"] == 0


# --- bytes ---------------------------------------------------------------------------------------
def stored(both: Both) -> list[Model]:
    """The model with a cache of each layout that its package takes."""
    packed = {store.packing.layout for _, _, store in both.graph.states() if store.packing is not None}
    caches = [cast("type[Cache]", drawer_class("cache", kind))() for kind in kinds("cache")]
    return [both.model.model_copy(update={"cache": c}) for c in caches if not c.packs or c.kind in packed]


@pytest.mark.parametrize(("batch", "context"), [(1, 1), (2, 7), (3, 90)])
def test_cache_bytes(both: Both, batch: int, context: int) -> None:
    for model in stored(both):
        planned = count(model, both.graph, mode="decode", batch=batch, context=context).kv_cache
        cache = both.module.new_cache(batch, context, layout=planned.layout)
        stores = [(name, store.data) for layer in cache.layers for name, store in vars(layer).items()]
        held = sum(t.untyped_storage().nbytes() for t in (cache.lengths, *(data for _, data in stores)))
        assert held == cache.bytes() == planned.bytes_total
        # Beside the stores there is only the length of each row.
        by_component = dict.fromkeys(STORES.values(), 0)
        for name, data in stores:
            component = next(c for start, c in STORES.items() if name.startswith(start))
            by_component[component] += data.untyped_storage().nbytes()
        assert sum(by_component.values()) == held - 8 * batch
        assert by_component == {c: planned.by_component[c] for c in by_component}


def test_cache_bytes_grow_as_the_plan_says(both: Both) -> None:
    """By as many tokens as complete a group of every compressor, where every window is full.

    A token has a third of the bytes that a group of three keeps, so products are rounded in the last place.
    """
    more = math.lcm(*(store.every for _, _, store in both.graph.states() if isinstance(store, Table)))
    wide = max((store.keep for _, _, store in both.graph.states() if isinstance(store, Ring)), default=0)
    long = -(-(wide + 100) // more) * more
    for model in stored(both):
        planned = count(model, both.graph, mode="decode", context=long).kv_cache
        small, large = (both.module.new_cache(1, n, layout=planned.layout).bytes() for n in (long, long + more))
        grown, whole = more * planned.bytes_per_token, (long + more) * planned.bytes_per_token
        assert large - small == pytest.approx(grown, rel=1e-14)
        assert large == pytest.approx(whole + planned.bytes_per_sequence_fixed, rel=1e-14)


def test_a_cache_of_another_layout_is_refused(both: Both) -> None:
    """Rather than made of what the package does not store."""
    taken = {model.cache.kind for model in stored(both)}
    assert {"bf16", "fp32"} <= taken
    for layout in {*kinds("cache"), "fp7"} - taken:
        with pytest.raises(ValueError, match=f"layout is '{layout}'; this package stores bf16"):
            both.module.new_cache(1, 4, layout=layout)


# --- numbers -------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("chunks", [None, (SPAN,), (7, 1, 1, 20, 11)], ids=str)
def test_the_graph_gives_the_logits_of_the_module(both: Both, chunks: tuple[int, ...] | None) -> None:
    """The interpreter knows nothing of how modules are printed."""
    runtime = _runtime()
    interpreter = Interpreter(both.graph, dict(both.wide.state_dict()))
    ids = both.tokens(2, SPAN)
    ours = None if chunks is None else both.wide.new_cache(2, SPAN)
    theirs = None if chunks is None else interpreter.new_cache(2, SPAN)
    assert ours is None or theirs is None or ours.bytes() == theirs.bytes()
    for part in ids.split(chunks or (SPAN,), 1):
        rows = runtime.Rows.whole(part)
        (got,) = interpreter.run(part, runtime.time_of(rows, None, theirs), theirs)
        if theirs is not None:
            theirs.advance(rows.count, rows.known)
        want = both.wide(part, cache=ours).logits
        assert got.dtype == want.dtype == torch.float64
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * max(1.0, want.abs().max().item()))


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_the_graph_sees_rows_as_the_module_does(both: Both, packed: bool) -> None:
    runtime = _runtime()
    interpreter = Interpreter(both.graph, dict(both.wide.state_dict()))
    ids = both.tokens(2, SPAN)
    sequences = torch.zeros_like(ids)
    sequences[0, 3:17], sequences[0, 20:] = 1, 2 if packed else 1
    sequences[1, :31] = 5
    given = {"sequence_ids": sequences} if packed else {"attention_mask": sequences.clamp(max=1)}
    rows = runtime.rows_of(ids, cache=None, **given)
    (got,) = interpreter.run(rows.pack(ids), runtime.time_of(rows, None, None))
    want = both.wide(ids, **given).logits
    at = sequences > 0
    torch.testing.assert_close(
        rows.unpack(got)[at], want[at], rtol=0, atol=1e-12 * max(1.0, want[at].abs().max().item())
    )


@torch.no_grad()
@pytest.mark.parametrize("both", FURTHER, indirect=True, scope="module")
def test_the_graph_predicts_further_tokens_as_the_module_does(both: Both) -> None:
    """Each module of prediction on anything of the shape it reads, whole and in chunks with a cache of its own."""
    runtime = _runtime()
    interpreter = Interpreter(both.graph, dict(both.wide.state_dict()))
    for depth in range(len(both.wide.mtp)):
        ids = both.tokens(2, SPAN)
        generator = torch.Generator().manual_seed(depth)
        read = [n for n in both.graph.predictions()[depth].args[0].shape if isinstance(n, int)]
        carried = torch.randn(2, SPAN, *read, dtype=torch.float64, generator=generator)
        rows = runtime.Rows.whole(ids)
        time = runtime.time_of(rows, None, None)
        *want, logits = interpreter.ahead(depth, carried, ids, time)
        step = both.wide.step(ids, time, None)
        got = runtime.pair(both.wide.ahead(depth, carried, step))
        torch.testing.assert_close(list(got), want, rtol=0, atol=1e-12)
        torch.testing.assert_close(both.wide.head(want[0]), logits, rtol=0, atol=1e-12)
        cache = both.wide.draft_cache(depth, 2, SPAN, 4)
        for start, stop in ((0, 7), (7, 8), (8, SPAN)):
            rows = runtime.Rows.whole(ids[:, start:stop])
            step = both.wide.step(ids[:, start:stop], runtime.time_of(rows, None, cache), cache)
            got = runtime.pair(both.wide.ahead(depth, carried[:, start:stop], step))
            cache.advance(rows.count, rows.known)
            torch.testing.assert_close(list(got), [x[:, start:stop] for x in want], rtol=0, atol=1e-12)


def _runtime() -> ModuleType:
    """The run time before a build copies it into a package."""
    return import_module(f"{torch_package().__name__}.runtime.model")
