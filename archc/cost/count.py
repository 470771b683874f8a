"""Counts a graph: parameters, FLOPs and cache bytes come from walking its nodes, never from a formula beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from archc.cost.memory import memory
from archc.cost.report import (
    COMPONENTS,
    FlopCount,
    Flops,
    KvCache,
    Memory,
    Mode,
    Params,
    Report,
    Tables,
    Time,
    WorkloadReport,
)
from archc.cost.sense import notes, refuse
from archc.cost.setting import Setting
from archc.cost.tables import specs, tables
from archc.cost.tally import DEFAULT_REWIND, Learning, Tally, cache_sums, flop_sums, node_cost, parameter_sums, tally
from archc.graph import Graph
from archc.ops import Workload
from archc.ops.bypass import Hold
from archc.ops.latent import LatentAttend
from archc.ops.sparse import IndexDivergence
from archc.ops.sparse_latent import SparseLatentAttend
from archc.schema import Cache, Model, Precision
from archc.version import VERSION

LENGTH_BYTES = 8
"""A cache keeps the length of every row as a 64-bit integer."""

ASSUMPTIONS = (
    "FLOPs: matrix products only, 2 per multiply-add; embedding lookups, norms and other element-wise work count zero.",
    (
        "ideal: each query meets only the keys it may see (causal average). executed: the blocks that the reference"
        " path on a CPU really runs; its backward includes the scores that a fused attention computes again."
    ),
    (
        "train: forward and backward of `seq` tokens a row; FLOPs leave out what is recomputed. prefill: the last `seq`"
        " of `context` tokens go into a cache. decode: `seq` tokens a row (one unless told otherwise), the last of"
        " `context`."
    ),
    (
        "params.active: what one token uses, input embedding and head included; a head tied to the embedding counts"
        " as embedding."
    ),
    (
        "kv_cache: tensors that `new_cache(batch, context)` allocates, with room to take back 8 tokens and the"
        " rows' lengths."
    ),
    (
        "weighted_fp8_equivalent: ideal FLOPs of a token, products in FP8 counted once, in FP4 half, in bfloat16 and"
        " wider twice."
    ),
)

LATENT = (
    "latent attention: ideal expands the latent of each new token once and attends to what it gives. executed: a few"
    " new tokens after cached ones attend to latents themselves, which are wider, instead of expanding the cache again."
)
"""The assumption of models whose keys and values are made of latents."""

PICKED = (
    "picked latents: ideal expands the latent of each new token once and attends to what picked tokens give. executed:"
    " attends to latents themselves, which are wider; to all of them where there are at most two for each pick."
)
"""The assumption of models that pick tokens of which they keep latents."""

AHEAD = (
    "mtp: the modules that predict further tokens run in training only, their products with the head included;"
    " parameters, buffers, FLOPs a token and cache are those of the model without them."
)
"""The assumption of models with multi-token prediction."""


INDEX = (
    "index loss: train counts its sparse stage; what indexers read gets no gradient from it. ideal: it takes the scores"
    " of the choice and the logits of attention as they are, and adds the gradient of the scores of picked entries."
    " executed: it computes both again, of all entries where these are few."
)
"""The assumption of models whose indexers learn."""

BYPASS = (
    "bypass: all figures are those of tokens that skip no layer. Of a call whose tokens all do, the layers behind run"
    " only what their caches hold."
)
"""The assumption of models in which tokens may skip layers."""


def workload(
    model: Model, mode: Mode, batch: int, seq: int | None, context: int | None
) -> tuple[Workload, WorkloadReport]:
    """The workload that the options mean.

    ``seq`` defaults to 4096 (or the model's context), in decode to 1; decode's context to the model's.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {', '.join(get_args(Mode))}, not {mode!r}")
    if mode == "decode":
        new, total = 1 if seq is None else seq, model.context if context is None else context
    else:
        new = min(4096, model.context) if seq is None else seq
        total = new if context is None else context
    if batch < 1 or new < 1:
        raise ValueError("batch and seq must be at least 1")
    if mode == "train" and total != new:
        raise ValueError("training sees no tokens before the new ones: leave context out or make it equal to seq")
    if total < new:
        raise ValueError(f"context = {total} tokens cannot hold the {new} new ones")
    shown = WorkloadReport(mode=mode, batch=batch, seq=new, context=total)
    w = Workload(
        batch=batch,
        new=new,
        past=total - new,
        cached=mode != "train",
        act=model.precision.activation,
        layout=model.cache.kind,
    )
    return w, shown


def count(
    model: Model,
    graph: Graph,
    *,
    mode: Mode = "decode",
    batch: int = 1,
    seq: int | None = None,
    context: int | None = None,
    setting: Setting | None = None,
) -> Report:
    """The cost of a planned model under a workload, in a setting. Raises ValueError for what cannot be."""
    setting = setting or Setting(hardware=model.hardware)
    w, shown = workload(model, mode, batch, seq, context)
    refuse(graph, setting)
    held = memory(model, graph, w, mode, setting)
    return figures(
        model,
        tally(graph, w, model.cache, model.precision),
        w,
        shown,
        predicts=bool(graph.predictions()),
        memory=held,
        time=_time(model, graph, w, mode, setting),
        tables=tables(model, specs(graph), setting, mode),
        further=(*notes(graph, w, mode, setting), *_time_assumptions(graph, mode, setting, held)),
    )


def _time(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Time | None:
    """Time of a workload; what times it is imported only where there is hardware."""
    if setting.hardware is None:
        return None
    from archc.cost.time import time

    plain = time(model, graph, w, mode, setting)
    if plain is None or not (setting.serving or setting.cache_from or setting.speculate):
        return plain
    from archc.cost.serving import served

    return served(model, graph, w, mode, setting, plain)


def _time_assumptions(graph: Graph, mode: Mode, setting: Setting, held: Memory | None) -> Iterator[str]:
    if setting.hardware is None:
        return
    from archc.cost.time import assumptions

    if held is not None and held.fits is False:
        yield (
            f"time: as if it fitted; the fullest device needs {held.per_device['total']:,} bytes, and"
            f" {setting.hardware.label} has {setting.hardware.memory:,.0f}."
        )
    yield from assumptions(graph, mode, setting)


def figures(
    model: Model,
    total: Tally,
    w: Workload,
    shown: WorkloadReport,
    *,
    predicts: bool,
    memory: Memory | None = None,
    time: Time | None = None,
    tables: Tables | None = None,
    further: tuple[str, ...] = (),
) -> Report:
    """The report that a tally means; ``predicts``: whether the model has modules that predict further tokens.

    ``further`` are assumptions of memory and time.
    """
    return Report(
        model=model.name,
        archc=VERSION,
        workload=shown,
        params=_params(total),
        flops=_flops(total, w, shown.mode),
        kv_cache=_kv_cache(total, model.cache, shown.batch),
        memory=memory,
        time=time,
        tables=tables,
        assumptions=(*_assumptions(model, total, predicts), *further),
    )


def _assumptions(model: Model, total: Tally, predicts: bool) -> Iterator[str]:
    """The conventions that figures of a model follow."""
    yield from ASSUMPTIONS
    if model.cache.packs:
        yield f"{model.cache.kind}: {model.cache.packs}"
    if LatentAttend.kind in total.kinds:
        yield LATENT
    if SparseLatentAttend.kind in total.kinds:
        yield PICKED
    if predicts:
        yield AHEAD
    if IndexDivergence.kind in total.kinds:
        yield INDEX
    if Hold.kind in total.kinds:
        yield BYPASS


def params(graph: Graph) -> Params:
    """Parameters of a graph by component and convention."""
    total, active, buffers = parameter_sums(graph)
    return _params(Tally.of(total=total, active=active, buffers=buffers))


def flops(graph: Graph, w: Workload, mode: Mode, precision: Precision) -> Flops:
    """FLOPs of a graph by component, ideal and executed."""
    ahead, back, halves, kinds = flop_sums(graph, w, precision)
    return _flops(Tally.of(ahead=ahead, back=back, halves=halves, kinds=kinds), w, mode)


def kv_cache(graph: Graph, cache: Cache, *, batch: int, max_tokens: int, max_rewind: int = DEFAULT_REWIND) -> KvCache:
    """Bytes of the cache for ``batch`` rows of ``max_tokens``."""
    kept, fixed, grows = cache_sums(graph, max_tokens, cache, max_rewind)
    return _kv_cache(Tally.of(kept=kept, fixed=fixed, grows=grows), cache, batch)


def _params(total: Tally) -> Params:
    """Parameters by component and convention."""
    main = sum(total.active.values()) - total.active["mtp"]
    return Params(
        total=sum(total.total.values()) - total.total["mtp"],
        active=main,
        active_without_embedding=main - total.active["embedding"],
        active_core=main - total.active["embedding"] - total.active["head"],
        mtp=total.total["mtp"],
        buffers=total.buffers,
        by_component={c: total.total[c] for c in COMPONENTS},
    )


def _flops(total: Tally, w: Workload, mode: Mode) -> Flops:
    """FLOPs by component, ideal and executed."""
    tokens = w.batch * w.new

    def of(kind: str) -> FlopCount:
        forward = {c: total.ahead[kind, c] for c in COMPONENTS}
        train = {c: n + total.back[kind, c] for c, n in forward.items()}
        # What predicts further tokens runs only where there are labels.
        run = train if mode == "train" else {**forward, "mtp": 0}
        return FlopCount(
            forward_per_token=_exact(sum(forward.values()) - forward["mtp"], tokens),
            train_per_token=_exact(sum(train.values()) - train["mtp"], tokens),
            workload_total=sum(run.values()),
            by_component=run,
        )

    return Flops(ideal=of("ideal"), executed=of("executed"), weighted_fp8_equivalent=_exact(total.halves, 2 * tokens))


def _kv_cache(total: Tally, cache: Cache, batch: int) -> KvCache:
    """Bytes of the cache for ``batch`` rows."""
    by_component = {c: batch * total.kept[c] for c in COMPONENTS}
    common = math.lcm(*total.grows)
    return KvCache(
        bytes_per_token=_exact(sum(n * (common // every) for every, n in total.grows.items()), common),
        bytes_per_sequence_fixed=LENGTH_BYTES + total.fixed,
        bytes_total=sum(by_component.values()) + batch * LENGTH_BYTES,
        layout=cache.kind,
        by_component=by_component,
    )


def _exact(total: int, count: int) -> float:
    return total // count if total % count == 0 else total / count


def tidy(x: float) -> float:
    """An int where it is one."""
    return int(x) if x == int(x) else x


__all__ = [
    "DEFAULT_REWIND",
    "Learning",
    "count",
    "figures",
    "flops",
    "node_cost",
    "params",
    "tally",
    "tidy",
    "workload",
]
