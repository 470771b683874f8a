"""Attention equals its definition in float64, on every kind of row, within its memory and its FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from archc.graph.torch_package import torch_package

torch_package()
from archc_package.kernels import attend as module  # noqa: E402
from archc_package.kernels.attend import attend  # noqa: E402
from archc_package.kernels.blocks import LIMIT, scored_pairs, stores_scores  # noqa: E402
from archc_package.runtime.time import Time  # noqa: E402


def clock(first: list[int], count: list[int], *, new: int, cached: bool, starts: Tensor | None = None) -> Time:
    """The time of rows that hold first[b] tokens and get count[b] of `new` columns."""
    slots = torch.tensor(first)[:, None] + torch.arange(new)
    return Time(
        first=torch.tensor(first),
        count=torch.tensor(count),
        positions=slots,
        starts=starts,
        past=max(first),
        new=new,
        cached=cached,
        aligned=min(first) == max(first),
        full=min(count) == new,
    )


def definition(
    q: Tensor, keys: Tensor, values: Tensor, time: Time, *, scale: float, window: int | None, sinks: Tensor | None
) -> Tensor:
    """Attention one query and one head at a time, in float64, over the slots each token may see; 0 at padding."""
    q, keys, values = q.double(), keys.double(), values.double()
    batch, new, heads, _ = q.shape
    recalled = time.cached and window is not None
    out = torch.zeros(batch, new, heads, values.shape[-1], dtype=torch.float64)
    for b in range(batch):
        first = int(time.first[b])
        for j in range(int(time.count[b])):
            slot = first + j
            oldest = 0 if time.starts is None else int(time.starts[b, j])
            if window is not None:
                oldest = max(oldest, slot - window + 1)
            seen = range(oldest, slot + 1)
            shift = keys.shape[1] - new - first if recalled else 0
            rows = [s + shift for s in seen]
            for h in range(heads):
                g = h * keys.shape[2] // heads
                scores = (keys[b, rows, g] @ q[b, j, h]) * scale
                mass = scores.exp().sum() + (0 if sinks is None else sinks[h].double().exp())
                out[b, j, h] = (scores.exp() / mass) @ values[b, rows, g]
    return out


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of every kind: whole, padded or packed, new or continued, with or without window and sinks."""
    batch, new = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    groups = draw(st.sampled_from([1, 2, 3]))
    heads = groups * draw(st.sampled_from([1, 2, 3]))
    width = draw(st.sampled_from([3, 8]))
    value_width = draw(st.sampled_from([width, 5]))
    window = draw(st.none() | st.integers(1, 30))
    kind = draw(st.sampled_from(["whole", "padded", "packed", "cached", "cached ragged"]))
    first, count, starts = [0] * batch, [new] * batch, None
    if kind in ("padded", "cached ragged"):
        count = [draw(st.integers(0 if kind == "cached ragged" else 1, new)) for _ in range(batch)]
    if kind == "cached":
        first = [draw(st.integers(0, 20))] * batch
    if kind == "cached ragged":
        first = [draw(st.integers(0, 20)) for _ in range(batch)]
    if kind == "packed":
        cuts = [sorted({0, *draw(st.lists(st.integers(0, new - 1), max_size=3))}) for _ in range(batch)]
        starts = torch.tensor([[max(c for c in row if c <= j) for j in range(new)] for row in cuts])
    cached = kind.startswith("cached")
    time = clock(first, count, new=new, cached=cached, starts=starts)
    rows = new + (window - 1 if cached and window is not None else max(first))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "q": normal(batch, new, heads, width),
        "keys": normal(batch, rows, groups, width),
        "values": normal(batch, rows, groups, value_width),
        "time": time,
        "scale": 0.7,
        "window": window,
        "sinks": normal(heads) if draw(st.booleans()) else None,
    }


def at_tokens(x: Tensor, time: Time) -> Tensor:
    """x [B, S, ...] at valid columns."""
    return x[torch.arange(time.new) < time.count[:, None]]


@given(cases(), st.sampled_from([LIMIT, 700, 60, 1]))
@settings(max_examples=250, deadline=None)
def test_attention_equals_its_definition(case: dict[str, Any], limit: int) -> None:
    case = dict(case)
    tensors = [case.pop(name) for name in ("q", "keys", "values", "time")]
    want = definition(*tensors, **case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIMIT", limit)
        got = attend(*tensors, **case)
    torch.testing.assert_close(at_tokens(got, tensors[3]), at_tokens(want, tensors[3]), rtol=1e-10, atol=1e-12)


@given(cases(), st.sampled_from([LIMIT, 200]))
@settings(max_examples=60, deadline=None)
def test_gradients_equal_those_of_the_definition(case: dict[str, Any], limit: int) -> None:
    case = dict(case)
    time = case["time"]
    leaves = [case[name] for name in ("q", "keys", "values", "sinks") if case[name] is not None]
    grads = []
    for function in (definition, attend):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        arguments = [case[name] for name in ("q", "keys", "values", "time")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "LIMIT", limit)
            out = function(*arguments, **{name: case[name] for name in ("scale", "window", "sinks")})
        # Weights that differ by output catch gradients that only agree in sum.
        loss = at_tokens(out, time).mul(torch.linspace(-1, 1, out.shape[-1], dtype=torch.float64)).sum()
        sum((0 * leaf.sum() for leaf in leaves), loss).backward()  # rows without tokens have gradients of 0
        grads.append([leaf.grad for leaf in leaves])
    for want, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def two_matmuls(q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any) -> int:
    """FLOPs of the two products of fused attention over q [B, H, S, D] and k [B, G, T, D]."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: two_matmuls}


@given(cases(), st.sampled_from([LIMIT, 700, 60]))
@settings(max_examples=100, deadline=None)
def test_executed_flops_are_those_of_the_block_schedule(case: dict[str, Any], limit: int) -> None:
    q, keys, values, time, window = (case[name] for name in ("q", "keys", "values", "time", "window"))
    with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        patch.setattr(module, "LIMIT", limit)
        attend(q, keys, values, time, scale=1.0, window=window, sinks=case["sinks"])
    width, value_width, groups = q.shape[-1], values.shape[-1], keys.shape[2]
    sizes = {"new": time.new, "heads": q.shape[2], "groups": groups, "width": width, "value_width": value_width}
    stored = stores_scores(sinks=case["sinks"] is not None, **sizes)
    pairs = scored_pairs(
        batch=q.shape[0],
        heads=q.shape[2],
        new=time.new,
        keys=keys.shape[1],
        window=window,
        materialise=stored,
        ragged=time.starts is not None or not time.aligned,
        limit=limit,
    )
    # Fused attention has one width: the narrower of queries and values are padded.
    wide = width + value_width if stored else 2 * max(width, value_width)
    assert counter.get_total_flops() == 2 * q.shape[0] * q.shape[2] * pairs * wide


class Largest(TorchDispatchMode):
    """Records the elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


@pytest.mark.parametrize(
    ("new", "past", "window", "sinks", "packed"),
    [
        (16384, 0, None, False, False),  # one causal call
        (16384, 0, None, False, True),
        (16384, 0, 128, False, False),  # bands
        (16384, 0, 128, True, False),
        (4096, 8192, None, False, False),  # a chunk after others
        (1024, 32768, None, True, False),
    ],
)
def test_no_temporary_exceeds_the_limit(new: int, past: int, window: int | None, sinks: bool, packed: bool) -> None:
    """The square of a long prompt would take up to 64 times the limit."""
    starts = (torch.arange(new)[None] // 5000) * 5000 if packed else None
    time = clock([past], [new], new=new, cached=past > 0, starts=starts)
    q, k = torch.randn(1, new, 1, 2), torch.randn(1, new + past, 1, 2)
    with Largest() as largest, torch.no_grad():
        attend(q, k, k, time, scale=1.0, window=window, sinks=torch.zeros(1) if sinks else None)
    assert largest.elements <= LIMIT + (past + new)  # a sink adds a column to stored scores


def test_keys_are_never_copied_for_the_heads_that_share_them() -> None:
    """Eight heads per key: a copy for each would be eight times the keys."""
    q, k = torch.randn(1, 1, 16, 8), torch.randn(1, 5000, 2, 8)
    for sinks in (None, torch.zeros(16)):
        with Largest() as largest, torch.no_grad():
            attend(q, k, k, clock([4999], [1], new=1, cached=True), scale=1.0, sinks=sinks)
        assert largest.elements <= max(k.numel(), 16 * 5001)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sinks", [False, True])
def test_half_precision_stays_near_float64(dtype: torch.dtype, sinks: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 50, h, 16, generator=generator).to(dtype) for h in (4, 2, 2))
    sink = torch.randn(4, generator=generator).to(dtype) if sinks else None
    time = clock([0, 0], [50, 50], new=50, cached=False)
    want = definition(q, k, v, time, scale=0.25, window=None, sinks=sink)
    got = attend(q, k, v, time, scale=0.25, sinks=sink)
    assert got.dtype == dtype
    # Weights and outputs are rounded once each, scores of the stored path once more: a few units in the last place.
    assert (got - want).abs().max() < 6 * torch.finfo(dtype).eps * v.abs().max()
