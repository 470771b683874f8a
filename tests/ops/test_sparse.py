"""Costs of sparse attention, index scores and experts against counting one query at a time; shape rules."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.ops import OPS, B, S, ShapeError, T, Type, Workload
from archc.ops.base import numel
from archc.ops.expert import Combine, Dispatch, GroupedLinear
from archc.ops.sparse import IndexDivergence, IndexTopk, SparseAttention, visible_entries
from archc.ops.time import closing, kept

W = st.builds(Workload, batch=st.integers(1, 3), new=st.integers(1, 40), past=st.integers(0, 60), cached=st.just(True))


@given(w=W, every=st.integers(1, 9), most=st.one_of(st.none(), st.integers(0, 12)))
def test_visible_entries(w: Workload, every: int, most: int | None) -> None:
    seen = [(t + 1) // every for t in range(w.past, w.past + w.new)]
    assert visible_entries(w, every, most) == w.batch * sum(n if most is None else min(n, most) for n in seen)


def attention(every: int, *, picks: int | None) -> tuple[SparseAttention, tuple[Type, ...]]:
    """The op of DeepSeek-V4-Flash, and the types of its operands."""
    op = SparseAttention(scale=512**-0.5, window=128, every=every)
    ins = [Type((B, S, 64, 512)), Type((B, kept(127), 512)), Type((), "none"), Type((64,), "fp32")]
    ins.append(Type((B, T // every, 512)))
    if picks:
        ins.append(Type((B, S, picks), "int"))
    return op, tuple(ins)


def test_decode_of_v4_flash_costs_its_window_and_picks() -> None:
    """One token at 1M: 128 keys of the window and 512 picked entries, read once each in bfloat16."""
    op, ins = attention(4, picks=512)
    cost = op.cost(Workload(batch=1, new=1, past=(1 << 20) - 1, cached=True), ins, (op.infer(*ins),))
    assert cost.executed == cost.useful == 4 * 64 * 512 * (128 + 512)
    q, sinks, picks = 64 * 512 * 2, 64 * 4, 512 * 8
    assert cost.read == q + 128 * 512 * 2 + sinks + 512 * 512 * 2 + picks
    assert cost.written == q
    bare = SparseAttention(scale=op.scale, window=128, every=4, sink=False)
    types = (*ins[:3], *ins[4:])
    assert bare.infer(*types) == op.infer(*ins)
    without = bare.cost(Workload(batch=1, new=1, past=(1 << 20) - 1, cached=True), types, (bare.infer(*types),))
    assert (without.executed, without.read) == (cost.executed, cost.read - sinks)


def test_prefill_of_a_million_tokens_is_counted_in_no_time() -> None:
    w = Workload(batch=1, new=1 << 20, cached=True)
    start = time.process_time()
    for every, picks in ((4, 512), (128, None)):
        op, ins = attention(every, picks=picks)
        cost = op.cost(w, ins, (op.infer(*ins),))
        assert cost.useful < cost.executed < 1.5 * cost.useful
    index = IndexTopk(k=512, every=4)
    ins = (Type((B, S, 64, 128)), Type((B, T // 4, 128)), Type((B, S, 64)), Type((), "none"))
    scored = 64 * (128 + 1) * (1 << 40) / 4  # a product of 128 channels each, and one of heads with their weights
    assert index.cost(w, ins, (index.infer(*ins),)).executed == pytest.approx(scored, rel=1e-4)
    assert time.process_time() - start < 0.05


@given(batch=st.integers(1, 3), new=st.integers(1, 40), every=st.integers(1, 9), picks=st.one_of(st.none(), st.just(4)))
def test_the_index_loss_needs_two_products_for_every_entry_attended_to(
    batch: int, new: int, every: int, picks: int | None
) -> None:
    """The gradients of index queries and keys; it runs the scores and the logits of attention again."""
    heads, dim, index_heads, index_dim = 3, 8, 2, 5
    op = IndexDivergence(weight=1.0, scale=1.0, every=every)
    ins = [(B, S, index_heads, index_dim), (B, T // every, index_dim), (B, S, index_heads), (B, S, heads, dim)]
    types = [Type(s) for s in (*ins, (B, T // every, dim), (B, S, heads), ())]
    if picks is not None:
        types.append(Type((B, S, picks), "int"))
    cost = op.cost(Workload(batch=batch, new=new), tuple(types), ())
    attended = batch * sum(min((t + 1) // every, picks or new) for t in range(new))
    one = 2 * index_heads * index_dim
    assert (cost.useful, cost.useful_backward) == (0, 2 * one * attended)
    many = picks is not None and new // every > 2 * picks  # else all entries are scored, rows this short in one block
    pairs = batch * new * (picks if many and picks else new // every)
    assert (cost.executed, cost.backward) == ((one + 2 * heads * dim) * pairs, 2 * one * pairs)
    cached = op.cost(Workload(batch=batch, new=new, cached=True), tuple(types), ())
    assert not (cached.executed or cached.backward or cached.useful_backward or cached.read)


@pytest.mark.parametrize("inputs_first", [False, True])
def test_experts_read_those_that_a_batch_is_expected_to_choose(inputs_first: bool) -> None:
    """The first product of DeepSeek-V3's experts, with the biases of gpt-oss."""
    op = GroupedLinear(out=4096, active=8, bias=True, inputs_first=inputs_first)
    ins = (Type((B * S * 8, 7168)), Type((256,), "int"))
    specs = op.params("gate_up_proj", *ins)
    assert [p.name for p in specs] == ["gate_up_proj", "gate_up_proj_bias"]
    assert specs[0].shape == ((256, 7168, 4096) if inputs_first else (256, 4096, 7168))
    assert {p.share for p in specs} == {(8, 256)}
    ins += tuple(Type(p.shape) for p in specs)
    one = (4096 * 7168 + 4096) * 2
    single, many = (op.cost(Workload(batch=n, new=1), ins, (op.infer(*ins),)) for n in (1, 4096))
    assert single.executed == single.useful == 2 * 8 * 4096 * 7168
    assert single.backward == 2 * single.executed
    assert single.read == pytest.approx(8 * one + 8 * 7168 * 2 + 256 * 8)
    assert many.read == pytest.approx(256 * one + 4096 * 8 * 7168 * 2 + 256 * 8)
    assert single.written == 8 * 4096 * 2


def test_rows_of_experts() -> None:
    """Three choices of each token; the sum is of the shape of the weights."""
    x, ids, weights = Type((B, S, 5)), Type((B, S, 3), "int"), Type((B, S, 3), "fp32")
    rows, order, ends = Dispatch(experts=7).infer(x, ids)
    assert (str(rows), str(order), str(ends)) == ("[B*S*3, 5]", "[B*S*3]", "[7]")
    assert numel(rows.shape, Workload(batch=2, new=9)) == 2 * 9 * 3 * 5
    assert Combine().infer(Type((rows.shape[0], 6)), weights, order) == Type((B, S, 6))


@pytest.mark.parametrize(
    ("kind", "fields", "ins", "message"),
    [
        (
            "group_pool",
            {"overlap": True},
            [(B, closing(4), 8, 10)] * 2 + [(B, closing(4), 8), (5, 10)],
            "groups of 5 tokens",
        ),
        ("group_pool", {}, [(B, closing(4), 4, 10)] * 2 + [(B, closing(4), 4), (4, 12)], "12 channels"),
        ("index_topk", {"k": 2}, [(B, S, 3, 8), (B, T // 4, 6), (B, S, 3), ()], "8 channels, index keys 6"),
        (
            "sparse_attention",
            {"scale": 1.0, "window": 4},
            [(B, S, 3, 8), (B, S, 6), (), (3,)],
            "8 channels, window keys 6",
        ),
        ("group_mask", {"groups": 3, "keep": 2}, [(B, S, 8)], "3 groups do not divide 8 experts"),
        ("topk", {"k": 9}, [(B, S, 8)], "chooses 9 of 8"),
        ("sinkhorn", {"iters": 3, "eps": 0.0}, [(B, S, 3, 4)], "square"),
    ],
)
def test_shapes_that_do_not_fit_are_named(kind: str, fields: dict, ins: list, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        OPS[kind](**fields).infer(*(Type(shape) for shape in ins))
