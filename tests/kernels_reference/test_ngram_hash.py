"""Hashed n-grams against Python's whole numbers, which do not overflow."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.ngram_hash import ngram_hash
from tests.kernels_reference.clock import Rows, recalled, rows

VOCAB = 99092
# DeepSeek-V4.1-Flash, layer 1 (from the public recipe: seed + 10007 * layer).
MULTIPLIERS = (76632096046245, 4839876093313, 35959672319349, 73987337458391)
PRIMES = (16000057, 16000079, 16000081, 16000091, 11, 13)


@given(
    time=rows(),
    orders=st.sampled_from([(2, 3, 4), (2, 4), (3,), (1, 2)]),
    heads=st.integers(1, 2),
    seed=st.integers(0, 1 << 30),
)
def test_ngram_hash_equals_whole_number_arithmetic(time: Rows, orders: tuple[int, ...], heads: int, seed: int) -> None:
    r = torch.Generator().manual_seed(seed)
    history = torch.randint(VOCAB - 9, VOCAB, (len(time.pasts), time.past + time.new), generator=r)
    primes = PRIMES[: heads * len(orders)]
    recent = recalled(history, time, keep=max(orders) - 1)
    got = ngram_hash(recent, time, orders=orders, multipliers=MULTIPLIERS, primes=primes, pad=2)
    assert got.dtype == torch.int64 and got.shape == (*history[:, : time.new].shape, len(primes))
    for b, j in time.valid():
        t, want = time.pasts[b] + j, []
        for o, order in enumerate(orders):
            mix = 0
            for back in range(order):
                token = int(history[b, t - back]) if t - back >= time.start(b, t) else 2
                product = token * MULTIPLIERS[back]
                assert product < 2**63
                mix ^= product
            for h in range(heads):
                want.append(mix % primes[o * heads + h] + sum(primes[: o * heads + h]))
        assert got[b, j].tolist() == want
