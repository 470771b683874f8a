"""Attention over blocks of tokens: costs at the sizes of the paper, and shapes that do not fit."""

from __future__ import annotations

import time

import pytest

from archc.ops import OPS, B, S, ShapeError, T, Type, Workload
from archc.ops.blocks import BlockAttention, CompressedAttention

SIZES = {"every": 16, "size": 32, "select": 64, "count": 16, "initial": 1, "local": 2}
PICKS = (B, S, 4, 16)


def compressed() -> tuple[CompressedAttention, tuple[Type, ...]]:
    """The op of the paper's model, and the types of its operands."""
    shapes = [(B, S, 64, 192), (B, T // 16, 4, 192), (B, T // 16, 4, 128)]
    return CompressedAttention(scale=192**-0.5, **SIZES), (*map(Type, shapes), Type((), "none"))


def chosen() -> tuple[BlockAttention, tuple[Type, ...]]:
    """The same of what it chooses."""
    shapes = [(B, S, 64, 192), (B, T, 4, 192), (B, T, 4, 128)]
    picks = compressed()[0].infer(*compressed()[1])[1]
    return BlockAttention(scale=192**-0.5, size=64), (*map(Type, shapes), picks, Type((), "none"))


def test_a_token_chooses_no_more_blocks_than_there_are() -> None:
    op, ins = compressed()
    out, picks = op.infer(*ins)
    assert (str(out), str(picks), picks.dtype) == ("[B, S, 64, 128]", "[B, S, 4, min(16, (T+63)//64)]", "int")


def test_useful_pairs_of_a_row_of_64_tokens() -> None:
    """Entries end with tokens 32, 48 and 64, counted from 1: 16, 16 and 1 tokens see 1, 2 and 3 of them."""
    op, ins = compressed()
    cost = op.cost(Workload(batch=1, new=64), ins, op.infer(*ins))
    pairs = 16 * 1 + 16 * 2 + 1 * 3
    assert cost.useful == 2 * 64 * (192 + 128) * pairs
    block, ins = chosen()
    cost = block.cost(Workload(batch=1, new=64), ins, (block.infer(*ins),))
    assert cost.useful == 2 * 64 * (192 + 128) * 64 * 65 // 2


def test_prefill_of_a_million_tokens_is_counted_in_no_time() -> None:
    w = Workload(batch=1, new=1 << 20, cached=True)
    start = time.process_time()
    op, ins = compressed()
    cost = op.cost(w, ins, op.infer(*ins))
    assert cost.useful < cost.executed < 1.1 * cost.useful
    block, ins = chosen()
    cost = block.cost(w, ins, (block.infer(*ins),))
    assert cost.useful < cost.executed < 1.1 * cost.useful
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize(
    ("kind", "fields", "ins", "message"),
    [
        ("token_blocks", {"every": 4, "size": 6}, [(B, S, 2, 8), ()], "blocks of 6 tokens do not end every 4"),
        ("token_blocks", {"every": 4, "size": 8}, [(B, S, 8), ()], "tokens with heads"),
        ("compressed_attention", {}, [(B, S, 4, 8), (B, T // 16, 2, 6), (B, T // 16, 2, 8), ()], "8 channels, keys 6"),
        ("compressed_attention", {}, [(B, S, 4, 8), (B, T // 16, 3, 8), (B, T // 16, 3, 8), ()], "3 key heads"),
        ("compressed_attention", {"select": 60}, [(B, S, 4, 8), (B, T, 2, 8), (B, T, 2, 8), ()], "select = 60 tokens"),
        ("block_attention", {"size": 4}, [(B, S, 4, 8), (B, T, 2, 8), (B, T, 2, 8), (B, S, 4, 3), ()], "key heads of"),
        ("block_attention", {"size": 4}, [(B, S, 4, 8), (B, T, 2, 8), (B, S, 2, 8), PICKS, ()], "keys .* and values"),
    ],
)
def test_shapes_that_do_not_fit_are_named(kind: str, fields: dict, ins: list, message: str) -> None:
    given = {"scale": 1.0, **SIZES, **fields} if kind == "compressed_attention" else dict(fields)
    given |= {"scale": 1.0} if kind == "block_attention" else {}
    with pytest.raises(ShapeError, match=message):
        OPS[kind](**given).infer(*(Type(shape) for shape in ins))
