"""Costs of attention over latents: which form is cheaper, what grows with the context, shape rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.ops import Cost, S, ShapeError, T, Type, Workload
from archc.ops.base import B
from archc.ops.latent import LatentAttend, crossover

NONE = Type((), "none")


def cost(
    w: Workload,
    *,
    absorb: int | None,
    heads: int = 128,
    latent: int = 512,
    nope: int = 128,
    rope: int = 64,
    v: int = 128,
) -> Cost:
    """Of the op with the sizes of DeepSeek-V3."""
    op = LatentAttend(nope=nope, scale=1.0, absorb=absorb)
    ins = (
        Type((B, S, heads, nope + rope)),
        Type((B, T, latent + rope)),
        Type((heads * (nope + v), latent)),
        NONE,
    )
    return op.cost(w, ins, (op.infer(*ins),))


def test_crossover_of_deepseek_v3() -> None:
    """512 * 256 / (2 * 512 - 256) = 170.7."""
    assert crossover(latent=512, nope=128, values=128) == 170


@given(latent=st.integers(1, 64), nope=st.integers(1, 40), v=st.integers(1, 40), new=st.integers(1, 300))
def test_crossover_is_where_multiplications_of_a_cached_token_cross(latent: int, nope: int, v: int, new: int) -> None:
    """Counted from the equations: a token cached long ago, and its pairs with the new tokens, for one head."""
    most = crossover(latent=latent, nope=nope, values=v)
    expanded = latent * (nope + v) + new * (nope + v)
    absorbed = new * (latent + latent)  # the channels that all heads share count the same in both
    assert (absorbed <= expanded) == (most is None or new <= most)


@pytest.mark.parametrize("new", [1, 100, 170, 171, 400])
def test_the_literal_chooses_the_cheaper_form(new: int) -> None:
    """Of a long cache, where the queries' own expansion no longer matters; scores are stored in both forms."""
    w = Workload(batch=1, new=new, past=100_000, cached=True)
    chosen = cost(w, absorb=170).executed
    assert chosen == cost(w, absorb=None if new <= 170 else 0).executed
    if new < 192:  # from here on fused attention pads values, which the crossover leaves out
        assert chosen == min(cost(w, absorb=None).executed, cost(w, absorb=0).executed)


def test_decode_of_v3() -> None:
    """One token after 4095: queries and values go through the map once, the cache is read once."""
    found = cost(Workload(batch=2, new=1, past=4095, cached=True), absorb=170)
    assert found.executed == 2 * 2 * 128 * (256 * 512 + 4096 * (2 * 512 + 64))
    assert found.useful == 2 * 2 * 128 * (256 * 512 + 4096 * (192 + 128))


def test_training_expands_each_token_once_whatever_heads_run_together() -> None:
    """4 rows of 4096 tokens expand 16 heads at a time; scores of every pair of a fused attention 192 wide."""
    tokens = 4 * 4096
    found = cost(Workload(batch=4, new=4096), absorb=170)
    expand, pairs = 2 * tokens * 512 * 128 * 256, 2 * 128 * tokens * 4096 * 192
    assert found.executed == expand + 2 * pairs
    assert found.backward == 2 * expand + 5 * pairs
    assert found.useful == expand + 2 * 128 * 4 * (4096 * 4097 // 2) * (192 + 128)


def test_operands_that_do_not_fit_are_refused() -> None:
    q, entries, weight = Type((B, S, 4, 6)), Type((B, T, 10)), Type((28, 8))
    op = LatentAttend(nope=4, scale=1.0)
    assert op.infer(q, entries, weight, NONE).shape == (B, S, 4, 3)
    with pytest.raises(ShapeError, match="entries"):
        op.infer(q, Type((B, T, 9)), weight, NONE)
    with pytest.raises(ShapeError, match="do not divide"):
        op.infer(q, entries, Type((30, 8)), NONE)
    with pytest.raises(ShapeError, match="leave none for values"):
        op.infer(q, entries, Type((16, 8)), NONE)
