"""What a workload holds in memory, on all devices together and on the fullest of them.

Every figure is a sum of entries: a parameter in its format, a layer's activations, a slot of state. `ledger` gives them
by pipeline stage; `memory` adds them up; `archc cost --explain memory.weights` shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from archc.cost.formats import held, size_of
from archc.cost.parallel import (
    gradient_bytes,
    groups,
    local_workload,
    rows_bytes,
    shard_shape,
    stage_units,
    stages,
    table_ways,
)
from archc.cost.placement import Split, Unit, cached_rows, handed_on, routed, routing, splits, units
from archc.cost.report import Memory, Mode
from archc.cost.setting import Recompute, Setting
from archc.cost.shards import rank_rows
from archc.cost.tables import rows_moved
from archc.graph import Graph, Value
from archc.ops import ParamSpec, Table, Workload, numel
from archc.ops.base import nbytes
from archc.ops.time import Append, row_parts
from archc.schema import Model

if TYPE_CHECKING:
    from archc.cost.activations import Activations, Peak

SECTIONS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "workspace",
    "kv_cache",
    "buffers",
)
"""What a device's memory is made of, in order; what lies on its host is none of it."""

TIERS = ("device", "host", "disk")

REWIND, LENGTH = 8, 8
"""Tokens that a cache can take back, and bytes of a row's length: as `kv_cache` counts."""


class Entry(NamedTuple):
    """A part of a section: ``count`` equal ones on a device of a stage."""

    section: str
    what: str
    device: float
    """Bytes of one on the fullest device."""
    total: float
    """Bytes of one on all devices of the stage."""
    form: str = ""
    """Number format of weights, tier of caches."""
    formula: str = ""
    """How the bytes on a device come about, in numbers."""
    whole: str = ""
    """How those of all devices do."""
    count: int = 1


Known = dict[tuple, tuple["Entry", ...]]
"""Entries of units and stages that were asked for before."""


def memory(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, known: Known | None = None) -> Memory:
    """Memory of a workload in a setting. Raises ValueError for a plan that the model does not have.

    ``known`` is for callers that ask for several settings which differ in ``recompute`` and ``micro`` alone: an empty
    dict, filled.
    """
    sums: dict[int, dict[tuple[str, str], tuple[float, float]]] = {}
    total: dict[tuple[str, str], float] = {}
    per_stage = []
    for both in _stages(model, graph, w, mode, setting, {} if known is None else known, words=False):
        device = dict.fromkeys(SECTIONS, 0.0)
        shared, own = both
        if id(shared) not in sums:  # `_stages` keeps what stages share, so that no other tuple takes its identity
            sums[id(shared)] = _added(shared)
        for entries in (sums[id(shared)], _added(own)):
            for key, (here, everywhere) in entries.items():
                if key[0] in device:
                    device[key[0]] += here
                total[key] = total.get(key, 0) + everywhere
        per_stage.append(device)
    fullest = max(range(len(per_stage)), key=lambda i: sum(per_stage[i].values()))
    per_device = {name: round(n) for name, n in per_stage[fullest].items()}
    per_device["total"] = sum(per_device.values())

    def of(section: str) -> int:
        return round(sum(n for (where, _), n in total.items() if where == section))

    tiers = {tier: round(sum(n for (_, form), n in total.items() if form == tier)) for tier in TIERS}
    hardware = setting.hardware
    return Memory(
        weights=of("weights"),
        gradients=of("gradients"),
        optimizer=of("optimizer"),
        activations=of("activations"),
        kv_cache=sum(tiers.values()),
        host=of("host"),
        disk=of("disk"),
        per_device=per_device,
        fits=None if hardware is None else per_device["total"] <= hardware.memory,
        logits=of("logits"),
        workspace=of("workspace"),
        buffers=of("buffers"),
        master=round(sum(n for (_, form), n in total.items() if form == "master")),
        devices=setting.parallel.devices,
        stage=fullest,
        weights_by_format={form: round(n) for (section, form), n in total.items() if section == "weights"},
        activations_by_component=_by_component(graph, w, setting) if mode == "train" else {},
        kv_cache_by_tier=tiers,
        step_peak=_peak(graph, w, setting) if mode == "train" and setting.parallel.devices == 1 else None,
    )


def _peak(graph: Graph, w: Workload, setting: Setting) -> int:
    """The most that a training step of the package allocates on one device."""
    return _step_of(graph, local_workload(w, setting), setting.recompute)[1].total


def _by_component(graph: Graph, w: Workload, setting: Setting) -> dict[str, int]:
    """What one micro-batch of one replica keeps from its forward to its backward, on all devices together."""
    local, p = local_workload(w, setting), setting.parallel
    spread = p.cp if local.new < w.new else 1
    return {c: spread * n for c, n in _step_of(graph, local, setting.recompute)[0].by_component.items()}


def _added(entries: tuple[Entry, ...]) -> dict[tuple[str, str], tuple[float, float]]:
    """Bytes of entries on a device, and on all of its stage, by section and form."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for e in entries:
        here, everywhere = found.get((e.section, e.form), (0.0, 0.0))
        found[e.section, e.form] = here + e.count * e.device, everywhere + e.count * e.total
    return found


def _together(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Entries that add up to the same, one for each section and form."""
    return tuple(Entry(section, "", *sums, form) for (section, form), sums in _added(entries).items())


def ledger(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> tuple[tuple[Entry, ...], ...]:
    """The entries of every pipeline stage, which say how they come about."""
    return tuple((*a, *b) for a, b in _stages(model, graph, w, mode, setting, {}, words=True))


def _stages(
    model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, known: Known, *, words: bool
) -> Iterator[tuple[tuple[Entry, ...], tuple[Entry, ...]]]:
    """Of every stage what it holds by the layers it has, one tuple for all stages of equal layers, and what it holds by
    its place.
    """
    p = setting.parallel
    parts = units(graph)
    cut = stages(graph, p.pp)
    train = mode == "train"
    split = splits(graph) if p.tp > 1 else {}
    kept = _activations(graph, w, setting) if train else None
    local = local_workload(w, setting)
    n = p.devices // p.pp

    def entries_of(unit: Unit) -> tuple[Entry, ...]:
        if (id(unit),) not in known:
            found = tuple(_of_unit(model, unit, w, mode, setting, split, words))
            known[id(unit),] = found if words else _together(found)
        return known[id(unit),]

    for stage, layers in enumerate(cut):
        held_by = stage_units(parts, layers, stage, p.pp, training=train)
        if p.pp > 1 and setting.schedule == "dualpipe" and train:
            # Two stages on every device, from both ends (arXiv:2412.19437, section 3.2.1)
            other = p.pp - 1 - stage
            held_by += stage_units(parts, cut[other], other, p.pp, training=train)
        last = stage == p.pp - 1
        key = (local, last, *((id(unit), times) for unit, times in held_by))
        if key not in known:
            entries: list[Entry] = []
            for unit, times in held_by:
                entries += (e._replace(count=times) for e in entries_of(unit)) if times > 1 else entries_of(unit)
            if last and p.pp > 1 and any(_borrows(unit, parts.first) for unit, _ in held_by):
                entries += entries_of(parts.first)
            if not train:
                entries += _served(model, held_by, local, setting, last)
            buffers = _buffers(model, graph, held_by, local, mode, setting, split)
            entries += (Entry("buffers", what, size, size * n) for what, size in buffers if size)
            known[key] = tuple(entries)
        own: list[Entry] = []
        if kept is not None:
            own += _saved(kept, layers, stage, w, setting, words)
        elif stage == 0:
            rows = setting.rows(w.batch) * LENGTH
            where = "kv_cache" if setting.cache == "device" else setting.cache
            text = f"{setting.rows(w.batch):,} x {LENGTH} bytes" if words else ""
            own.append(Entry(where, "lengths of rows", rows, rows * n, setting.cache, text, text))
        yield known[key], tuple(own)


def _borrows(unit: Unit, first: Unit) -> bool:
    """Whether what runs elsewhere reads a weight of the first unit: a tied head, further tokens' embedding."""
    own = set(first.params())
    return unit is not first and any(v in own for node in unit.nodes() for v in node.ins)


# --- weights, gradients, optimizer, cache --------------------------------------------------------
def _of_unit(
    model: Model, unit: Unit, w: Workload, mode: Mode, setting: Setting, split: Mapping[Value, Split], words: bool
) -> Iterator[Entry]:
    """What a unit holds whatever runs: its parameters and all that training keeps for them, or its cache."""
    train = mode == "train"
    for value in unit.params():
        assert value.param is not None
        yield from _parameter(model, value.param, split.get(value), w, setting, train, words)
    if not train:
        yield from _cache(model, unit, w, setting, words)


def _parameter(
    model: Model, spec: ParamSpec, split: Split | None, w: Workload, setting: Setting, train: bool, words: bool
) -> Iterator[Entry]:
    p, g = setting.parallel, groups(setting)
    devices = p.devices // p.pp
    precision = model.precision
    form = held(spec, precision, training=train)
    part = shard_shape(spec, split, setting) if p.devices > 1 else spec.shape
    spread = routed(spec) or spec.role == "table"
    ways = _different(spec, split, setting)
    shards = 1 if spec.buffer else g.expert_shards if spread else g.shards
    # FSDP2 cuts dimension 0, which experts may have few of; ZeRO's first two stages cut numbers in a row, whatever
    # parameters they belong to (arXiv:1910.02054, section 5; Megatron-LM's distributed optimizer).
    flat = setting.zero < 3
    shard = (rank_rows(part[0], shards, 0), *part[1:]) if part and not flat else part
    of = shards if flat else 1
    where = setting.tier(spec)
    far = where != "device"

    def entry(
        section: str, sharded: bool, count: tuple[float, int], whole: tuple[int, int], name: str, text: str
    ) -> Iterator[Entry]:
        copies = devices / (ways * (shards if sharded else 1))
        here, cut = (part, f" / {shards}") if sharded and flat else (shard if sharded else part, "")
        for size, all_of_it, suffix in zip(count, whole, ("", " scales"), strict=True):
            if not size:
                continue
            a, b = (f"{_product(here)}{cut} x {text}", f"{_product(spec.shape)} x {text}") if words else ("", "")
            if words and suffix:
                blocks = f"blocks of {form.block[0]} x {form.block[1]} x {form.scale_bytes} bytes"
                a, b = (f"{n // form.scale_bytes:,} {blocks}" for n in (size, all_of_it))
            if words and copies != 1:
                b = f"{b} x {copies:g} copies"
            label = spec.name + suffix if words else ""
            yield Entry(where if far else section, label, size, all_of_it * copies, name + suffix, a, b)

    sharded = shards > 1 and setting.zero == 3
    here = shard if sharded else part
    text = f"{form.bits / 8:g} bytes" if words else ""
    yield from entry("weights", sharded, size_of(form, here), size_of(form, spec.shape), form.name, text)
    if not train or spec.buffer:
        return
    of_one, numbers = gradient_bytes(spec, model), math.prod(spec.shape)
    sharded = shards > 1 and setting.zero >= 2
    here = shard if sharded else part
    if far:  # beside the table, of the rows alone that were read
        rows = min(part[0], rows_moved(spec, w, setting))
        size, text = rows * part[1] * of_one, f"{rows:,} x {part[1]:,} x {of_one} bytes"
        yield Entry(where, spec.name, size, size * devices, "gradients", text, f"{text} x {devices} copies")
    else:
        size = _part(math.prod(here) * of_one, of if sharded else 1)
        yield from entry("gradients", sharded, (size, 0), (numbers * of_one, 0), "gradients", f"{of_one} bytes")
    state = model.optimizer.state(spec.role, island=spec.dtype == "fp32")
    a_row = model.optimizer.row_state(spec.role)
    copy = precision.master_bytes(spec.role) if spec.dtype == "act" else 0

    def kept(shape: tuple[int, ...]) -> int:
        return math.prod(shape) * state + (shape[0] * a_row if shape else 0)

    text = f"{state} bytes of {model.optimizer.kind}"
    yield from entry("optimizer", shards > 1, (_part(kept(shard), of), 0), (kept(spec.shape), 0), "state", text)
    size = _part(math.prod(shard) * copy, of)
    text = f"{copy} bytes of a master copy"
    yield from entry("optimizer", shards > 1, (size, 0), (numbers * copy, 0), "master", text)


def _part(size: int, ways: int) -> float:
    return size if ways == 1 else size / ways


def _different(spec: ParamSpec, split: Split | None, setting: Setting) -> int:
    """How many devices of a stage hold different parts of a parameter, shards of these left out."""
    p, g = setting.parallel, groups(setting)
    if spec.role == "table":
        return g.model
    if routed(spec):
        return g.model if len(spec.shape) == 3 else p.ep
    return 1 if split is None else split.ways(p.tp)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape) or "1"


def _cache(model: Model, unit: Unit, w: Workload, setting: Setting, words: bool) -> Iterator[Entry]:
    """The slots of state of a unit, for the rows of a replica: heads split by tp, tables of tokens by cp."""
    p = setting.parallel
    rows = setting.rows(w.batch)
    devices = p.devices // p.pp
    for scope in unit.scopes:
        for name, store in scope.states.items():
            row = sum(row_parts(store, element=model.cache.element, layout=model.cache.kind).values())
            kept = store.rows(w.total, REWIND)
            if isinstance(store, Table):
                kept = math.ceil(kept / p.cp)
            heads = math.gcd(store.shape[0], p.tp) if len(store.shape) > 1 else 1
            size = rows * kept * row / heads
            text = f"{rows:,} x {kept:,} x {row:,} bytes" + (f" / {heads}" if heads > 1 else "") if words else ""
            section = "kv_cache" if setting.cache == "device" else setting.cache
            whole = f"{text} x {devices} devices" if devices > 1 else text
            yield Entry(section, name if words else "", size, size * devices, setting.cache, text, whole)


# --- activations ---------------------------------------------------------------------------------
class _Kept(NamedTuple):
    layers: tuple[float, ...]
    rest: float
    logits: float
    transient: float
    components: dict[str, int]


def _activations(graph: Graph, w: Workload, setting: Setting) -> _Kept:
    """What a micro-batch keeps on a device. With tp all of it is split, sequences where heads and channels are not
    (arXiv:2205.05198, section 4.2.2); experts of the busiest device keep ``imbalance`` as much.
    """
    p = setting.parallel
    a, _ = _step_of(graph, local_workload(w, setting), setting.recompute)
    whole = sum(a.by_component.values())
    more = 1 + (setting.imbalance - 1) * a.by_component.get("experts", 0) / whole if p.ep > 1 and whole else 1
    return _Kept(
        tuple(n * more / p.tp for n in a.layers), a.rest / p.tp, a.logits / p.tp, a.transient / p.tp, a.by_component
    )


@lru_cache(maxsize=64)
def _step_of(graph: Graph, w: Workload, recompute: Recompute) -> tuple[Activations, Peak]:
    from archc.cost.activations import training_step

    return training_step(graph, w, recompute)


def in_flight(setting: Setting, stage: int, batch: int) -> float:
    """Micro-batches whose activations a stage keeps at a time: those that are on their way to the last stage and back.

    1F1B: pp - stage (arXiv:2104.04473, section 2.2.1), as ZB-H1; in interleaved chunks more, pp + (pp - 1) / chunks on
    the first stage (arXiv:2205.05198, section 4.2.3); DualPipe pp + 1 of half as much each (arXiv:2412.19437, table 2).
    """
    pp, chunks = setting.parallel.pp, setting.chunks
    most: float = pp - stage
    if pp > 1 and setting.schedule == "dualpipe":
        most = pp + 1
    elif pp > 1 and chunks > 1:
        most = (2 * (pp - stage - 1) + (chunks - 1) * pp + 1) / chunks
    return min(setting.micros(batch), most)


def _saved(
    kept: _Kept, layers: tuple[int, ...], stage: int, w: Workload, setting: Setting, words: bool
) -> Iterator[Entry]:
    p = setting.parallel
    n = p.devices // p.pp
    live = in_flight(setting, stage, w.batch)
    runs: dict[float, list[int]] = {}
    for i in layers:
        runs.setdefault(kept.layers[i], []).append(i)
    for size, which in runs.items():
        text = f"{round(size):,} bytes" + (f" x {live:g} micro-batches" if live > 1 else "") if words else ""
        every = f"{text} x {n} devices" if n > 1 else text
        what = f"layer {_ranges(which)}" if words else ""
        yield Entry("activations", what, size * live, size * live * n, "", text, every, len(which))
    if stage == p.pp - 1:
        yield Entry("activations", "outside of layers", kept.rest, kept.rest * n)
        yield Entry("logits", "logits and what losses keep", kept.logits, kept.logits * n)
    yield Entry("workspace", "beside what is kept, at most", kept.transient, kept.transient * n)


def _ranges(numbers: list[int]) -> str:
    """``0..2, 5``"""
    runs: list[list[int]] = []
    for i in numbers:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{a}..{b}" if a < b else str(a) for a, b in runs[:4]) + (", .." if len(runs) > 4 else "")


def _served(
    model: Model, held_by: tuple[tuple[Unit, int], ...], local: Workload, setting: Setting, last: bool
) -> Iterator[Entry]:
    """What a forward without gradients needs beside weights and cache: operands and results of its largest op."""
    p = setting.parallel
    n = p.devices // p.pp
    most, what = 0, ""
    for unit, _ in held_by:
        for node in unit.nodes():
            if node.op.view or isinstance(node.op, Append):
                continue
            ins = (v for v in node.ins if v.param is None and not (v.node and isinstance(v.node.op, Append)))
            size = sum(nbytes(v.type, local) for v in (*ins, *node.outs) if v.type.dtype != "none")
            if size > most and not _is_head(node.ins):
                most, what = size, f"{node.component}: {node.op.kind} {node.name or ''}".rstrip()
    yield Entry("workspace", what, most / p.tp, most / p.tp * n)
    if last:
        logits = numel((local.batch, local.new), local) * model.vocab * local.act / p.tp
        yield Entry("logits", "logits of every new token", logits, logits * n)


def _is_head(ins: tuple[Value, ...]) -> bool:
    return any(v.param is not None and v.param.role == "head" for v in ins)


# --- buffers -------------------------------------------------------------------------------------
def _buffers(
    model: Model,
    graph: Graph,
    held_by: tuple[tuple[Unit, int], ...],
    local: Workload,
    mode: Mode,
    setting: Setting,
    split: Mapping[Value, Split],
) -> Iterator[tuple[str, float]]:
    """What a device holds of others: (what, bytes).

    ZeRO-3: the weights of two layers, the one that runs and the next, those outside of layers, and the gradients of one
    before they are scattered. Experts: the rows of one layer that came, and that go back. tp: the stream once whole.
    cp: the keys of one layer. pp: what came from a stage and what goes to the next.
    """
    p, g = setting.parallel, groups(setting)
    train = mode == "train"
    act = model.precision.activation
    if p.devices == 1:
        return
    if setting.zero == 3 and (g.shards > 1 or g.expert_shards > 1):
        inside: list[tuple[float, float]] = []
        outside = 0.0
        for unit, times in held_by:
            weights = gradients = 0.0
            for value in unit.params():
                spec = value.param
                assert spec is not None
                if spec.buffer or spec.role == "table" or (g.expert_shards if routed(spec) else g.shards) == 1:
                    continue
                shape = shard_shape(spec, split.get(value), setting)
                weights += sum(size_of(held(spec, model.precision, training=train), shape))
                gradients += math.prod(shape) * gradient_bytes(spec, model)
            if unit.layer:
                inside += [(weights, gradients)] * min(times, 2)
            else:
                outside += weights
                inside.append((0.0, gradients))
        yield "gathered weights of two layers", sum(sorted((x for x, _ in inside), reverse=True)[:2])
        yield "gathered weights outside of layers", outside
        if train:
            yield "gradients of one layer", max(x for _, x in inside)
    tokens = local.batch * local.new
    if p.ep > 1:
        rows = [
            tokens / p.tp * route.reached(p.ep) * setting.imbalance
            * sum(sum(size_of(model.precision.sent(way), (1, route.width))) for way in ("dispatch", "combine"))
            for unit, _ in held_by
            if (route := routing(unit)) is not None
        ]  # fmt: skip
        yield "rows of experts", max(rows, default=0.0)
    if table_ways(setting) > 1:
        yield "rows of tables", max(rows_bytes(model, unit, train) for unit, _ in held_by) * tokens / p.tp
    if p.tp > 1:
        yield "the stream of all of tp", tokens * model.dim * act
    if p.cp > 1 and mode != "decode":
        yield "keys of all of cp", max(cached_rows(unit, local, p.tp)[0] for unit, _ in held_by) * p.cp * act
    if p.pp > 1:
        yield "streams between stages", 2 * handed_on(graph, local) * act / p.tp
