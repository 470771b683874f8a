"""The figures that a package's README shows, as text: templates lay out, they do not calculate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archc.graph import Graph
from archc.ops import Table
from archc.ops.ngram import TableLookup
from archc.ops.time import row_parts
from archc.schema import Model

COMPONENTS = {
    "embedding": "token embedding",
    "attention": "attention",
    "indexer": "attention indexer",
    "compressor": "attention compressor",
    "dense_ffn": "feed-forward",
    "router": "router",
    "experts": "routed experts",
    "shared_experts": "shared experts",
    "norm": "norms",
    "residual": "residual streams",
    "memory": "memory",
    "head": "output head",
    "mtp": "multi-token prediction",
}
"""What the components of a cost report are called."""

WORKLOADS = {
    "train": "training (forward and backward), {seq} tokens",
    "prefill": "prefill, {seq} tokens into a cache of {context}",
    "decode": "decoding, token {context} of a row",
}

PLACES = {"device": "on the device", "host": "in host memory", "disk": "on disk"}
"""Where tables lie."""

LOSSES = {
    "sequence_balance": "evens out the loads of experts in each sequence; {layers}, each 1 at best",
    "batch_balance": "evens out the loads of experts over all tokens; {layers} together",
    "index_divergence": (
        "brings the scores of indexers to where attention looks, in {layers}, 0 at best; `model.index_stage` is"
        ' "sparse" (over picked entries), "dense" (over all, picking none) or "off"'
    ),
    "depth": "the part of the layers behind a bypass that tokens go through; {layers}, each 0 where all skip them",
    "cross_entropy": "next-token cross entropy of {modules} of multi-token prediction, their mean",
}
"""What the losses of `plan.json` are for."""


def figures(model: Model, graph: Graph, plan: Mapping[str, Any], twin: Mapping[str, Any]) -> dict[str, Any]:
    """Rows and sentences of the README. ``plan`` and ``twin``: what `plan.json` and `tests/tiny_plan.json` hold."""
    cost = plan["cost"]["decode"]
    params, cache = cost["params"], cost["kv_cache"]
    stored = params["total"] + params["mtp"]
    return {
        "doc": model.doc or f"{model.name}: a language model.",
        "headline": _headline(plan, params),
        "parameters": [(COMPONENTS[c], f"{n:,}", _share(n / stored)) for c, n in params["by_component"].items() if n],
        "stored": f"{stored:,}",
        "drafts": 0 if model.mtp is None else max(2, model.mtp.depth),
        "conventions": _conventions(params),
        "layouts": list(_layouts(model, graph)),
        "tables": _tables(graph),
        "training": [*map(_loss, plan["losses"]), *map(_bias, plan["router_biases"])],
        "weights": size(2 * stored),
        "flops": [_flops(plan["cost"][mode], label) for mode, label in WORKLOADS.items()],
        "cache": _cache(cache, plan["context"]),
        "assumptions": [
            tuple(text.split(": ", 1)) for text in cost["assumptions"] if not text.startswith("weighted_fp8")
        ],
        "twin": {"layers": twin["layers"], "parameters": f"{twin['cost']['decode']['params']['total']:,}"},
    }


def _headline(plan: Mapping[str, Any], params: Mapping[str, int]) -> list[str]:
    active = params["active"]
    return [
        f"{params['total']:,} parameters" + ("" if active == params["total"] else f" ({active:,} active)"),
        f"{plan['layers']} layers",
        f"width {plan['dim']:,}",
        f"vocabulary {plan['vocab']:,}",
        f"context {plan['context']:,} tokens",
    ]


def _share(part: float) -> str:
    return f"{100 * part:.1f} %" if part >= 0.0005 else "< 0.1 %"


def _conventions(params: Mapping[str, int]) -> list[tuple[str, str]]:
    rows = [
        ("total" + (", without multi-token prediction" if params["mtp"] else ""), params["total"]),
        ("active: used by one token, with embedding and head", params["active"]),
        ("active without the input embedding", params["active_without_embedding"]),
        ("active without embedding and head", params["active_core"]),
    ]
    if params["buffers"]:
        rows.append(("buffers, not trained by gradient", params["buffers"]))
    return [(label, f"{n:,}") for label, n in rows]


def _loss(loss: Mapping[str, Any]) -> str:
    n = loss["layers"]
    meaning = LOSSES[loss["kind"]].format(layers=_counted(n, "layer"), modules=_counted(n, "module"))
    return f'`out.losses["{loss["name"]}"]`, in `out.loss` with weight {loss["weight"]:g}: {meaning}.'


def _bias(biases: Mapping[str, Any]) -> str:
    return (
        f"`model.after_step()` after each optimizer step moves the biases of {_counted(biases['routers'], 'router')} by"
        f" {biases['rate']:g} towards even loads, counted in training since the last call over all processes."
    )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n:,} {what}s"


def _flops(report: Mapping[str, Any], label: str) -> tuple[str, str, str, str]:
    """Workload, FLOPs of a token ideal and executed, and all that is executed."""
    work, flops = report["workload"], report["flops"]
    tokens = work["batch"] * work["seq"]
    ideal, executed = (flops[kind]["workload_total"] for kind in ("ideal", "executed"))
    shown = label.format(seq=f"{work['seq']:,}", context=f"{work['context']:,}")
    return shown, scaled(ideal / tokens), scaled(executed / tokens), f"{executed:,}"


def _cache(cache: Mapping[str, Any], context: int) -> list[tuple[str, str]]:
    """What a row of the cache takes, in rows of label and size."""
    return [
        ("each token", size(cache["bytes_per_token"])),
        ("each row, however long", size(cache["bytes_per_sequence_fixed"])),
        (f"one row of {context:,} tokens", size(cache["bytes_total"])),
    ]


def _tables(graph: Graph) -> str:
    """What there is to look up, and where it lies; empty where there is no table."""
    found = [node for node, times in graph.walk() for _ in range(times) if isinstance(node.op, TableLookup)]
    if not found:
        return ""
    ops = [node.op for node in found if isinstance(node.op, TableLookup)]
    places = sorted({PLACES[op.placement] for op in ops})
    rows = sum(node.ins[0].type.last for node in found)
    total = sum(op.rows * op.dim for op in ops)
    return (
        f"{_counted(len(ops), 'large table')} with {total:,} parameters, {size(2 * total)} in bfloat16, of which each"
        f" token reads {rows:,} rows. The spec puts them {' and '.join(places)}."
    )


def _layouts(model: Model, graph: Graph) -> Iterator[str]:
    """What the layouts other than the model's own are for that its stores know a packing for."""
    stores = [store for _, _, store in graph.states()]
    known = {store.packing.layout for store in stores if store.packing is not None}
    for layout in sorted(known - {model.cache.kind}):
        tables = (store for store in stores if isinstance(store, Table))
        # What no packing takes is bfloat16 there.
        token = sum(sum(row_parts(store, element=2, layout=layout).values()) / store.every for store in tables)
        yield f'`new_cache(..., layout="{layout}")` holds keys in fewer bits, {size(token)} for each token.'


def size(n: float) -> str:
    """``17179869192`` -> ``16.0 GiB (17,179,869,192 bytes)``"""
    exact = f"{n:,.10g}" if n != int(n) else f"{int(n):,}"
    unit, value = "bytes", float(n)
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{exact} bytes" if unit == "bytes" else f"{value:.1f} {unit} ({exact} bytes)"


def scaled(n: float) -> str:
    """``83728793600`` -> ``83.73 G``"""
    for unit in ("", "K", "M", "G", "T", "P"):
        if n < 1000 or unit == "P":
            break
        n /= 1000
    return f"{n:.4g} {unit}".rstrip()
