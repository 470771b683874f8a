"""The loss of a lightning indexer, one query at a time.

The V3.2 paper, equations 3 and 4, on the compressed entries of V4: p is the attention that all heads together pay an
entry, normalised over the entries that the query attends to; the loss is the mean over queries of KL(p || softmax(I)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles.csa import Csa
from tests.oracles.rows import Array, Weights, rms_norm, softmax


def scores(queries: Array, keys: Array, weights: Array) -> list[float]:
    """I of every key [n, C], for index queries [I, C] of one token and what each head counts for [I]."""
    return [
        sum(float(w) * max(float(query @ key), 0.0) for query, w in zip(queries, weights, strict=True)) for key in keys
    ]


def attention(queries: Array, near: Array, far: Array, sinks: Array, scale: float) -> list[float]:
    """p of every entry ``far`` [n, D], for queries [H, D] of one token, its window ``near`` [m, D] and sinks [H]."""
    total = [0.0] * len(far)
    for query, sink in zip(queries, sinks, strict=True):
        weights = softmax([*(float(query @ key) * scale for key in (*near, *far)), float(sink)])
        for e in range(len(far)):
            total[e] += float(weights[len(near) + e])
    return [t / sum(total) for t in total]


def divergence(p: Sequence[float], index_scores: Sequence[float]) -> float:
    """KL(p || softmax(I)) of one query."""
    top = max(index_scores)
    rest = top + math.log(sum(math.exp(i - top) for i in index_scores))
    return sum(x * (math.log(x) - (i - rest)) for x, i in zip(p, index_scores, strict=True) if x > 0)


def of_layer(csa: Csa, weights: Weights, x: Array, *, dense: bool) -> list[float]:
    """The divergence of every token of x [S, D] that attends to an entry, in order: all that it sees where attention
    is ``dense``, else its picks.
    """
    found = []
    for t in range(len(x)):
        entries = csa.entries(weights, "compressor.", x[: t + 1], csa.head_dim)
        chosen = list(range(len(entries))) if dense else csa.picks(weights, x, t)
        if not chosen:
            continue
        queries = (weights["q_b_proj.weight"] @ csa.q_latent(weights, x[t])).reshape(csa.heads, csa.head_dim)
        queries = np.stack([csa.rope.turn(rms_norm(q, None, csa.eps), t) for q in queries])
        near = np.stack([csa._window_key(weights, x, s) for s in range(max(0, t - csa.window + 1), t + 1)])
        p = attention(queries, near, np.stack([entries[i] for i in chosen]), weights["sinks"], csa.head_dim**-0.5)
        i = csa.index_scores(weights, x, t)
        found.append(divergence(p, [i[e] for e in chosen]))
    return found
