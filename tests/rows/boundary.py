"""The boundary between two sub-layers of mHC, written once as rows and once in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from archc.rows.kernel import Kernel
from archc.rows.rules import (
    Exp,
    Input,
    Param,
    Project,
    RowSum,
    Rsqrt,
    Sigmoid,
    Spread,
    StreamMax,
    Take,
    add,
    mul,
    product,
    recip,
    repeat,
)
from archc.rows.value import Program, Row, Streams

EPS = 1e-6


def boundary(n: int = 4, width: int = 8, rounds: int = 5) -> Kernel:
    """Leave a sub-layer that gave y; make coefficients; what the next one reads, normed."""
    p = Program()
    m = n * n + 2 * n
    streams = p.make(Input(name="streams", streams=(n,), row=True, format="act"))
    y = p.make(Input(name="y", row=True, format="act"))
    post = p.make(Input(name="post", streams=(n,)))
    comb = p.make(Input(name="comb", streams=(n, n)))
    fn = p.make(Param(name="fn", streams=(m, n), row=True))
    base = p.make(Param(name="base", streams=(m,)))
    scale = p.make(Param(name="scale", streams=(3,)))
    weight = p.make(Param(name="weight", row=True, format="act"))
    takes = {v.rule.name: v for v in (streams, y, post, comb, fn, base, scale, weight)}  # pyright: ignore[reportAttributeAccessIssue]

    mixed = p.named("mixed", add(product("k,->k", post, y), product("jk,j->k", comb, streams)))
    squares = p.named("squares", p.make(RowSum(), product("k,k->", mixed, mixed)))
    mixes = mul(
        p.named("projected", p.make(Project(), mixed, fn)), p.make(Rsqrt(), add(mul(squares, 1 / (n * width)), EPS))
    )

    def part(of: int, start: int, shape: Streams) -> Row:
        piece, gain = p.make(Take(start=start, shape=shape), mixes), p.make(Take(start=of, shape=()), scale)
        return add(mul(piece, gain), p.make(Take(start=start, shape=shape), base))

    pre = p.named("pre", add(p.make(Sigmoid(), part(0, 0, (n,))), EPS))
    post_next = mul(p.make(Sigmoid(), part(1, n, (n,))), 2.0)
    logits = part(2, 2 * n, (n, n))
    most = p.make(Spread(kept="j", made="jk", sizes=(n, n)), mul(p.make(StreamMax(), logits), -1.0))
    e = p.make(Exp(), add(logits, most))
    start = add(product("jk,j->jk", e, recip(product("jk->j", e))), EPS)

    def rows(c: Row) -> Row:
        return product("jk,j->jk", c, recip(add(product("jk->j", c), EPS)))

    def columns(c: Row) -> Row:
        return product("jk,k->jk", c, recip(add(product("jk->k", c), EPS)))

    comb_next = repeat(rounds - 1, lambda c: columns(rows(c)), columns(start))
    x = p.named("x", product("k,k->", pre, mixed))
    h = mul(mul(x, p.make(Rsqrt(), add(mul(p.make(RowSum(), mul(x, x)), 1 / width), EPS))), weight)
    gives = {"mixed": mixed, "h": h, "post_next": post_next, "comb_next": comb_next}
    for name in ("post_next", "comb_next", "h"):
        p.named(name, gives[name])
    return Kernel("boundary", width, takes, gives, {"mixed": "act", "h": "act"})


def reference(
    streams: Tensor,
    y: Tensor,
    post: Tensor,
    comb: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    weight: Tensor,
    rounds: int = 5,
) -> dict[str, Tensor]:
    """The same of streams [T, n, D], y [T, D], post [T, n], comb [T, n, n], fn [m, n, D]."""
    n = streams.shape[1]
    mixed = post[..., None] * y[:, None] + torch.einsum("tjk,tjd->tkd", comb, streams)
    flat = mixed.flatten(1)
    mixes = flat @ fn.flatten(1).T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)
    pre = torch.sigmoid(mixes[:, :n] * scale[0] + base[:n]) + EPS
    post = 2 * torch.sigmoid(mixes[:, n : 2 * n] * scale[1] + base[n : 2 * n])
    c = (mixes[:, 2 * n :] * scale[2] + base[2 * n :]).unflatten(-1, (n, n)).softmax(-1) + EPS
    c = c / (c.sum(-2, keepdim=True) + EPS)
    for _ in range(rounds - 1):
        c = c / (c.sum(-1, keepdim=True) + EPS)
        c = c / (c.sum(-2, keepdim=True) + EPS)
    x = (pre[..., None] * mixed).sum(1)
    h = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight
    return {"mixed": mixed, "h": h, "post_next": post, "comb_next": c}
