"""Counts a graph: parameters, FLOPs and cache bytes come from walking its nodes, never from a formula beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from archc.cost.formats import WEIGHT, product_of
from archc.cost.memory import memory
from archc.cost.report import COMPONENTS, FlopCount, Flops, KvCache, Mode, Params, Report, Time, WorkloadReport
from archc.cost.setting import Setting
from archc.graph import Graph, Node
from archc.graph.gradient import constants, trained
from archc.ops import Cost, Table, Workload
from archc.ops.latent import LatentAttend
from archc.ops.loss import Loss
from archc.ops.sparse import IndexDivergence
from archc.ops.time import row_parts
from archc.schema import Cache, Model, Precision
from archc.version import VERSION

DEFAULT_REWIND = 8
"""Tokens that a cache can take back unless told otherwise: the default of a package's `new_cache`."""

LENGTH_BYTES = 8
"""A cache keeps the length of every row as a 64-bit integer."""

ASSUMPTIONS = (
    "FLOPs: matrix products only, 2 per multiply-add; embedding lookups, norms and other element-wise work count zero.",
    (
        "ideal: each query meets only the keys it may see (causal average). executed: the blocks that the reference"
        " path on a CPU really runs; its backward includes the scores that a fused attention computes again."
    ),
    (
        "train: forward and backward of `seq` tokens a row, without recomputation. prefill: the last `seq` of `context`"
        " tokens go into a cache. decode: `seq` tokens a row (one unless told otherwise), the last of `context`."
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
    return Report(
        model=model.name,
        archc=VERSION,
        workload=shown,
        params=params(graph),
        flops=flops(graph, w, mode, model.precision),
        kv_cache=kv_cache(graph, model.cache, batch=batch, max_tokens=shown.context),
        memory=memory(model, graph, w, mode, setting),
        time=_time(model, graph, w, mode, setting),
        assumptions=(*_assumptions(model, graph), *_time_assumptions(mode, setting)),
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


def _time_assumptions(mode: Mode, setting: Setting) -> Iterator[str]:
    if setting.hardware is not None:
        from archc.cost.time import assumptions

        yield from assumptions(mode, setting)


def _assumptions(model: Model, graph: Graph) -> Iterator[str]:
    """The conventions that figures of a model follow."""
    yield from ASSUMPTIONS
    if model.cache.packs:
        yield f"{model.cache.kind}: {model.cache.packs}"
    if any(isinstance(node.op, LatentAttend) for node, _ in graph.walk()):
        yield LATENT
    if graph.predictions():
        yield AHEAD
    if any(isinstance(node.op, IndexDivergence) for node, _ in graph.walk()):
        yield INDEX


def params(graph: Graph) -> Params:
    """Parameters by component and convention."""
    total = dict.fromkeys(COMPONENTS, 0)
    active = dict.fromkeys(COMPONENTS, 0)
    buffers = 0
    for scope, times in graph.scopes():
        for value in scope.params:
            spec = value.param
            assert spec is not None
            n = times * math.prod(spec.shape)
            if spec.buffer:
                buffers += n if scope.owners[spec.name] != "mtp" else 0
                continue
            used, of = spec.share
            total[scope.owners[spec.name]] += n
            active[scope.owners[spec.name]] += n * used // of
    main = sum(active.values()) - active["mtp"]
    return Params(
        total=sum(total.values()) - total["mtp"],
        active=main,
        active_without_embedding=main - active["embedding"],
        active_core=main - active["embedding"] - active["head"],
        mtp=total["mtp"],
        buffers=buffers,
        by_component=total,
    )


def node_cost(node: Node, w: Workload) -> Cost:
    """The cost of one run of a node."""
    return node.op.cost(w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))


class Learning:
    """What training adds to the forward of every node of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.trained, self.constants = trained(graph), constants(graph)

    def backward(self, node: Node, cost: Cost) -> tuple[int, int]:
        """Ideal and executed FLOPs of a node's gradient."""
        if node not in self.trained:
            return 0, 0
        ideal = 2 * cost.useful if cost.useful_backward is None else cost.useful_backward
        if cost.backward == 2 * cost.executed and any(v in self.constants for v in node.ins):
            # A product of two operands: the gradient of each costs what the product does, and one has none.
            return cost.useful, cost.executed
        return ideal, cost.backward


def flops(graph: Graph, w: Workload, mode: Mode, precision: Precision) -> Flops:
    """FLOPs by component, ideal and executed."""
    weighted = 0.0
    forward = {kind: dict.fromkeys(COMPONENTS, 0) for kind in ("ideal", "executed")}
    learning = {kind: dict.fromkeys(COMPONENTS, 0) for kind in ("ideal", "executed")}
    learns = Learning(graph)
    for node, times in graph.walk():
        cost = node_cost(node, w)
        ahead = learning if isinstance(node.op, Loss) else forward
        ideal, executed = learns.backward(node, cost)
        ahead["ideal"][node.component] += times * cost.useful
        ahead["executed"][node.component] += times * cost.executed
        if ahead is forward and node.component != "mtp":
            weighted += times * cost.useful * WEIGHT[product_of(node, precision)]
        learning["ideal"][node.component] += times * ideal
        learning["executed"][node.component] += times * executed
    tokens = w.batch * w.new

    def figures(kind: str) -> FlopCount:
        train = {c: n + learning[kind][c] for c, n in forward[kind].items()}
        # What predicts further tokens runs only where there are labels.
        run = train if mode == "train" else {**forward[kind], "mtp": 0}
        return FlopCount(
            forward_per_token=_exact(sum(forward[kind].values()) - forward[kind]["mtp"], tokens),
            train_per_token=_exact(sum(train.values()) - train["mtp"], tokens),
            workload_total=sum(run.values()),
            by_component=run,
        )

    return Flops(
        ideal=figures("ideal"),
        executed=figures("executed"),
        weighted_fp8_equivalent=tidy(weighted / tokens),
    )


def kv_cache(graph: Graph, cache: Cache, *, batch: int, max_tokens: int, max_rewind: int = DEFAULT_REWIND) -> KvCache:
    """Bytes of the cache for ``batch`` rows of ``max_tokens``."""
    growing, fixed = 0.0, LENGTH_BYTES
    by_component = dict.fromkeys(COMPONENTS, 0)
    for scope, times in graph.scopes(labels=False):
        for name, store in scope.states.items():
            row = sum(row_parts(store, element=cache.element, layout=cache.kind).values())
            whole = times * store.rows(max_tokens, max_rewind) * row
            by_component[scope.owners[f"state.{name}"]] += batch * whole
            if isinstance(store, Table):
                growing += times * row / store.every
            else:
                fixed += whole
    return KvCache(
        bytes_per_token=tidy(growing),
        bytes_per_sequence_fixed=fixed,
        bytes_total=sum(by_component.values()) + batch * LENGTH_BYTES,
        layout=cache.kind,
        by_component=by_component,
    )


def _exact(total: int, count: int) -> float:
    return total // count if total % count == 0 else total / count


def tidy(x: float) -> float:
    """An int where it is one."""
    return int(x) if x == int(x) else x
