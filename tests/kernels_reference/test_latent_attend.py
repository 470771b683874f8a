"""Attention over latents equals its definition in float64 in both forms, on every kind of row, within its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archc.graph.torch_package import torch_package

torch_package()
from archc_package.kernels import attend as attend_module  # noqa: E402
from archc_package.kernels import latent_attend as module  # noqa: E402
from archc_package.kernels.blocks import LIMIT  # noqa: E402
from archc_package.kernels.latent_attend import latent_attend  # noqa: E402

from tests.kernels_reference.clock import Rows, rows  # noqa: E402

SCALE = 0.6
FORMS = {"expanded": 0, "absorbed": None}
"""The literal `absorb` that asks for a form after cached tokens."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Operands of one call."""

    q: Tensor
    entries: Tensor
    weight: Tensor
    time: Rows
    nope: int

    def run(self, absorb: int | None) -> Tensor:
        return latent_attend(self.q, self.entries, self.weight, self.time, nope=self.nope, scale=SCALE, absorb=absorb)

    def defined(self) -> Tensor:
        """One query, one head and one key at a time; 0 at padding."""
        heads, latent = self.q.shape[2], self.weight.shape[1]
        maps = self.weight.view(heads, -1, latent)
        out = self.q.new_zeros(*self.q.shape[:3], maps.shape[1] - self.nope)
        for b, j in self.time.valid():
            slot = self.time.pasts[b] + j
            seen = self.entries[b, self.time.start(b, slot) : slot + 1]
            for h in range(heads):
                keys = torch.cat([seen[:, :latent] @ maps[h, : self.nope].T, seen[:, latent:]], 1)
                weights = (SCALE * (keys @ self.q[b, j, h])).softmax(0)
                out[b, j, h] = weights @ (seen[:, :latent] @ maps[h, self.nope :].T)
        return out

    def valid(self, x: Tensor) -> Tensor:
        return torch.stack([x[b, j] for b, j in self.time.valid()])


def case(
    time: Rows,
    *,
    heads: int = 2,
    latent: int = 6,
    nope: int = 4,
    shared: int = 2,
    values: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Random operands; entries that no token of a row has yet hold any number."""
    generator = torch.Generator().manual_seed(seed)
    batch, span = len(time.pasts), time.past + time.new

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return Case(
        q=normal(batch, time.new, heads, nope + shared),
        entries=normal(batch, span, latent + shared),
        weight=normal(heads * (nope + values), latent) * latent**-0.5,
        time=time,
        nope=nope,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any rows and odd sizes, values narrower or wider than keys, with or without shared channels."""
    return case(
        draw(rows()),
        heads=draw(st.integers(1, 3)),
        latent=draw(st.sampled_from([1, 3, 8])),
        nope=draw(st.integers(1, 5)),
        shared=draw(st.sampled_from([0, 2, 3])),
        values=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 1 << 20)),
    )


def limited(limit: int) -> pytest.MonkeyPatch:
    """Makes blocks of ``limit`` elements until undone."""
    patch = pytest.MonkeyPatch()
    for kernel in (module, attend_module):
        patch.setattr(kernel, "LIMIT", limit)
    return patch


@pytest.mark.parametrize("form", FORMS)
@given(case=cases(), limit=st.sampled_from([LIMIT, 300, 40, 1]))
def test_attention_equals_its_definition(form: str, case: Case, limit: int) -> None:
    patch = limited(limit)
    try:
        got = case.run(FORMS[form])
    finally:
        patch.undo()
    torch.testing.assert_close(case.valid(got), case.valid(case.defined()), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@given(case=cases(), limit=st.sampled_from([LIMIT, 100]))
def test_gradients_equal_those_of_the_definition(form: str, case: Case, limit: int) -> None:
    found = []
    for run in (Case.defined, lambda c: c.run(FORMS[form])):
        leaves = [x.clone().requires_grad_() for x in (case.q, case.entries, case.weight)]
        patch = limited(limit)
        try:
            q, entries, weight = leaves
            out = case.valid(run(replace(case, q=q, entries=entries, weight=weight)))
            # Weights that differ by output catch gradients that only agree in sum.
            (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        finally:
            patch.undo()
        found.append([leaf.grad for leaf in leaves])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


class Watch(TorchDispatchMode):
    """Records operations by name, and the elements of the largest tensor that any of them returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        held = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in held:
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def after(past: int, new: int, batch: int = 1) -> Rows:
    return Rows(pasts=(past,) * batch, counts=(new,) * batch, new=new, cached=past > 0)


def test_decoding_reads_the_cache_where_it_lies() -> None:
    """No copy of 5000 entries of 40 channels, no keys of 8 heads: nothing larger than the scores."""
    c = case(after(5000, 1, batch=2), heads=8, latent=32, shared=8, dtype=torch.float32)
    with Watch() as watch, torch.no_grad():
        c.run(None)
    assert watch.largest <= 2 * 8 * 5001


def test_decoding_computes_in_a_handful_of_operations() -> None:
    moves = {"view", "slice", "transpose", "_unsafe_view", "unsqueeze", "expand", "promote_types"}
    c = case(after(50, 1, batch=2), heads=8, latent=32, dtype=torch.float32)
    with Watch() as watch, torch.no_grad():
        c.run(None)
    assert [name for name in watch.names if name not in moves] == [
        "bmm",
        "cat",
        "bmm",
        "mul_",
        "_softmax",
        "bmm",
        "bmm",
    ]


@pytest.mark.parametrize(
    ("past", "new", "heads", "absorb"),
    [
        (0, 8192, 2, None),  # one causal call
        (8192, 4096, 2, 0),  # a chunk after others, expanded
        (16384, 512, 8, None),  # and in latent space
        (65536, 64, 64, 0),  # expanded keys of all heads would be 16 times the limit
    ],
)
def test_no_temporary_exceeds_the_limit(past: int, new: int, heads: int, absorb: int | None) -> None:
    c = case(after(past, new), heads=heads, latent=4, nope=3, shared=1, values=2, dtype=torch.float32)
    patch = limited(1 << 20)
    try:
        with Watch() as watch, torch.no_grad():
            c.run(absorb)
    finally:
        patch.undo()
    assert watch.largest <= 1 << 20


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("new", [1, 9])
def test_half_precision_stays_near_float64(form: str, dtype: torch.dtype, new: int) -> None:
    c = case(after(30, new, batch=2), heads=4, latent=16, nope=8, values=8, dtype=dtype)
    exact = replace(c, q=c.q.double(), entries=c.entries.double(), weight=c.weight.double()).defined()
    got = c.run(FORMS[form])
    assert got.dtype == dtype
    # A rounding of queries, keys, weights and outputs each, of values near one.
    assert (got - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
