"""Builds a layer out of drawers, runs it by the graph interpreter in float64, and plays any history of calls with
it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from archc.graph import Builder, Value
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.graph.verify import verify
from archc.ops import Workload
from archc.ops.time import row_parts
from archc.plan.passes import PASSES
from tests.flops import counted
from tests.oracles.rows import Array, Weights

Layer = Callable[..., Any]
"""(g, x) -> x: the forward of the one layer of a case."""

MOST = 40
"""Tokens that a cache of a case holds."""
REWIND = 6


def torch_time() -> Any:
    """The `Time` of generated packages."""
    return import_module(f"{torch_package().__name__}.runtime.time").Time


def build(
    layer: Layer,
    *,
    dim: int,
    vocab: int,
    start: Layer | None = None,
    finish: Layer | None = None,
    streams: int | None = None,
    passes: Sequence[Callable[[Any], Any]] = PASSES,
) -> Any:
    """A graph after ``passes``: an embedding, what ``start`` makes of it (a value, or several that the layer takes and
    gives), one layer, what ``finish`` makes of that.

    With ``streams`` tokens embed as [B, S, streams, dim].
    """
    g = Builder("case")

    def backbone(g: Builder) -> Value:
        x = g.embedding("embed", g.tokens, rows=vocab, dim=dim * (streams or 1))
        if streams:
            x = g.unflatten(x, sizes=(streams, dim))
        begun = start(g, x) if start else x
        state = g.stack("layers", [0], lambda key: layer, *(begun if isinstance(begun, tuple) else (begun,)))
        return finish(g, *state) if finish else state[0]

    x = g.call("model", "Backbone", backbone, doc="A case.")
    g.graph.root.returns = [x]
    graph = g.graph
    for run in passes:
        graph = run(graph)
    verify(graph)
    return graph


@dataclass
class Case:
    """A graph with random float64 parameters."""

    graph: Any
    parameters: dict[str, Tensor]
    interpreter: Interpreter = field(init=False)

    def __post_init__(self) -> None:
        self.interpreter = Interpreter(self.graph, self.parameters)

    @classmethod
    def random(cls, graph: Any, seed: int, **buffers: Tensor) -> Case:
        """Weights of unit gain, norms and scales near one, biases of a third; integer buffers by the end of their
        names."""
        r = torch.Generator().manual_seed(seed)
        parameters = {}
        for p in graph.parameters():
            last = p.name.rsplit(".", 1)[-1]
            if last in buffers:
                parameters[p.name] = buffers[last]
                continue
            noise = torch.randn(p.spec.shape, dtype=torch.float64, generator=r)
            if p.spec.role == "norm" or last in ("scale", "hc_scale"):
                parameters[p.name] = 1 + 0.3 * noise
            elif len(p.spec.shape) == 1 or p.spec.role in ("bias", "embedding", "table"):
                parameters[p.name] = noise * (0.3 if p.spec.role == "bias" else 1.0)
            else:
                parameters[p.name] = noise * p.spec.shape[-1] ** -0.5
        return cls(graph, parameters)

    def weights(self, prefix: str) -> Weights:
        """The parameters under a prefix, as the transcriptions take them."""
        return {n.removeprefix(prefix): p.numpy() for n, p in self.parameters.items() if n.startswith(prefix)}

    def embedded(self, tokens: Sequence[int]) -> Array:
        """What the layer gets for a row of tokens."""
        return self.parameters["model.embed.weight"].numpy()[list(tokens)]

    def run(
        self, tokens: Tensor, cache: Any = None, counts: Sequence[int] | None = None, starts: Tensor | None = None
    ) -> Tensor:
        """The results for ``tokens`` [B, S], of which row b has ``counts[b]``, after what the cache holds."""
        batch, new = tokens.shape
        counts = [new] * batch if counts is None else list(counts)
        known = [0] * batch if cache is None else cache.known
        first = torch.zeros(batch, dtype=torch.int64) if cache is None else cache.lengths
        slots = first[:, None] + torch.arange(new)
        time = torch_time()(
            first=first,
            count=torch.tensor(counts),
            positions=(slots if starts is None else slots - starts).double(),
            starts=starts,
            past=max(known),
            new=new,
            cached=cache is not None,
            aligned=len(set(known)) == 1,
            full=set(counts) == {new},
        )
        (out,) = self.interpreter.run(tokens, time, cache)
        if cache is not None:
            cache.advance(torch.tensor(counts), counts)
        return out

    def executed(self, workload: Workload) -> int:
        """FLOPs that the plan says the references execute."""
        return sum(
            times * node.op.cost(workload, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs)).executed
            for node, times in self.graph.walk()
        )

    def state_bytes(self, batch: int) -> int:
        """Bytes that the plan says a float64 cache has."""
        rows = (
            store.rows(MOST, REWIND) * sum(row_parts(store, element=8).values()) for _, _, store in self.graph.states()
        )
        return batch * (sum(rows) + 8)


Expected = Callable[[Sequence[int], int], Array]
"""The transcription's result for a row of tokens, from a token on: [len(tokens) - start, ...]."""


def close(got: Tensor, want: Array) -> None:
    """Equal to 1e-10 of the largest, which must not be zero."""
    assert got.isfinite().all()
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-10 * max(1.0, float(np.abs(want).max())))


def play_whole(case: Case, expected: Expected, data: st.DataObject, vocab: int, most: int) -> None:
    """One forward without a cache of rows of any lengths, right-padded with any token."""
    batch = data.draw(st.integers(1, 3), label="rows")
    counts = [data.draw(st.integers(1, most), label="tokens") for _ in range(batch)]
    tokens = _tokens(data, (batch, max(counts)), vocab)
    out = case.run(tokens, counts=counts)
    for b, n in enumerate(counts):
        close(out[b, :n], expected(tokens[b, :n].tolist(), 0))


def play_cached(case: Case, expected: Expected, data: st.DataObject, vocab: int, most: int) -> None:
    """Calls with chunks of any sizes, ragged or not, rows taken back by any number of tokens in between."""
    batch = data.draw(st.integers(1, 3), label="rows")
    cache = case.interpreter.new_cache(batch, MOST, REWIND)
    rows: list[list[int]] = [[] for _ in range(batch)]
    assert cache.bytes() == case.state_bytes(batch)
    while max(map(len, rows)) < most:
        new = data.draw(st.integers(1, most - max(map(len, rows))), label="columns")
        ragged = data.draw(st.booleans(), label="ragged")
        counts = [data.draw(st.integers(0, new), label="tokens") if ragged else new for _ in range(batch)]
        tokens = _tokens(data, (batch, new), vocab)
        out = case.run(tokens, cache, counts)
        for b, n in enumerate(counts):
            start = len(rows[b])
            rows[b] += tokens[b, :n].tolist()
            if n:
                close(out[b, :n], expected(rows[b], start))
        if data.draw(st.integers(0, 3), label="take back") == 0:
            most -= 1  # so that the history ends
            limit = [min(len(rows[b]) - cache.reach[b], REWIND, len(rows[b])) for b in range(batch)]
            dropped = [data.draw(st.integers(0, max(0, n)), label="dropped") for n in limit]
            cache.rewind(dropped)
            for b, k in enumerate(dropped):
                del rows[b][len(rows[b]) - k :]


def play_packed(case: Case, expected: Expected, data: st.DataObject, vocab: int, most: int) -> None:
    """Sequences packed into rows give what each gives alone."""
    batch = data.draw(st.integers(1, 2), label="rows")
    lengths = [data.draw(st.lists(st.integers(1, most), min_size=1, max_size=3), label="lengths") for _ in range(batch)]
    counts = [sum(ls) for ls in lengths]
    tokens = _tokens(data, (batch, max(counts)), vocab)
    starts = torch.zeros_like(tokens)
    for b, ls in enumerate(lengths):
        begin = 0
        for length in [*ls, max(counts) - counts[b]]:
            starts[b, begin : begin + length] = begin
            begin += length
    out = case.run(tokens, counts=counts, starts=starts)
    for b, ls in enumerate(lengths):
        begin = 0
        for length in ls:
            close(out[b, begin : begin + length], expected(tokens[b, begin : begin + length].tolist(), 0))
            begin += length


def check_flops(case: Case, vocab: int, *, batch: int, past: int, new: int, cached: bool) -> None:
    """The plan's executed FLOPs are those that PyTorch counts."""
    cache = case.interpreter.new_cache(batch, MOST, REWIND) if cached else None
    if past:
        case.run(torch.randint(vocab, (batch, past)), cache)
    tokens = torch.randint(vocab, (batch, new))
    with counted() as counter:
        case.run(tokens, cache)
    assert counter.get_total_flops() == case.executed(Workload(batch=batch, new=new, past=past, cached=cached)) > 0


def check_gradient(case: Case, vocab: int, without: tuple[str, ...] = ()) -> None:
    """The gradient along a random direction is the slope of the loss; only parameters of names in ``without`` get
    none."""
    r = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab, (2, 13), generator=r)
    leaves = {n: p.clone().requires_grad_() for n, p in case.parameters.items() if p.is_floating_point()}
    pull: Tensor | None = None

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        nonlocal pull
        out = Case(case.graph, case.parameters | parameters).run(tokens, counts=[13, 10])
        out = torch.cat([out[0].flatten(), out[1, :10].flatten()])
        pull = torch.randn(out.shape, dtype=torch.float64, generator=r) if pull is None else pull
        return (out * pull).sum()

    loss(leaves).backward()
    trained = {n: p for n, p in leaves.items() if not any(w in n for w in without)}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    assert all(p.grad is None for n, p in leaves.items() if n not in trained)
    direction = {n: torch.randn(p.shape, dtype=torch.float64, generator=r) for n, p in trained.items()}
    slope = sum(float((p.grad * direction[n]).sum()) for n, p in trained.items() if p.grad is not None)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (loss({n: p + s * direction[n] for n, p in trained.items()}) for s in (step, -step))
    assert abs(float(ahead - behind) / (2 * step) - slope) < 1e-5 * max(1.0, abs(slope))


def _tokens(data: st.DataObject, shape: tuple[int, int], vocab: int) -> Tensor:
    seed = data.draw(st.integers(0, 1 << 30), label="seed of tokens")
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))
