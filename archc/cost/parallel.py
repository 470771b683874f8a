"""Parallel plans: pipeline stages, the bubble between them, and what devices send each other.

Devices are numbered with tp innermost, then cp, fsdp, dp and pp: groups of neighbours share fast links. Experts are
spread over ep neighbours of a stage, whatever else these are. A collective over more devices than a fast domain holds
runs in two levels, as rings of all links do: within the domain, and between domains by every device for its part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from archc.cost.formats import held, size_of
from archc.cost.placement import Split, Unit, Units, cached_rows, handed_on, routed, routing, rows_read, splits, units
from archc.cost.report import Mode
from archc.cost.setting import Parallel, Setting
from archc.graph import Graph, Value
from archc.ops import ParamSpec, Workload, numel
from archc.record import dataclass
from archc.schema import Model

LOOKED_UP = "rows of tables"
Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A way in which a device talks to ``ways`` - 1 others, ``count`` times a step.

    ``bytes`` are those that one device sends in one of them; ``network``: beyond the domain of fast links.
    """

    kind: Kind
    what: str
    ways: int
    bytes: float
    count: int
    network: bool


@dataclass(frozen=True, slots=True)
class Groups:
    """Over how many devices what is repeated, and what is sharded, under a plan."""

    model: int
    """Ways in which the weights of one expert group are spread: experts, and channels where tp goes beyond ep."""
    channels: int
    """Of these, ways in which the channels of an expert are split."""
    shards: int
    copies: int
    expert_shards: int
    expert_copies: int


def groups(setting: Setting) -> Groups:
    """The groups of a plan: cp's devices hold weights as fsdp's do if there are any, else as dp's do."""
    return _groups(setting.parallel)


@lru_cache(maxsize=1024)
def _groups(p: Parallel) -> Groups:
    stage = p.devices // p.pp
    model = math.lcm(p.tp, p.ep)
    sharded = p.fsdp > 1
    reach = math.lcm(p.tp * p.cp * p.fsdp, model) if sharded else model
    return Groups(
        model=model,
        channels=model // p.ep,
        shards=p.fsdp * p.cp if sharded else 1,
        copies=p.dp if sharded else p.dp * p.cp,
        expert_shards=reach // model,
        expert_copies=stage // reach,
    )


# --- pipeline ------------------------------------------------------------------------------------
@lru_cache(maxsize=64)
def stages(graph: Graph, pp: int) -> tuple[tuple[int, ...], ...]:
    """The layers of each of ``pp`` pipeline stages: neighbours, so that the busiest stage has as little to do as can
    be. A layer's work is its ideal FLOPs at 4096 tokens, the head and further tokens count with the last stage.

    Raises ValueError where there are more stages than layers.
    """
    from archc.cost.count import node_cost

    parts = units(graph)
    layers = len(parts.schedule)
    if pp > layers:
        raise ValueError(f"pp={pp} stages are more than the {layers} layers")
    if pp == 1:
        return (tuple(range(layers)),)
    w = Workload(batch=1, new=4096)

    def work(unit: Unit) -> int:
        return sum(node_cost(node, w).useful for node in unit.nodes())

    each = [work(unit) for unit in parts.kinds]
    before = work(parts.first)
    after = work(parts.last) + sum(map(work, parts.ahead))
    sums = [0]
    for kind in parts.schedule:
        sums.append(sums[-1] + each[kind])

    def cost(stage: int, start: int, end: int) -> int:
        return sums[end] - sums[start] + (before if stage == 0 else 0) + (after if stage == pp - 1 else 0)

    # best[n]: (busiest stage, sum of squares, cuts) of the first n layers on the stages so far
    best: list[tuple[int, int, tuple[int, ...]] | None] = [(0, 0, ())] + [None] * layers
    for stage in range(pp):
        found: list[tuple[int, int, tuple[int, ...]] | None] = [None] * (layers + 1)
        for end in range(stage + 1, layers - (pp - stage - 1) + 1):
            for start in range(stage, end):
                known = best[start]
                if known is None:
                    continue
                c = cost(stage, start, end)
                tried = (max(known[0], c), known[1] + c * c)
                now = found[end]
                if now is None or tried < now[:2]:
                    found[end] = (*tried, (*known[2], start))
        best = found
    last = best[layers]
    assert last is not None
    cuts = (*last[2], layers)
    return tuple(tuple(range(a, b)) for a, b in pairwise(cuts))


def bubble(setting: Setting, batch: int) -> float:
    """The share of a step that a stage waits for others, of ``batch`` rows.

    With a forward of a micro-batch taking 1, its backward 2, of which 1 is for the weights: ``1f1b`` waits
    3 (pp - 1) / chunks (interleaved: Narayanan et al. 2021, arXiv:2104.04473), ``zero_bubble`` pp - 1 (ZB-H1,
    arXiv:2401.10241), and ``dualpipe`` 2 (pp / 2 - 1) (DeepSeek-V3, arXiv:2412.19437, table 2), beside 3 for each
    micro-batch.
    """
    pp = setting.parallel.pp
    if pp == 1:
        return 0.0
    waits = {"1f1b": 3 * (pp - 1) / setting.chunks, "zero_bubble": pp - 1, "dualpipe": max(0, pp - 2)}[setting.schedule]
    return waits / (3 * setting.micros(batch) + waits)


# --- collectives ---------------------------------------------------------------------------------
def collectives(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> tuple[Collective, ...]:
    """What a device sends in a step, on the pipeline stage that sends most.

    - tp (with sequences split between its devices, arXiv:2205.05198): around every sub-layer that is split an
      all-gather and a reduce-scatter of the stream; in the backward the same, and the all-gather once more for the
      gradients of weights. Serving: the two are the all-reduce that is usual there.
    - ep: every token once to each device that has experts of its, and back; between domains once to each domain.
      Expected numbers where every choice that the router's groups allow is as likely.
    - fsdp, ZeRO-3: all-gathers of each layer's weights forward and backward (what stands outside of layers once),
      a reduce-scatter of its gradients, for every micro-batch. ZeRO-1: one reduce-scatter of gradients and one
      all-gather of weights a step; ZeRO-2 reduces every micro-batch.
    - dp: one all-reduce of gradients (under fsdp: of its shard) a step.
    - Rows of large tables, whose parts are on all devices that tp, ep and ZeRO-3 spread parameters over: those that a
      device's tokens read come from the devices that have them, their gradients go back (Engram, arXiv:2601.07372).
      Tables are not gathered. Of those on hosts and disks, gradients are not reduced either.
    - pp: the streams to the next stage, their gradients back, for every micro-batch.
    - cp: all-gathers of keys, values and entries forward and backward, a reduce-scatter of their gradients
      (arXiv:2407.21783, section 3.3.2); the tails of windows go to the neighbour. Decode gathers partial results.

    Recomputation of whole layers (`full`) repeats what the forward of layers sends, gathers of weights excepted; the
    other policies keep what came from other devices.
    """
    parallel = setting.parallel
    if parallel.devices == 1:
        return ()
    parts = units(graph)
    every = {}
    for stage, layers in enumerate(stages(graph, parallel.pp)):
        held_by = stage_units(parts, layers, stage, parallel.pp, training=mode == "train")
        alike = (stage == 0, stage == parallel.pp - 1, *((id(unit), times) for unit, times in held_by))
        if alike not in every:
            every[alike] = tuple(_of_stage(model, graph, w, mode, setting, stage))
    return max(every.values(), key=lambda found: sum(c.bytes * c.count for c in found))


def _of_stage(
    model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, stage: int
) -> Iterator[Collective]:
    p, g = setting.parallel, groups(setting)
    domain = setting.hardware.domain if setting.hardware is not None else p.devices
    train = mode == "train"
    local = local_workload(w, setting)
    micros = setting.micros(w.batch)
    again = 1 if train and setting.recompute == "full" else 0
    act = model.precision.activation
    split = splits(graph)
    held_by = stage_units(units(graph), stages(graph, p.pp)[stage], stage, p.pp, training=train)
    runs = 1 + again
    around: tuple[tuple[Kind, int], ...] = (("all_gather", 2), ("reduce_scatter", 1))  # and how often in a backward

    for unit, times in held_by:
        # --- tensor parallelism
        if p.tp > 1:
            stream = numel((local.batch, local.new), local) * model.dim * act
            mixers = sum(1 for v in unit.params() if v in split and split[v].axis == 1)
            for kind, back in around:
                n = mixers * times * micros * ((runs if unit.layer else 1) + (back if train else 0))
                yield from _spread(kind, "the stream (tp)", stream, p.tp, 1, domain, n)
            ends = sum(1 for v in unit.params() if v.param is not None and v.param.role in ("embedding", "head"))
            for kind, _ in around[: 2 if train else 1]:
                yield from _spread(kind, "the stream (tp)", stream, p.tp, 1, domain, ends * micros)
        # --- experts
        route = routing(unit)
        if route is not None and p.ep > 1:
            rows = local.batch * local.new / p.tp
            within, between = _levels(p.ep, 1, domain)
            for way in ("dispatch", "combine"):
                form = model.precision.sent(way)
                row = sum(size_of(form, (1, route.width)))
                n = times * micros * ((runs if unit.layer else 1) + (1 if train else 0))
                hot = setting.imbalance
                if within > 1:
                    sent = rows * route.reached(p.ep) * (within - 1) / within * row * hot
                    yield Collective(
                        kind="all_to_all", what=f"{way} (ep)", ways=within, bytes=sent, count=n, network=False
                    )
                if between > 1:
                    sent = rows * route.reached(between) * (between - 1) / between * row * hot
                    yield Collective(
                        kind="all_to_all", what=f"{way} (ep)", ways=between, bytes=sent, count=n, network=True
                    )
        # --- rows of tables
        looked_up = rows_bytes(model, unit, train) * local.batch * local.new / p.tp
        within, between = _levels(table_ways(setting), 1, domain)
        for ways, network in ((within, False), (between, True)):
            if looked_up and ways > 1:
                n = times * micros * (runs + train)
                yield Collective(
                    kind="all_to_all",
                    what=LOOKED_UP,
                    ways=ways,
                    bytes=looked_up * (ways - 1) / ways,
                    count=n,
                    network=network,
                )
        if route is not None and g.channels > 1:
            rows = local.batch * local.new / p.tp * route.active * route.width * act * g.channels
            n = times * micros * ((runs if unit.layer else 1) + (1 if train else 0))
            for kind, _ in around:
                yield from _spread(kind, "rows of experts (tp)", rows, g.channels, p.ep, domain, n)
        # --- sequences
        if p.cp > 1:
            yield from _sequences(unit, times, local, mode, setting, act, domain, runs, micros)
        # --- weights and gradients
        yield from _weights(model, unit, times, split, mode, setting, domain, micros)
    # --- pipeline
    if p.pp > 1:
        hop = handed_on(graph, local) * act / p.tp
        away = p.devices > domain
        for forward in (True, False):
            sends = micros * ((stage < p.pp - 1) if forward else (train and stage > 0))
            if sends:
                what = "the stream (pp)" if forward else "its gradient (pp)"
                yield Collective(kind="send", what=what, ways=2, bytes=hop, count=sends, network=away)


def local_workload(w: Workload, setting: Setting) -> Workload:
    """What a device works on at a time: rows of a micro-batch, of which it has the part that cp leaves it."""
    cp = setting.parallel.cp
    if w.new >= cp:
        return replace(w, batch=setting.at_once(w.batch), new=math.ceil(w.new / cp))
    return replace(w, batch=setting.at_once(w.batch))


def stage_units(
    parts: Units, layers: tuple[int, ...], stage: int, pp: int, *, training: bool
) -> tuple[tuple[Unit, int], ...]:
    """The units of a pipeline stage and how many there are of each."""
    counts = [sum(1 for i in layers if parts.schedule[i] == k) for k in range(len(parts.kinds))]
    found = [(unit, n) for unit, n in zip(parts.kinds, counts, strict=True) if n]
    if stage == 0:
        found.insert(0, (parts.first, 1))
    if stage == pp - 1:
        found.append((parts.last, 1))
        if training:
            found += [(unit, 1) for unit in parts.ahead]
    return tuple(found)


def _levels(ways: int, stride: int, domain: int) -> tuple[int, int]:
    """Of ``ways`` devices that stand ``stride`` apart: how many share a domain, and over how many domains they are."""
    room = max(1, domain // stride)
    within = next(n for n in range(min(ways, room), 0, -1) if ways % n == 0)
    return within, ways // within


def _spread(
    kind: Kind, what: str, total: float, ways: int, stride: int, domain: int, count: int
) -> Iterator[Collective]:
    """A collective of ``total`` bytes over ``ways`` devices, in two levels: of n devices of a domain each sends
    (n - 1) / n of all within it, and its nth of what m domains need, (m - 1) / m, beyond it. Both together
    (ways - 1) / ways of all; an all-reduce sends twice that.
    """
    if ways == 1 or not total or not count:
        return
    within, between = _levels(ways, stride, domain)
    twice = 2 if kind == "all_reduce" else 1
    if within > 1:
        sent = twice * total * (within - 1) / within
        yield Collective(kind=kind, what=what, ways=within, bytes=sent, count=count, network=False)
    if between > 1:
        sent = twice * total / within * (between - 1) / between
        yield Collective(kind=kind, what=what, ways=between, bytes=sent, count=count, network=True)


def _sequences(
    unit: Unit, times: int, local: Workload, mode: Mode, setting: Setting, act: int, domain: int, runs: int, micros: int
) -> Iterator[Collective]:
    """What devices of cp send for the attention of a unit."""
    p = setting.parallel
    runs = runs if unit.layer else 1
    if mode == "decode":
        partial = sum(
            numel(node.outs[0].shape, local) * 4 / math.gcd(node.outs[0].type.fixed(2), p.tp)
            for node in unit.nodes()
            if node.op.fused == "attention"
        )
        yield from _spread("all_reduce", "partial attention (cp)", partial, p.cp, p.tp, domain, times * micros)
        return
    whole, tail = (n * act for n in cached_rows(unit, local, p.tp))
    train = mode == "train"
    n = times * micros
    yield from _spread("all_gather", "keys (cp)", whole * p.cp, p.cp, p.tp, domain, n * (runs + train))
    if train:
        yield from _spread("reduce_scatter", "gradients of keys (cp)", whole * p.cp, p.cp, p.tp, domain, n)
    if tail:
        away = p.tp * p.cp > domain
        what = "tails of windows (cp)"
        yield Collective(kind="send", what=what, ways=2, bytes=tail, count=n * (runs + train), network=away)


def shard_shape(spec: ParamSpec, split: Split | None, setting: Setting) -> tuple[int, ...]:
    """The part of a parameter that a device works with: what tp and ep leave of it, uneven parts rounded up."""
    p, g = setting.parallel, groups(setting)
    shape = list(spec.shape)
    if routed(spec):
        shape[0] = math.ceil(shape[0] / p.ep)
        if len(shape) == 3 and g.channels > 1:
            shape[1] = math.ceil(shape[1] / g.channels)
    elif spec.role == "table":
        shape[0] = math.ceil(shape[0] / g.model)
    elif split is not None:
        shape[split.axis] = math.ceil(shape[split.axis] / split.ways(p.tp))
    return tuple(shape)


def table_ways(setting: Setting) -> int:
    """Over how many devices the rows of a table are spread where a forward looks them up."""
    g = groups(setting)
    return g.model * (g.expert_shards if setting.zero == 3 else 1)


def rows_bytes(model: Model, unit: Unit, train: bool) -> float:
    """Bytes of the rows of a unit's tables that a token reads."""
    found = 0.0
    for value in unit.params():
        spec = value.param
        if spec is not None and spec.role == "table":
            row = size_of(held(spec, model.precision, training=train), (1, spec.shape[-1]))
            found += rows_read(spec) * sum(row)
    return found


def _weights(
    model: Model,
    unit: Unit,
    times: int,
    split: dict[Value, Split],
    mode: Mode,
    setting: Setting,
    domain: int,
    micros: int,
) -> Iterator[Collective]:
    """What sharded and repeated weights of a unit, and their gradients, cost."""
    p, g = setting.parallel, groups(setting)
    train = mode == "train"
    for experts, shards, copies, stride in (
        (False, g.shards, g.copies, p.tp),
        (True, g.expert_shards, g.expert_copies, g.model),
    ):
        weights = gradients = tables = 0.0
        for value in unit.params():
            spec = value.param
            assert spec is not None
            if spec.buffer or (routed(spec) or spec.role == "table") != experts or setting.tier(spec) != "device":
                continue
            shape = shard_shape(spec, split.get(value), setting)
            if spec.role == "table" and setting.zero == 3:  # their rows are exchanged
                tables += math.prod(shape) * gradient_bytes(spec, model)
                continue
            weights += sum(size_of(held(spec, model.precision, training=train), shape))
            gradients += math.prod(shape) * gradient_bytes(spec, model)
        what = "experts" if experts else "weights"
        if shards > 1:
            # What stands outside of layers is gathered once: it is not put away after the forward.
            gathers = micros * (2 if train and unit.layer else 1) if setting.zero == 3 else 1 if train else 0
            yield from _spread("all_gather", f"{what} (fsdp)", weights, shards, stride, domain, times * gathers)
            reduces = (micros if setting.zero > 1 else 1) if train else 0
            yield from _spread(
                "reduce_scatter", f"gradients of {what} (fsdp)", gradients, shards, stride, domain, times * reduces
            )
        if train:
            yield from _spread(
                "all_reduce",
                f"gradients of {what} (dp)",
                (gradients + tables) / shards,
                copies,
                stride * shards,
                domain,
                times,
            )
    if train and p.tp > 1:
        # Devices of tp see tokens of their own between sub-layers, so what all of them repeat has gradients to add up.
        repeated = (v.param for v in unit.params() if v.param is not None and v not in split)
        own = [s for s in repeated if not (s.buffer or routed(s) or s.role == "table")]
        total = sum(math.prod(s.shape) * gradient_bytes(s, model) for s in own)
        yield from _spread("all_reduce", "gradients of repeated weights (tp)", total, p.tp, 1, domain, times)


def gradient_bytes(spec: ParamSpec, model: Model) -> int:
    """Bytes of each element of a parameter's gradient: float32 ones have float32 gradients."""
    return 4 if spec.dtype == "fp32" else model.precision.gradient_bytes(spec.role)
