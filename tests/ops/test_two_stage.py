"""What a search in two stages costs, against counting one token at a time; shape rules."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archc.ops import OPS, B, S, ShapeError, T, Type, Workload
from archc.ops.sparse import IndexTopk
from archc.ops.two_stage import BlockMeans, TwoStageTopk, searched

W = st.builds(Workload, batch=st.integers(1, 3), new=st.integers(1, 60), past=st.integers(0, 90), cached=st.just(True))


@given(w=W, every=st.integers(1, 5), block=st.integers(1, 5), keep=st.integers(2, 5))
@example(w=Workload(batch=1, new=60), every=1, block=1, keep=2)
def test_what_is_searched(w: Workload, every: int, block: int, keep: int) -> None:
    pairs = 0
    for t in range(w.past, w.past + w.new):
        seen = (t + 1) // every
        parts = [min(block, seen - i) for i in range(0, seen, block)]
        few = len(parts) <= keep
        pairs += seen if few else len(parts) - 2 + (keep - 1) * block + parts[-1]
    assert searched(w, every=every, block=block, keep=keep) == w.batch * pairs


def operands(every: int, block: int) -> tuple[Type, ...]:
    """Those of DeepSeek-V3.2's sizes."""
    keys, means = Type((B, T // every, 128)), Type((B, T // (every * block), 128))
    return Type((B, S, 64, 128)), keys, means, Type((B, S, 64)), Type((), "none")


def test_decoding_at_128k_takes_a_fourteenth_of_the_flops() -> None:
    """Of 131,072 tokens 64 blocks of 128 are scored, and 1,022 keys of blocks: the flat index scores all tokens."""
    w = Workload(batch=1, new=1, past=(1 << 17) - 1, cached=True)
    ins = operands(1, 128)
    staged = TwoStageTopk(k=2048, block=128, keep=64)
    flat = IndexTopk(k=2048)
    few, all_ = (op.cost(w, types, (op.infer(*types),)) for op, types in ((staged, ins), (flat, (*ins[:2], *ins[3:]))))
    assert few.useful == 2 * 64 * 128 * (1022 + 64 * 128)
    assert few.executed == 2 * 64 * 129 * (1022 + 64 * 128)
    assert all_.executed / few.executed == pytest.approx(131_072 / 9_214)
    # Of index keys it reads those of the chosen blocks, and one for every block.
    assert all_.read - few.read == 2 * 128 * (131_072 - 64 * 128 - 1024)


def test_prefill_of_a_million_tokens_is_counted_in_no_time() -> None:
    w = Workload(batch=1, new=1 << 20, cached=True)
    start = time.process_time()
    op, ins = TwoStageTopk(k=512, every=4, block=64, keep=32), operands(4, 64)
    cost = op.cost(w, ins, (op.infer(*ins),))
    assert cost.useful < cost.executed < 1.05 * cost.useful
    assert time.process_time() - start < 0.05


def test_a_mean_is_made_when_its_block_closes() -> None:
    op, keys = BlockMeans(block=4, every=2), Type((B, T // 2, 6))
    out = op.infer(keys, Type((), "none"))
    sizes = [
        op.cost(Workload(batch=3, new=1, past=past, cached=True), (keys, Type((), "none")), (out,))
        for past in range(24)
    ]
    closes = [past for past, cost in enumerate(sizes) if cost.written]
    assert closes == [7, 15, 23]
    assert {(sizes[past].read, sizes[past].written) for past in closes} == {(3 * 4 * 6 * 2, 3 * 6 * 2)}
    assert not any(cost.read for past, cost in enumerate(sizes) if past not in closes)


@pytest.mark.parametrize(
    ("kind", "fields", "ins", "message"),
    [
        ("block_means", {"block": 2}, [(B, T, 3, 8), ()], "one key for each entry"),
        (
            "two_stage_topk",
            {"k": 2, "block": 2, "keep": 2},
            [(B, S, 3, 8), (B, T, 8), (B, T // 2, 6), (B, S, 3), ()],
            "block keys have 6 channels, index keys 8",
        ),
        (
            "two_stage_topk",
            {"k": 2, "block": 2, "keep": 1},
            [(B, S, 3, 8), (B, T, 8), (B, T // 2, 8), (B, S, 3), ()],
            "the first and the newest are always kept",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(kind: str, fields: dict, ins: list, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        OPS[kind](**fields).infer(*(Type(shape) for shape in ins))
