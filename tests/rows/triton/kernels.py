"""Kernels to print: fusions of language models, written as rows."""

from __future__ import annotations

from typing import Any

from archc.rows.kernel import Kernel
from archc.rows.pointwise import EachToken
from archc.rows.rewrite import rebuilt
from archc.rows.rotate import Rotate
from archc.rows.rules import (
    Exp,
    Input,
    Param,
    Project,
    Round,
    RowMax,
    RowSum,
    Rsqrt,
    Sigmoid,
    StreamMax,
    Take,
    add,
    mul,
    product,
    recip,
)
from archc.rows.value import Program, Row
from tests.rows.boundary import boundary

EPS = 1e-6


def leaves(*values: Row) -> dict[str, Row]:
    """Takes by their names."""
    return {v.rule.name: v for v in values}  # pyright: ignore[reportAttributeAccessIssue]


def inverse_rms(x: Row, width: int) -> Row:
    """1 / sqrt(mean of squares + eps)"""
    letters = "abcd"[: len(x.streams)]
    squares = x.program.named("squares", x.program.make(RowSum(), product(f"{letters},{letters}->{letters}", x, x)))
    return x.program.make(Rsqrt(), add(mul(squares, 1 / width), EPS))


def add_norm(width: int) -> Kernel:
    """A residual, and its norm."""
    p = Program()
    x, y = (p.make(Input(name=n, row=True, format="act")) for n in ("x", "y"))
    weight = p.make(Param(name="weight", row=True, format="act"))
    total = p.named("total", p.make(Round(format="act"), add(x, y)))
    h = p.named("h", mul(mul(total, inverse_rms(total, width)), weight))
    return Kernel("add_norm", width, leaves(x, y, weight), {"total": total, "h": h}, {"total": "act", "h": "act"})


def twice_normed(width: int) -> Kernel:
    """Two norms of one row: two parameters for few rows."""
    p = Program()
    x = p.make(Input(name="x", row=True, format="act"))
    one, other = (p.make(Param(name=n, row=True, format="act")) for n in ("one_weight", "other_weight"))
    unit = p.named("unit", mul(x, inverse_rms(x, width)))
    made = mul(mul(unit, one), mul(unit, other))
    return Kernel("twice_normed", width, leaves(x, one, other), {"h": made}, {"h": "act"})


def rounded_boundary(n: int, width: int, rounds: int = 3) -> Kernel:
    """The boundary of mHC, its streams as memory holds them."""
    kernel = boundary(n, width, rounds)
    mixed = kernel.gives["mixed"]

    def change(old: Row, new: Row) -> Row:
        return new.program.named("mixed_rounded", new.program.make(Round(format="act"), new)) if old is mixed else new

    return kernel._replace(gives=dict(zip(kernel.gives, rebuilt(list(kernel.gives.values()), change), strict=True)))


def head(n: int, width: int) -> Kernel:
    """The end of mHC's streams: they are mixed, weighed by numbers that they are projected to, and normed."""
    p = Program()
    streams = p.make(Input(name="streams", streams=(n,), row=True, format="act"))
    y = p.make(Input(name="y", row=True, format="act"))
    post = p.make(Input(name="post", streams=(n,)))
    comb = p.make(Input(name="comb", streams=(n, n)))
    fn = p.make(Param(name="fn", streams=(n, n), row=True))
    base = p.make(Param(name="base", streams=(n,)))
    weight = p.make(Param(name="weight", row=True, format="act"))
    mixed = add(product("k,->k", post, y), product("jk,j->k", comb, streams))
    mixed = p.named("mixed", p.make(Round(format="act"), mixed))
    pre = p.named("pre", p.make(Sigmoid(), add(p.named("projected", p.make(Project(), mixed, fn)), base)))
    x = p.named("x", product("k,k->", pre, mixed))
    h = p.named("h", mul(mul(x, inverse_rms(x, width)), weight))
    takes = leaves(streams, y, post, comb, fn, base, weight)
    return Kernel("head", width, takes, {"mixed": mixed, "h": h}, {"mixed": "act", "h": "act"})


def single_pass(n: int, width: int, rounds: int = 3) -> Kernel:
    """A boundary of mHC whose coefficients serve the next boundary: what the sub-layer reads needs none of its sums."""
    kernel = rounded_boundary(n, width, rounds)
    p = kernel.takes["streams"].program
    pre = p.make(Input(name="pre", streams=(n,)))
    h = p.named("h_of_earlier", product("k,k->", pre, kernel.gives["mixed"]))
    return kernel._replace(name="single_pass", takes={**kernel.takes, "pre": pre}, gives={**kernel.gives, "h": h})


def turned(width: int, turned: int, pairs: Any, end: Any, heads: int = 1, *, inverse: bool = False) -> Kernel:
    """The norm of each head, then its rotation."""
    p = Program()
    q = p.make(Input(name="q", row=True, format="act"))
    angles = p.make(Input(name="angles", streams=(turned // 2, 2), shared=heads))
    weight = p.make(Param(name="weight", row=True, format="act"))
    normed = p.make(Round(format="act"), mul(mul(q, inverse_rms(q, width)), weight))
    rule = Rotate(turned=turned, pairs=pairs, end=end, inverse=inverse)
    return Kernel("turn", width, leaves(q, angles, weight), {"out": p.make(rule, normed, angles)}, {"out": "act"})


def router(experts: int) -> Kernel:
    """Scores of experts, softmax and then normalised with a bias beside them."""
    p = Program()
    logits = p.make(Input(name="logits", row=True))
    bias = p.make(Param(name="bias", row=True))
    e = p.make(Exp(), add(logits, mul(p.make(RowMax(), logits), -1.0)))
    scores = p.named("scores", mul(e, recip(p.make(RowSum(), e))))
    return Kernel("router", experts, leaves(logits, bias), {"scores": scores, "biased": add(scores, bias)}, {})


def gates(n: int) -> Kernel:
    """Numbers of a token alone."""
    p = Program()
    logits = p.make(Input(name="logits", streams=(n, n)))
    bias = p.make(Param(name="bias", streams=(n,)))
    opened = p.make(Sigmoid(), product("jk,k->jk", logits, bias))
    most = p.make(StreamMax(), logits)
    return Kernel("gates", 1, leaves(logits, bias), {"opened": product("jk,j->k", opened, most), "most": most}, {})


def gated_streams(n: int, width: int) -> Kernel:
    """What Engram does: streams gated by their likeness to keys, added to."""
    p = Program()
    streams, keys = (p.make(Input(name=x, streams=(n,), row=True, format="act")) for x in ("streams", "keys"))
    value = p.make(Input(name="value", row=True, format="act"))
    weights = p.make(Param(name="weights", streams=(n,), row=True, format="act"))

    def unit(x: Row) -> Row:
        return product("a,a->a", x, inverse_rms(x, width))

    alike = p.make(RowSum(), product("a,a->a", product("a,a->a", unit(streams), weights), unit(keys)))
    gate = p.named("gate", p.make(Sigmoid(), mul(alike, width**-0.5)))
    out = add(streams, product("a,->a", gate, value))
    return Kernel(
        "gated_streams", width, leaves(streams, keys, value, weights), {"out": out, "gate": gate}, {"out": "act"}
    )


def weighed(width: int) -> Kernel:
    """Numbers that parameters alone give, beside a row and for each token."""
    p = Program()
    x = p.make(Input(name="x", row=True))
    weight = p.make(Param(name="weight", row=True))
    bias = p.make(Param(name="bias", streams=(2,)))
    length = p.make(Rsqrt(), p.make(RowSum(), mul(weight, weight)))
    same = p.make(EachToken(), bias)
    y = mul(mul(x, weight), length)
    return Kernel("weighed", width, leaves(x, weight, bias), {"y": y, "same": same, "sum": p.make(RowSum(), y)}, {})


def biased(experts: int, width: int) -> Kernel:
    """Logits of a router, whose gradient is what its product is given."""
    p = Program()
    x = p.make(Input(name="x", row=True, format="act"))
    weight = p.make(Param(name="weight", streams=(experts, 1), row=True, format="act"))
    bias = p.make(Param(name="bias", streams=(experts,), format="act"))
    logits = p.make(Project(), p.make(Take(start=0, shape=(1,)), x), weight)
    return Kernel("biased", width, leaves(x, weight, bias), {"logits": add(logits, bias)}, {})


def projected(experts: int, width: int) -> Kernel:
    """Scores of a router that makes its logits."""
    p = Program()
    x = p.make(Input(name="x", row=True, format="act"))
    weight = p.make(Param(name="weight", streams=(experts, 1), row=True, format="act"))
    logits = p.named("logits", p.make(Project(), p.make(Take(start=0, shape=(1,)), x), weight))
    return Kernel("projected", width, leaves(x, weight), {"scores": p.make(Sigmoid(), logits)}, {})
