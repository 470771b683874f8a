"""Numbers of tokens as tensors: each op of streams for sizes that are powers of two and for others, and their text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.rewrite import Matrix
from archc.rows.rules import (
    Exp,
    Input,
    Pad,
    Param,
    Placeholder,
    Project,
    RowSum,
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
from archc.rows.softmax import Softmax
from archc.rows.triton import print_backward, print_forward
from archc.rows.triton.parts import equal, parts
from archc.rows.value import Program, Row
from tests.rows.triton import kernels
from tests.rows.triton.printed import call, drawn
from tests.rows.triton.test_forward import check, law

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

FP32 = torch.float32
sizes = st.integers(1, 6)


def inputs(p: Program, n: int, m: int) -> tuple[Row, Row, Row, Row, Row]:
    """Numbers of tokens [n], [n, m] and [m]; one alone; and of a parameter [n, m]."""
    a = p.make(Input(name="a", streams=(n,)))
    b = p.make(Input(name="b", streams=(n, m)))
    c = p.make(Input(name="c", streams=(m,)))
    s = p.make(Input(name="s"))
    return a, b, c, s, p.make(Param(name="w", streams=(n, m)))


def every_op(n: int, m: int) -> Kernel:
    """A kernel that gives what each op makes of numbers."""
    p = Program()
    a, b, c, s, w = inputs(p, n, m)
    line = p.make(Input(name="line", streams=(n * m + n + 2,)))
    gives = {
        "to_rows": product("ij,j->i", b, c),
        "to_columns": product("ij,i->j", b, a),
        "outer": product("i,j->ij", a, c),
        "turned": product("ij->ji", b),
        "of_three": product("ij,i,j->", b, a, c),
        "all": product("ij->", b),
        "squared": product("ij,kj->ik", b, b),
        "weighed": product("ij,ij,->i", b, w, s),
        "minus": mul(b, -1.0),
        "shifted": add(mul(b, 2.0), s),
        "with_parameter": add(b, w),
        "spread": add(b, p.make(Spread(kept="j", made="ij", sizes=(n, m)), c)),
        "only_spread": p.make(Spread(kept="i", made="ij", sizes=(n, m)), mul(a, s)),
        "of_all": p.make(Spread(kept="", made="ij", sizes=(n, m)), p.make(Exp(), s)),
        "largest": p.make(StreamMax(), mul(b, 3.0)),
        "part": p.make(Take(start=n, shape=(n, m)), line),
        "middle": p.make(Take(start=1, shape=(n * m,)), p.make(Sigmoid(), line)),
        "of_made": p.make(Take(start=0, shape=(m,)), mul(product("i,j->ij", a, c), s)),
        "one": p.make(Take(start=n * m - 1, shape=()), product("i,j->ij", a, c)),
        "padded": add(
            p.make(Pad(start=1, shape=(n + m + 3,)), mul(c, s)), p.make(Pad(start=m + 2, shape=(n + m + 3,)), mul(a, s))
        ),
        "diagonal": p.make(Matrix(numbers="i", x="i", out="i", sizes=(n, n)), mul(a, s)),
        "known_diagonal": p.make(Matrix(numbers="", x="i", out="i", sizes=(n, n)), s),
        "as_matrix": p.make(Matrix(numbers="ij", x="j", out="i", sizes=(m, n)), mul(b, s)),
        "summed_matrix": p.make(Matrix(numbers="ij", x="i", out="i", sizes=(n, n)), mul(b, s)),
        "free_matrix": p.make(Matrix(numbers="i", x="j", out="i", sizes=(m, n)), mul(a, s)),
        "rounds": repeat(3, lambda x: mul(x, recip(add(product("ij,j->", x, c), 2.0))), p.make(Sigmoid(), b)),
    }
    return Kernel("every_op", 1, kernels.leaves(a, b, c, s, w, line), gives, {})


@law
@given(n=sizes, m=sizes, tokens=st.integers(1, 200))
def test_every_op(interpreted: Worker, n: int, m: int, tokens: int) -> None:
    check(interpreted, every_op(n, m), tokens, FP32)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5)])
def test_no_name_for_each_stream(n: int, m: int) -> None:
    """A text of which neither lines nor names grow with streams."""
    text, larger = (print_forward(every_op(*s)).text for s in ((n, m), (2 * n, 2 * m)))
    assert larger.count("\n") <= 1.1 * text.count("\n")
    assert not re.search(r"\b(to_rows|squared|outer)_\d", larger)


def test_rows_are_scaled_by_numbers_of_each_stream(interpreted: Worker) -> None:
    """What sums over rows give, and scales rows, has a name for each; other numbers come as a tensor."""
    p = Program()
    x = p.make(Input(name="x", streams=(3,), row=True))
    b = p.make(Input(name="b", streams=(3, 3)))
    total = p.make(RowSum(), mul(x, x))
    root = p.make(Sigmoid(), mul(total, 0.01))
    mixed = product("ij,j->i", b, root)
    gives = {"scaled": mul(x, root), "mixed": product("i,i->i", mixed, x), "b_by_total": product("ij,j->i", b, total)}
    kernel = Kernel("scaling", 40, kernels.leaves(x, b), gives, {})
    check(interpreted, kernel, 19, FP32)


@pytest.mark.parametrize("experts", [2, 6, 16, 24, 64])
def test_softmax_of_a_projection(interpreted: Worker, experts: int) -> None:
    """Its gradient reads what it gave, and no logits are saved."""
    p = Program()
    x = p.make(Input(name="x", row=True))
    weight = p.make(Param(name="weight", streams=(experts,), row=True))
    logits = p.make(Project(), x, weight)
    power = p.make(Exp(), add(logits, p.make(Spread(kept="", made="i", sizes=(experts,)), mul(_largest(logits), -1.0))))
    scores = product("i,->i", power, recip(product("i->", power)))
    scores = p.make(Softmax(), logits, scores)
    kernel = Kernel("softmax", 48, kernels.leaves(x, weight), {"scores": scores}, {})
    for tokens in (1, 37):
        check(interpreted, kernel, tokens, FP32)
    pair = trained(kernel, ["x", "weight"], ["scores"])
    assert list(pair.forward.gives) == ["scores"]
    takes = drawn(pair.backward, 37, FP32)
    takes["scores"] = torch.softmax(takes["scores"].double(), -1).float()
    want = _by_autograd(takes)
    got = interpreted(call, print_backward(pair.backward), *takes.values())
    for mine, theirs in zip(got, want, strict=True):
        assert (mine.double().reshape(theirs.shape) - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def _largest(logits: Row) -> Row:
    return logits.program.make(StreamMax(), logits)


def _by_autograd(takes: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The gradients of rows and weights whose softmax gave such scores: of logits that are their logarithms."""
    logits = takes["scores"].double().log().requires_grad_()
    (d_logits,) = torch.autograd.grad(logits.softmax(-1), logits, takes["grad_scores"].double())
    weight = takes["weight"].double().reshape(takes["weight"].shape[0], -1)
    return d_logits @ weight, d_logits.T @ takes["x"].double()


# --- what is put together, and what is equal -----------------------------------------------------
def test_parts() -> None:
    """Parts in their order, zeros between them; values that overlap are no parts."""
    p = Program()
    a, b, c, *_ = inputs(p, 3, 2)

    def put(x: Row, start: int) -> Row:
        return p.make(Pad(start=start, shape=(12,)), x)

    found = parts(add(put(b, 5), put(a, 1)))
    assert [(start, part.streams) for start, part in found] == [(0, ()), (1, (3,)), (4, ()), (5, (3, 2)), (11, ())]
    assert parts(b) == [(0, b)]
    both = add(put(a, 0), put(c, 2))
    assert parts(both) == [(0, both)]


def test_equal_elements() -> None:
    """Of symmetric matrices, of diagonal ones, and of what is the same for all."""
    p = Program()
    x = p.make(Input(name="x", streams=(3,), row=True))
    s = p.make(Input(name="s"))
    gram = p.make(RowSum(), product("i,j->ij", x, x))
    sums = add(product("ij->ji", gram), gram)
    diagonal = p.make(Matrix(numbers="", x="i", out="i", sizes=(3, 3)), s)
    state = p.make(Placeholder(which="state", of=0, streams=(2,)))
    for v, several in ((gram, 6), (sums, 6), (diagonal, 2), (state, 2)):
        (found,) = equal([v])
        assert len(set(found)) == several, v
    assert equal([diagonal])[0][1].number == 0


def test_parts_are_taken_first() -> None:
    """Scaled and shifted lines of which parts alone are needed are not put together; others are."""
    p = Program()
    line = p.make(Input(name="line", streams=(7,)))
    s = p.make(Input(name="s"))
    scaled = p.make(Sigmoid(), add(mul(line, s), 1.0))
    gives = {"first": p.make(Take(start=0, shape=(3,)), scaled), "last": p.make(Take(start=3, shape=(2, 2)), scaled)}
    apart = optimised(Kernel("apart", 1, kernels.leaves(line, s), gives, {}))
    assert [v.streams for v in _streamed(apart) if not isinstance(v.rule, Input)] == [(3,)] * 4 + [(2, 2)] * 4
    whole = optimised(Kernel("whole", 1, kernels.leaves(line, s), {**gives, "whole": scaled}, {}))
    assert gives["first"] is whole.gives["first"]


def _streamed(kernel: Kernel) -> list[Row]:
    from archc.rows.value import order

    return sorted((v for v in order(kernel.gives.values()) if v.streams), key=lambda v: v.streams, reverse=True)
