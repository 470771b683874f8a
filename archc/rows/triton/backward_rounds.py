"""The gradient of a repeat as a Triton function: rounds are run and remembered, then their gradients backwards."""

from __future__ import annotations

import math

from archc.rows.rules import RepeatBack
from archc.rows.triton.tensors import Body, Tensors, padded
from archc.rows.value import Row


def rounds_back(outside: Tensors, value: Row, memory: str) -> str:
    """A call that makes a `RepeatBack`; ``memory``: where a program keeps what rounds start from, [rounds, TILE, n]."""
    start, grad, state, end, cotangent, back = value.args
    assert isinstance(value.rule, RepeatBack)
    times, hint, dims = value.rule.times, value.rule.name, padded(value.streams)
    inner = Body(outside, [state, cotangent], [hint, "grad"], taken=("rounds", "i"))
    name, grads = inner.names
    inner.line("t = tl.arange(0, TILE)")
    size = math.prod(dims)
    place = inner.at("rounds", dims, each=size)
    with inner.block(f"for i in range({times}):"):
        inner.line(f"tl.store({place} + i * ({size} * TILE), {name})")
        inner.body.reassign(name, inner.tensor(end))
    inner.line("tl.debug_barrier()")
    with inner.block(f"for i in range({times}):"):
        inner.body.reassign(name, f"tl.load({place} + ({times - 1} - i) * ({size} * TILE))")
        inner.body.reassign(grads, inner.tensor(back))
    inner.line(f"return {grads}")
    shape = f"[TILE{''.join(f', {n}' for n in value.streams)}]"
    what = f'"""The gradient of {times} rounds of {hint} on {shape}; rounds: memory."""'
    return inner.function(hint, what, [outside.tensor(start), outside.tensor(grad)], [("rounds", memory)])


def remembered(value: Row) -> int:
    """How many numbers of a token `rounds_back` keeps."""
    assert isinstance(value.rule, RepeatBack)
    return value.rule.times * math.prod(padded(value.streams))
