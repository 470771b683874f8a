"""Attention over picked latents equals its definition in float64, on every kind of row, and reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from archc.graph.torch_package import torch_package

torch_package()
from archc_package.kernels.index_divergence import index_divergence  # noqa: E402
from archc_package.kernels.packed_rows import Fp8Tiles  # noqa: E402
from archc_package.kernels.sparse_blocks import LIMIT, latent_blocks, latent_pairs  # noqa: E402
from archc_package.kernels.sparse_latent_attend import (  # noqa: E402
    sparse_latent_attend,
    sparse_latent_attend_lse,
)
from archc_package.kernels.state import Packed  # noqa: E402

from tests.kernels_reference import test_latent_attend as dense  # noqa: E402
from tests.kernels_reference.clock import rows  # noqa: E402
from tests.kernels_reference.test_latent_attend import SCALE, Watch, after, case  # noqa: E402
from tests.oracles import index_loss  # noqa: E402

LIMITS = st.sampled_from([1, 100, 1000, 1 << 24])


@dataclass(frozen=True, kw_only=True)
class Case:
    """Operands of one call; without picks a query attends to all it sees."""

    of: dense.Case
    picks: Tensor | None

    def run(self, limit: int = LIMIT) -> Tensor:
        c = self.of
        return sparse_latent_attend(
            c.q, c.entries, c.weight, c.time, nope=c.nope, scale=SCALE, picks=self.picks, limit=limit
        )

    def attended(self, b: int, j: int) -> list[int]:
        """The tokens that a query attends to."""
        if self.picks is not None:
            return [i for i in self.picks[b, j].tolist() if i >= 0]
        slot = self.of.time.pasts[b] + j
        return list(range(self.of.time.start(b, slot), slot + 1))

    def keys(self, b: int, j: int, h: int) -> Tensor:
        """Keys of a head that a query meets."""
        c, latent = self.of, self.of.weight.shape[1]
        maps, seen = c.weight.view(c.q.shape[2], -1, latent), c.entries[b, self.attended(b, j)]
        return torch.cat([seen[:, :latent] @ maps[h, : c.nope].T, seen[:, latent:]], 1)

    def defined(self) -> Tensor:
        """One query and one head at a time; 0 where it attends to nothing, and at padding."""
        c, latent = self.of, self.of.weight.shape[1]
        maps = c.weight.view(c.q.shape[2], -1, latent)
        out = c.q.new_zeros(*c.q.shape[:3], maps.shape[1] - c.nope)
        for b, j in c.time.valid():
            seen = c.entries[b, self.attended(b, j)]
            for h in range(maps.shape[0]) if len(seen) else ():
                weights = (SCALE * (self.keys(b, j, h) @ c.q[b, j, h])).softmax(0)
                out[b, j, h] = weights @ (seen[:, :latent] @ maps[h, c.nope :].T)
        return out

    def valid(self, x: Tensor) -> Tensor:
        return self.of.valid(x)


@st.composite
def cases(draw: st.DrawFn, *, picked: bool | None = None) -> Case:
    """Any rows and odd sizes; picks are distinct tokens that a query sees, some or none."""
    of = case(
        draw(rows(most=12)),
        heads=draw(st.integers(1, 3)),
        latent=draw(st.sampled_from([1, 3, 8])),
        nope=draw(st.integers(1, 5)),
        shared=draw(st.sampled_from([0, 2, 3])),
        values=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 1 << 20)),
    )
    if not (draw(st.booleans()) if picked is None else picked):
        return Case(of=of, picks=None)
    r, k, batch = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30))), draw(st.integers(1, 4)), len(of.q)
    picks = torch.full((batch, of.time.new, k), -1)
    for b, j in of.time.valid():
        slot = of.time.pasts[b] + j
        own = torch.arange(of.time.start(b, slot), slot + 1)
        few = int(torch.randint(0, k + 1, (), generator=r))
        ids = own[torch.randperm(len(own), generator=r)[:few]]
        picks[b, j, : len(ids)] = ids
    return Case(of=of, picks=picks)


@settings(max_examples=40)
@given(case=cases(), limit=LIMITS)
def test_attention_equals_its_definition(case: Case, limit: int) -> None:
    got = case.run(limit)
    torch.testing.assert_close(case.valid(got), case.valid(case.defined()), rtol=1e-11, atol=1e-12)
    assert got.isfinite().all()


@settings(max_examples=40)
@given(case=cases(), limit=LIMITS)
def test_gradients_equal_those_of_the_definition(case: Case, limit: int) -> None:
    found = []
    for run in (Case.defined, lambda c: c.run(limit)):
        leaves = [x.clone().requires_grad_() for x in (case.of.q, case.of.entries, case.of.weight)]
        q, entries, weight = leaves
        out = case.valid(run(replace(case, of=replace(case.of, q=q, entries=entries, weight=weight))))
        # Weights that differ by output catch gradients that only agree in sum.
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        found.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@given(case=cases(), limit=LIMITS)
def test_the_log_sum_exp_is_that_of_the_logits(case: Case, limit: int) -> None:
    c = case.of
    fields = {"nope": c.nope, "scale": SCALE, "picks": case.picks, "limit": limit}
    c.q.requires_grad_()
    out, lse = sparse_latent_attend_lse(c.q, c.entries, c.weight, c.time, **fields)
    assert lse is not None and lse.shape == c.q.shape[:3] and not lse.requires_grad
    assert torch.equal(out, case.run(limit))
    for b, j in c.time.valid():
        for h in range(c.q.shape[2]) if case.attended(b, j) else ():
            want = (SCALE * (case.keys(b, j, h) @ c.q[b, j, h])).logsumexp(0)
            torch.testing.assert_close(lse[b, j, h], want, rtol=1e-10, atol=1e-12)
    unasked = sparse_latent_attend_lse(c.q, c.entries, c.weight, c.time, **fields, wanted=False)
    assert unasked[1] is None


@settings(max_examples=60)
@given(case=cases(), limit=LIMITS, index_heads=st.integers(1, 4), width=st.integers(1, 4))
def test_the_index_loss_of_latents_is_the_equation_written_out(
    case: Case, limit: int, index_heads: int, width: int
) -> None:
    """p is the attention that a token gets, summed over heads, of keys that are not made."""
    c, r = case.of, torch.Generator().manual_seed(1)
    (batch, new), count = c.q.shape[:2], c.entries.shape[1]
    shapes = (batch, new, index_heads, width), (batch, count, width), (batch, new, index_heads)
    queries, keys, weights = (torch.randn(*s, dtype=torch.float64, generator=r).requires_grad_() for s in shapes)
    fields = {"nope": c.nope, "scale": SCALE, "picks": case.picks}
    _, lse = sparse_latent_attend_lse(c.q, c.entries, c.weight, c.time, **fields)
    assert lse is not None
    operands = queries, keys, weights, c.q, c.entries, lse, c.time
    loss = index_divergence(*operands, latent_weight=c.weight, limit=limit, **fields)
    parts = []
    for b, j in c.time.valid():
        ids = case.attended(b, j)
        if not ids:
            continue
        logits = torch.stack([SCALE * (case.keys(b, j, h) @ c.q[b, j, h]) for h in range(c.q.shape[2])])
        p = logits.softmax(-1).sum(0)
        scores = index_loss.scores(
            queries[b, j].detach().numpy(), keys[b, ids].detach().numpy(), weights[b, j].detach().numpy()
        )
        parts.append(index_loss.divergence((p / p.sum()).numpy(), scores))
    assert loss.item() == pytest.approx(sum(parts) / max(1, len(parts)), rel=1e-10, abs=1e-12)
    loss.backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (queries, keys, weights))


@given(case=cases(picked=True))
def test_what_nobody_picked_is_not_read(case: Case) -> None:
    """Where picked latents are gathered: neither values nor gradients know what else there is."""
    c, picks = case.of, case.picks
    assert picks is not None
    named = torch.zeros(c.entries.shape[:2], dtype=torch.bool)
    for b in range(len(picks)):
        named[b, picks[b][picks[b] >= 0]] = True
    named[:, 0] |= (picks < 0).all(-1).any(-1)  # a query without any pick reads a row, and throws it away
    spoiled = c.entries.masked_fill(~named[..., None], float("nan"))
    few = Case(of=replace(c, entries=spoiled), picks=picks[..., : max(1, c.entries.shape[1] // 2 - 1)])
    if c.entries.shape[1] <= 2 * few.picks.shape[-1]:
        return  # picks are looked up among all
    clean = replace(few, of=c)
    torch.testing.assert_close(few.run(), clean.run(), rtol=0, atol=0)
    q, entries = c.q.clone().requires_grad_(), spoiled.clone().requires_grad_()
    replace(few, of=replace(few.of, q=q, entries=entries)).run().sum().backward()
    assert q.grad.isfinite().all() and entries.grad.isfinite().all()
    assert not entries.grad[~named].any()


@settings(max_examples=25)
@given(case=cases(), limit=LIMITS)
def test_blocks_count_what_runs(case: Case, limit: int) -> None:
    """Two products for every pair forward, six backward; and those that map queries and values."""
    c = case.of
    (batch, new, heads, _), (_, count, wide), latent = c.q.shape, c.entries.shape, c.weight.shape[1]
    values = c.weight.shape[0] // heads - c.nope
    pairs = latent_pairs(
        batch=batch,
        heads=heads,
        width=wide,
        past=c.time.past,
        new=new,
        entries=count,
        picks=None if case.picks is None else case.picks.shape[-1],
        limit=limit,
    )
    mapped, met = 2 * batch * new * heads * latent, 2 * batch * heads * pairs * (wide + latent)
    leaves = [x.clone().requires_grad_() for x in (c.q, c.entries, c.weight)]
    of = replace(c, q=leaves[0], entries=leaves[1], weight=leaves[2])
    with FlopCounterMode(display=False) as counter:
        out = replace(case, of=of).run(limit)
        forward = counter.get_total_flops()
        out.sum().backward()
        total = counter.get_total_flops()
    assert forward == mapped * (c.nope + values) + met
    assert total - forward == mapped * (3 * c.nope + 2 * values) + 3 * met


@settings(max_examples=100)
@given(
    past=st.integers(0, 90),
    new=st.integers(1, 150),
    entries=st.integers(1, 200),
    picks=st.one_of(st.none(), st.integers(1, 70)),
    limit=st.sampled_from([1, 50, 3000, 1 << 24]),
)
def test_pairs_are_the_sum_over_blocks(past: int, new: int, entries: int, picks: int | None, limit: int) -> None:
    size = {"batch": 2, "heads": 3, "width": 5, "past": past, "new": new, "picks": picks, "limit": limit}
    count = min(entries, past + new)
    _, blocks = latent_blocks(**size, entries=count)
    assert latent_pairs(**size, entries=count) == sum((b - a) * columns for a, b, columns in blocks)
    assert [a for a, _, _ in blocks[1:]] == [b for _, b, _ in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, new)


@pytest.mark.parametrize(
    ("past", "new", "picks"), [(0, 3000, None), (20_000, 70, 64), (0, 3000, 2000), (65_536, 1, 512)]
)
def test_no_temporary_exceeds_the_limit(past: int, new: int, picks: int | None) -> None:
    c = case(after(past, new), heads=8, latent=24, nope=3, shared=8, values=2, dtype=torch.float32)
    ids = None
    if picks is not None:
        ids, slots = torch.arange(picks).expand(1, new, picks), torch.arange(past, past + new)
        ids = ids.where(ids <= slots[:, None], -1)
    with Watch() as watch, torch.no_grad():
        Case(of=c, picks=ids).run(1 << 20)
    assert watch.largest <= 1 << 20


def test_decoding_reads_the_picked_latents_alone() -> None:
    """64 of 50,000: nothing as large as a thousandth of the cache, packed or not."""
    c = case(after(50_000, 1, batch=2), heads=4, latent=64, shared=16, dtype=torch.float32)
    picks = torch.randint(0, 50_000, (2, 1, 64))
    packing = Fp8Tiles(plain=16)
    packed = Packed(data=packing.encode(c.entries), packing=packing, channels=80, dtype=torch.float32)
    exact = packed.decode()
    for entries, same in ((c.entries, c.entries), (packed, exact)):
        with Watch() as watch, torch.no_grad():
            got = Case(of=replace(c, entries=entries), picks=picks).run()
        assert watch.largest <= 2 * 64 * 128  # channels come in tiles of 128
        torch.testing.assert_close(got, Case(of=replace(c, entries=same), picks=picks).defined(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("new", [1, 9])
def test_half_precision_stays_near_float64(dtype: torch.dtype, new: int) -> None:
    c = case(after(60, new, batch=2), heads=4, latent=16, nope=8, values=8, dtype=dtype)
    picks = torch.stack([torch.randperm(60)[:20] for _ in range(2 * new)]).view(2, new, 20)
    exact = replace(c, q=c.q.double(), entries=c.entries.double(), weight=c.weight.double())
    want, got = Case(of=exact, picks=picks).defined(), Case(of=c, picks=picks).run()
    assert got.dtype == dtype
    # A rounding of mapped queries, means and outputs each, of values near one.
    assert (got - want).abs().max() < 8 * torch.finfo(dtype).eps * want.abs().max()
