"""How long a workload takes on hardware whose rates are known: a roofline of every kernel, on the devices of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from archc.cost import tables
from archc.cost.parallel import (
    LOOKED_UP,
    Collective,
    bubble,
    collectives,
    gradient_bytes,
    groups,
    shard_shape,
    stage_units,
    stages,
)
from archc.cost.placement import Unit, routed, splits, units
from archc.cost.report import Mode, Time
from archc.cost.roofline import Clock, Spent
from archc.cost.setting import Parallel, Setting
from archc.cost.works import Amounts, Work, amounts, unit_names
from archc.graph import Graph
from archc.ops import Workload
from archc.ops.base import nbytes
from archc.ops.latent import LatentAttend
from archc.ops.sparse_latent import SparseLatentAttend
from archc.schema import Hardware, Model, Precision

WAITED_FOR = ("(tp)", "(cp)")
"""What training waits for: collectives in the middle of a sub-layer. All others it sends while it computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Works of one unit in one pass, ``count`` times a step on the busiest stage."""

    unit: Unit
    step: str
    works: tuple[Work, ...]
    count: int

    @property
    def backward(self) -> bool:
        """Whether it is a gradient."""
        return self.step == "backward"


def time(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Time | None:
    """Time of a workload in a setting; None where no hardware is given."""
    if setting.hardware is None:
        return None
    if setting.hardware.kind == "local":
        from archc.cost import local

        return local.time(model, graph, w, mode, setting)
    return Step(model, graph, w, mode, setting, setting.hardware).time()


LATENT = (
    "time: latent attention meets expanded keys and values, which are written and read (as training always does), or"
    " latents as they are, by (rank + rotated + rank) channels a head, whichever is faster on the machine."
)
"""The assumption of models whose keys and values are made of latents."""

PICKED = (
    "time: attention to picked tokens meets their latents as they are (as training always does), or expanded keys and"
    " values of all tokens, whichever is faster on the machine."
)
"""The assumption of models that pick tokens of which they keep latents."""


def assumptions(graph: Graph, mode: Mode, setting: Setting) -> Iterator[str]:
    """The rules that times follow."""
    hw = setting.hardware
    assert hw is not None
    if hw.kind == "local":
        from archc.cost import local

        yield from local.assumptions()
        return
    measured = [
        name
        for name, there in (
            ("products", hw.gemm_bf16 or hw.gemm_fp8),
            ("attention", hw.attention),
            ("memory", hw.stream),
            ("links", hw.link_measured),
            ("network", hw.network_measured),
        )
        if there
    ]
    rates = (
        f"rates of {', '.join(measured)} as others measured them, all else as the maker states it"
        if measured
        else ("rates as the maker states them")
    )
    yield (
        f"time: {rates} ({hw.label}). A kernel takes its arithmetic or its bytes, whichever is longer, and a launch;"
        " row-wise ops that hand each other values run as one kernel; nothing else overlaps on a device."
    )
    kinds = {type(node.op) for node, _ in graph.walk()}
    if LatentAttend in kinds:
        yield LATENT
    if SparseLatentAttend in kinds:
        yield PICKED
    if mode == "train":
        yield (
            "time: a gradient reads what its forward read and the gradients that arrive, and writes those that leave;"
            " gradients of parameters are added up in memory. What pipeline stages and replicas send runs while a"
            " device computes, exchanges among experts while it computes another micro-batch; those of tp and cp are"
            " waited for."
        )
    elif setting.parallel.devices > 1:
        aside = ", but for rows of tables, which come while layers run" if any(tables.specs(graph)) else ""
        yield f"time: one batch at a time: everything that devices send each other is waited for{aside}."
    if setting.parallel.devices > 1:
        yield from _latencies(mode, setting.parallel, hw)
    yield from tables.assumptions(graph, mode, setting)
    if mode != "train" and setting.cache != "device":
        how = "comes at the rate of long copies, and is waited for" if hw.brings(setting.cache) else (
            f"comes as if it were on the device: no rate of {setting.cache} is known of {hw.label}"
        )  # fmt: skip
        yield f"time: what attention and indexers need of a cache on {setting.cache} {how}."
    yield (
        "mfu: ideal FLOPs of the step over what the devices could compute in it in bfloat16; where products are"
        " narrower, it may pass 100 %."
    )


def _latencies(mode: Mode, plan: Parallel, hw: Hardware) -> Iterator[str]:
    """What is known of collectives that send next to nothing."""
    crossing = plan.devices > hw.domain
    reach = [(False, "fast links", hw.domain > 1), (True, "the network", crossing)]
    known = [f"{1e6 * t:g} us over {path}" for net, path, used in reach if used and (t := hw.latency(network=net))]
    unknown = [path for net, path, used in reach if used and not hw.latency(network=net)]
    said = [f"every exchange takes {' and '.join(known)} beside its bytes"] if known else []
    if unknown:
        said.append(f"latency over {' and '.join(unknown)} is left out, for nothing is known of it")
        if mode == "decode":
            said.append("decoding on so many devices takes longer than this")
    yield f"time: {'; '.join(said)}."


@lru_cache(maxsize=16)
def _ideal(graph: Graph, w: Workload, mode: Mode, precision: Precision) -> float:
    """Ideal FLOPs of a workload: what searches ask for every plan."""
    from archc.cost.count import flops

    return flops(graph, w, mode, precision).ideal.workload_total


class Step:
    """One step of a workload in a setting: what runs on each pipeline stage, and what is sent."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        w: Workload,
        mode: Mode,
        setting: Setting,
        hw: Hardware,
        like: Step | None = None,
    ) -> None:
        """``like``: a step of the same workload whose kernels take as long as this one's: what they take is looked up
        there, and put there.
        """
        self.model, self.graph, self.w, self.setting, self.hw = model, graph, w, setting, hw
        self.mode: Mode = mode
        self.at_once = replace(w, batch=setting.at_once(w.batch))
        self.micros = setting.micros(w.batch)
        self.amounts: Amounts = amounts(graph, self.at_once, model.precision, model.cache)  # pyright: ignore[reportArgumentType]
        self.clock = Clock(graph, self.at_once, setting, hw, self.micros, self.senders)
        self._names = unit_names(graph)
        self.forms: dict[str, tuple[Work, ...]] = {} if like is None else like.forms
        self.twice: dict[tuple[str, str], tuple[Work, ...]] = {} if like is None else like.twice
        self.spent: dict[tuple[int, str], tuple[tuple[Work, ...], Spent]] = {} if like is None else like.spent
        """Seconds of works by the works' identity, which stages share."""

    @property
    def senders(self) -> float:
        """The share of its cores that a device leaves to exchanges among experts: kernels that stay on the cores they
        started on have to leave these alone throughout, for exchanges run beside them (arXiv:2412.19437, 3.2.2).
        """
        return self.hw.senders if self.mode == "train" and self.setting.parallel.ep > 1 else 0.0

    # --- works -----------------------------------------------------------------------------------
    def works(self, name: str) -> tuple[Work, ...]:
        """What a unit runs forward."""
        if name not in self.forms:
            self.forms[name] = self.clock.fastest(self.amounts.forward[name])
        return self.forms[name]

    def parts(self, stage: int) -> Iterator[Part]:
        """What a stage runs for one micro-batch."""
        pp = self.setting.parallel.pp
        layers = stages(self.graph, pp)[stage]
        training = self.mode == "train"
        parts = units(self.graph)
        if stage == 0:
            yield Part(unit=parts.first, step="forward", works=self.works("step"), count=1)
        for unit, count in stage_units(parts, layers, stage, pp, training=training):
            name = self._names[id(unit)]
            forward = self.works(name)
            yield Part(unit=unit, step="forward", works=forward, count=count)
            if not training:
                continue
            if unit.layers or unit in parts.ahead:
                yield Part(unit=unit, step="recomputed", works=self._recomputed(name), count=count)
            yield Part(unit=unit, step="backward", works=self.amounts.backward[name], count=count)

    def _forward(self, unit: Unit) -> float:
        """Seconds of the forward of a unit, of one micro-batch."""
        return self.clock.spent(self.works(self._names[id(unit)])).total

    def _recomputed(self, name: str) -> tuple[Work, ...]:
        """The works of a unit that the backward pass runs again."""
        key = name, self.setting.recompute
        if key not in self.twice:
            self.twice[key] = tuple(work for work in self.works(name) if self._again(work))
        return self.twice[key]

    def _again(self, work: Work) -> bool:
        """Whether the backward pass runs it again."""
        match self.setting.recompute:
            case "full":
                return True
            case "selective":
                return not work.multiplies
            case "mhc":
                return all(node.component in ("residual", "norm") for node in work.kernel.nodes)
        return False

    def losses(self) -> float:
        """Bytes of the cross entropies of a micro-batch: logits read, their gradients written in their place."""
        logits = [self.graph.root.returns[-1], *(scope.returns[-1] for scope in self.graph.predictions())]
        return sum(2.0 * nbytes(v.type, self.at_once) for v in logits) if self.mode == "train" else 0.0

    def of_stage(self, stage: int) -> Spent:
        """Seconds of a micro-batch on a stage."""
        total = Spent()
        for part in self.parts(stage):
            key = id(part.works), part.step
            if key not in self.spent:
                self.spent[key] = part.works, self.clock.spent(part.works, backward=part.backward)
            total += self.spent[key][1] * part.count
        if stage == self.setting.parallel.pp - 1:
            seconds = self.losses() / self.setting.parallel.tp / self.setting.parallel.cp / self.hw.streams
            total += Spent(memory=seconds, moving=seconds)
        return total

    def stage_times(self) -> list[Spent]:
        """Seconds of a micro-batch on the devices of each stage. DualPipe gives a device a stage from either end, each
        with half of the micro-batches (arXiv:2412.19437, section 3.2.1).
        """
        found = [self.of_stage(stage) for stage in range(self.setting.parallel.pp)]
        if self.mode == "train" and self.setting.schedule == "dualpipe":
            found = [(a + b) * 0.5 for a, b in zip(found, reversed(found), strict=True)]
        return found

    def shares(self) -> list[tuple[int, float]]:
        """The stages whose works make up the time of a step, and how many micro-batches of each."""
        pp = self.setting.parallel.pp
        times = [spent.total for spent in self.stage_times()]
        busiest = max(range(pp), key=times.__getitem__)
        if self.mode != "train":
            return [(stage, self.micros if stage == busiest else 1) for stage in range(pp)]
        if self.setting.schedule == "dualpipe":
            return [(busiest, self.micros / 2), (pp - 1 - busiest, self.micros / 2)]
        return [(busiest, self.micros)]

    # --- optimizer -------------------------------------------------------------------------------
    def optimizer(self, stage: int) -> float:
        """Seconds in which a device moves its part of a stage's parameters: gradient and state read, state and weights
        written.
        """
        if self.mode != "train":
            return 0.0
        pp = self.setting.parallel.pp
        split, g = splits(self.graph), groups(self.setting)
        precision, moved = self.model.precision, 0.0
        held_by = stage_units(units(self.graph), stages(self.graph, pp)[stage], stage, pp, training=True)
        for unit, times in held_by:
            for value in unit.params():
                spec = value.param
                assert spec is not None
                if spec.buffer or self.setting.tier(spec) != "device":
                    continue
                n = 1.0
                for size in shard_shape(spec, split.get(value), self.setting):
                    n *= size
                n /= g.expert_shards if routed(spec) or spec.role == "table" else g.shards
                own = 4 if spec.dtype == "fp32" else precision.trained(spec.role).bits / 8
                master = 0 if spec.dtype == "fp32" else precision.master_bytes(spec.role)
                state = self.model.optimizer.state(spec.role, island=spec.dtype == "fp32") + master
                moved += times * n * (gradient_bytes(spec, self.model) + 2 * state + own)
        return moved / self.hw.streams

    # --- communication ---------------------------------------------------------------------------
    def sent(self) -> tuple[Collective, ...]:
        """What a device sends in a step."""
        return collectives(self.model, self.graph, self.w, self.mode, self.setting)

    def seconds(self, what: Collective) -> float:
        """Seconds of all runs of a collective: its latency and its bytes. Raises ValueError where nothing is known of
        how fast devices send.
        """
        rate = self.hw.sends(network=what.network)
        if not rate:
            kind = "network" if what.network else "link"
            raise ValueError(
                f"no rate is known at which devices of `{self.hw.label}` send {what.what} over the {kind}:"
                f" give it in the spec, `hardware mine = {self.hw.kind} {{ {kind} = ... }}`"
            )
        return what.count * (self.latency(what) + what.bytes / rate)

    def latency(self, what: Collective) -> float:
        """Seconds of one run of a collective that sends next to nothing: an all-reduce gathers what it has reduced."""
        return self.hw.latency(network=what.network) * (2 if what.kind == "all_reduce" else 1)

    def waits(self, what: Collective) -> bool:
        """Whether the step stands still for a collective: in training what the next op needs, else everything but rows
        of tables, whose ids are known ahead.
        """
        return what.what != LOOKED_UP and (self.mode != "train" or what.what.endswith(WAITED_FOR))

    def alone(self) -> float:
        """The share of micro-batches that a stage runs while it has no other to compute: as its pipeline fills and
        drains, or where there is only one. What they exchange among experts hides behind nothing.
        """
        unpaired = max(self.setting.parallel.pp - 1, 1 if self.micros == 1 else 0)
        return min(1.0, unpaired / self.micros)

    # --- together --------------------------------------------------------------------------------
    def time(self) -> Time:
        """The step, put together."""
        p, w = self.setting.parallel, self.w
        stage_times = self.stage_times()
        busiest = max(range(p.pp), key=lambda stage: stage_times[stage].total)
        if self.mode == "train":
            work, repeats = stage_times[busiest] * self.micros, 1
        else:
            # A token passes all stages; further micro-batches follow at the pace of the busiest.
            work = stage_times[busiest] * (self.micros - 1)
            for one in stage_times:
                work = work + one
            repeats = p.pp
        sent = waited = 0.0
        # Exchanges go by links and by the network at once: what comes over the one is passed on over the other.
        bare, hidden = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
        for what in self.sent():
            seconds = self.seconds(what)
            sent += seconds
            if what.kind == "all_to_all" and what.what != LOOKED_UP:
                alone = self.alone() if self.mode == "train" else repeats
                bare[what.network] += alone * seconds
                hidden[what.network] += max(0.0, 1 - alone) * seconds
            elif self.waits(what):
                waited += seconds * repeats
            else:
                hidden[what.network] += seconds
        exposed = waited + max(bare.values()) + max(0.0, max(hidden.values()) - work.total)
        busy = work.total + exposed
        idle = bubble(self.setting, w.batch) if self.mode == "train" else 0.0
        waiting = busy * idle / (1 - idle)
        moving = max(map(self.optimizer, range(p.pp)))
        arriving = tables.arrival(self.model, self.graph, w, self.mode, self.setting, self._forward)
        late = 0.0 if arriving is None else self.micros * arriving[1]
        total = busy + waiting + moving + late
        parts = {
            "compute": work.computing,
            "memory": work.moving,
            "launch": work.launching,
            "communication": exposed,
            "bubble": waiting,
            "optimizer": moving,
            "tables": late,
        }
        ideal = _ideal(self.graph, w, self.mode, self.model.precision)  # pyright: ignore[reportArgumentType]
        tokens = w.batch * w.new / total
        hours = None if self.setting.tokens is None else self.setting.tokens / tokens * p.devices / 3600
        price = self.setting.price if self.setting.price is not None else self.hw.price
        return Time(
            compute_s=work.compute,
            memory_s=work.memory,
            communication_s=sent,
            total_s=total,
            bound=max(parts, key=lambda name: parts[name]),
            tokens_per_s=tokens,
            gpu_hours=hours,
            mfu=ideal / (total * p.devices * self.hw.bf16),
            parts=parts,
            flops_per_device=ideal / total / p.devices,
            days=None if hours is None else hours / p.devices / 24,
            money=None if hours is None or price is None else hours * price,
            tables_s=None if arriving is None else self.micros * arriving[0],
        )
