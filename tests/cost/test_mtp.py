"""What predicts further tokens costs in training only: DeepSeek-V3's module, by published figures and by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import archc
from archc.cost.explain import explain
from archc.cost.report import Report
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model

D, VOCAB, HEADS, SEQ = 7168, 129_280, 128, 4096


def spec(mtp: str) -> Model:
    text = f"""arch 1
model v3 {{
  vocab = {VOCAB}, dim = {D}, layers = 61, context = 163_840
  attention = mla {{
    heads = {HEADS}, q_rank = 1536, kv_rank = 512, nope_dim = 128, rope_dim = 64, v_dim = 128
    rope = yarn {{ factor = 40, original = 4096, mscale = 1, mscale_all_dim = 1, pairs = interleaved }}
  }}
  ffn dense = swiglu {{ hidden = 18_432 }}
  ffn sparse = moe {{
    experts = 256, hidden = 2048, shared = 1
    router = sigmoid {{ active = 8, groups = 8, keep_groups = 4, scale = 2.5 }}
  }}
  schedule {{ ffn = [dense * 3, sparse * 58] }}
  mtp = {mtp}
}}
"""
    return load_text(text)[0]


@cache
def report(mtp: str, mode: Any, **workload: int) -> Report:
    return archc.cost(spec(mtp), mode=mode, **workload)


def test_parameters_are_counted_apart() -> None:
    """The model has the parameters that DeepSeek published, the module those that its checkpoint adds."""
    found = report("concat", "decode").params
    assert found.total == 671_026_404_352
    assert found.mtp == found.by_component["mtp"] == 11_610_067_968
    without = report("none", "decode").params
    assert without.mtp == 0
    for name in ("total", "active", "active_without_embedding", "active_core", "buffers"):
        assert getattr(found, name) == getattr(without, name), name
    assert report("concat { depth = 2 }", "decode").params.mtp == 2 * 11_610_067_968


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_without_labels_it_costs_nothing(mode: str) -> None:
    found, without = (report(mtp, mode, seq=SEQ if mode == "prefill" else 1, context=SEQ) for mtp in ("concat", "none"))
    assert found.kv_cache == without.kv_cache
    assert found.kv_cache.bytes_per_token == 70_272
    assert found.flops.ideal.forward_per_token == without.flops.ideal.forward_per_token
    assert found.flops.executed.workload_total == without.flops.executed.workload_total


def test_a_module_by_hand() -> None:
    """Multiply-adds of a token: both halves joined, one layer with 8 + 1 experts of 256, and the head once more."""
    attention = D * 1536 + 1536 * HEADS * 192 + D * 576 + 512 * HEADS * 256 + HEADS * 128 * D
    seen = (SEQ + 1) * HEADS * (192 + 128) // 2
    experts = 256 * D + 9 * 3 * 2048 * D
    forward = 2 * (2 * D * D + attention + seen + experts + VOCAB * D)
    found = report("concat", "train", seq=SEQ)
    assert found.flops.ideal.by_component["mtp"] == 3 * forward * SEQ
    without = report("none", "train", seq=SEQ)
    assert found.flops.ideal.workload_total - without.flops.ideal.workload_total == 3 * forward * SEQ
    for per_token in ("forward_per_token", "train_per_token"):
        for kind in ("ideal", "executed"):
            counts = (getattr(getattr(r.flops, kind), per_token) for r in (found, without))
            assert len(set(counts)) == 1, "FLOPs a token are those of the model without its modules"
    added = [text for text in found.assumptions if text not in without.assumptions]
    assert len(added) == 1 and added[0].startswith("mtp: ")


def test_a_module_that_reads_streams_by_hand() -> None:
    """DeepSeek-V4-Flash: the embedding projected once, each of the four streams for itself, one layer with a window of
    128 and 6 + 1 experts of 256 between hyper-connections, the module's own collapse, and the head once more.
    """
    dim, heads, width, n = 4096, 64, 512, 4
    attention = dim * 1024 + 1024 * heads * width + dim * width + heads * width * 1024 + 8 * 1024 * dim
    seen = sum(min(t + 1, 128) for t in range(SEQ)) * 2 * heads * width // SEQ
    experts = 256 * dim + 7 * 3 * 2048 * dim
    mixing = 2 * ((2 + n) * n * n * dim + n * dim + n * n * dim) + n * n * dim + n * dim
    forward = 2 * ((1 + n) * dim * dim + attention + seen + experts + mixing + VOCAB * dim)
    found = archc.cost(archc.load("deepseek_v4_flash"), mode="train", seq=SEQ)
    assert found.flops.ideal.by_component["mtp"] == 3 * forward * SEQ


@pytest.mark.parametrize(
    ("mode", "key"),
    [
        ("decode", "params.mtp"),
        ("decode", "params.total"),
        ("decode", "params.buffers"),
        ("decode", "flops.ideal.workload_total"),
        ("decode", "flops.ideal.train_per_token"),
        ("decode", "kv_cache.bytes_total"),
        ("train", "flops.executed.by_component.mtp"),
        ("train", "flops.ideal.forward_per_token"),
        ("train", "flops.executed.workload_total"),
    ],
)
def test_figures_are_the_sum_of_their_terms(mode: Any, key: str) -> None:
    model = spec("concat { depth = 2 }")
    graph = plan(model)
    found = explain(model, graph, archc.cost(model, mode=mode, batch=2, graph=graph), key)
    assert sum(t.total for t in found.terms) / found.over == pytest.approx(found.value)
    assert found.terms
