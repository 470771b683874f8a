"""The library's Llama 3.1 specs, against the public config.json of the models."""

from __future__ import annotations

import time

import pytest

from archc.resolve import load

# vocab, dim, layers, heads, key-value heads, hidden: meta-llama/Llama-3.1-{8,70,405}B config.json
PUBLISHED = {
    "llama_3_1_8b": (128_256, 4096, 32, 32, 8, 14_336),
    "llama_3_1_70b": (128_256, 8192, 80, 64, 8, 28_672),
    "llama_3_1_405b": (128_256, 16_384, 126, 128, 8, 53_248),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_llama_has_its_published_sizes(name: str) -> None:
    model = load(name)
    attention, ffn = model.schedule[0].attention, model.schedule[0].ffn
    assert (model.vocab, model.dim, model.layers, attention.heads, attention.kv_heads, ffn.hidden) == PUBLISHED[name]
    assert attention.head_dim == 128
    assert attention.dim == ffn.dim == model.dim
    assert model.context == 131_072
    assert model.norm.eps == 1e-5
    rope = attention.rope
    assert (rope.kind, rope.theta, rope.factor, rope.low, rope.high, rope.original) == (
        "llama3",
        5e5,
        8.0,
        1.0,
        4.0,
        8192,
    )
    assert len(model.schedule) == model.layers
    assert all(layer is model.schedule[0] for layer in model.schedule)
    assert model.schedule[0].memory is None


def test_extending_through_an_import_keeps_the_chain_of_spans() -> None:
    attention = load("llama_3_1_70b").schedule[0].attention
    here, base = attention.origin.fields["heads"]
    assert (here.source.name.endswith("llama_3_1_70b.arch"), here.text) == (True, "64")
    assert (base.source.name.endswith("llama_3_1_8b.arch"), base.text) == (True, "32")
    assert [s.text for s in attention.origin.fields["kv_heads"]] == ["8"]
    assert "head_dim" not in attention.origin.fields


def test_equal_models_have_equal_hashes_and_different_ones_do_not() -> None:
    assert load("llama_3_1_8b").spec_hash == load("llama_3_1_8b").spec_hash
    assert len({load(name).spec_hash for name in PUBLISHED}) == 3
    assert load("llama_3_1_8b", set={"norm.eps": "1e-6"}).spec_hash != load("llama_3_1_8b").spec_hash
    assert load("llama_3_1_8b", set={"norm.eps": "1 / 100_000"}).spec_hash == load("llama_3_1_8b").spec_hash


def test_resolving_takes_milliseconds() -> None:
    load("llama_3_1_8b")
    times = []
    for _ in range(5):
        start = time.process_time()
        load("llama_3_1_8b")
        times.append(time.process_time() - start)
    # 4 ms of processor time on an idle machine, where the budget is 10; the rest is for a busy one
    assert min(times) < 0.03
