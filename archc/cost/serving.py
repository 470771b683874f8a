"""Serving: steps by batch, caches that are loaded instead of made, and tokens that are drafted ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from archc.cost.memory import memory
from archc.cost.placement import units
from archc.cost.report import CacheLoad, Mode, Serving, Speculation, Time
from archc.cost.setting import Setting
from archc.cost.time import Step, time
from archc.cost.works import unit_names
from archc.graph import Graph
from archc.ops import Workload
from archc.schema import Model

MOST = 1 << 16
"""Rows of the largest batch that a table tries."""


def served(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, plain: Time) -> Time:
    """The time of a step with what serving asks for beside it, as the setting says. Raises ValueError where the machine
    or the model lacks what that takes.
    """
    return replace(
        plain,
        serving=tuple(by_batch(model, graph, w, mode, setting)) if setting.serving and mode != "train" else None,
        cache_load=load(model, graph, w, setting) if setting.cache_from is not None else None,
        speculation=speculation(model, graph, w, mode, setting, plain) if setting.speculate else None,
    )


def by_batch(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Iterator[Serving]:
    """Steps of batches that double, from a row for each replica to the last that fits into memory."""
    rows = setting.parallel.dp * setting.parallel.fsdp
    while rows <= MOST:
        each = replace(w, batch=rows)
        held = memory(model, graph, each, mode, setting)
        if held is not None and held.fits is False:
            return
        step = time(model, graph, each, mode, setting)
        assert step is not None
        yield Serving(
            batch=rows,
            total_s=step.total_s,
            tokens_per_s=step.tokens_per_s,
            tokens_per_s_per_device=step.tokens_per_s / setting.parallel.devices,
            bytes_per_device=None if held is None else held.per_device["total"],
            bound=step.bound,
        )
        rows *= 2


def load(model: Model, graph: Graph, w: Workload, setting: Setting) -> CacheLoad:
    """What it takes to load the cache of the past tokens, and to make it again."""
    from archc.cost.count import kv_cache

    hw, where = setting.hardware, setting.cache_from
    assert hw is not None
    assert where is not None
    rates = {"host": hw.host} if where == "host" else {"host": hw.host, "disk": hw.disk}
    for name, rate in rates.items():
        if not rate:
            raise ValueError(
                f"no rate of {name} is known of `{hw.label}`: give it in the spec,"
                f" `hardware mine = {hw.kind} {{ {name} = 10GB/s }}`"
            )
    whole = kv_cache(graph, model.cache, batch=w.batch, max_tokens=w.total, max_rewind=0).bytes_total
    share = whole / (setting.parallel.dp * setting.parallel.fsdp * setting.parallel.pp * setting.parallel.cp)
    again = replace(w, new=w.total, past=0)
    prefill = time(model, graph, again, "prefill", setting)
    assert prefill is not None
    return CacheLoad(
        source=where,
        bytes_per_device=round(share),
        load_s=share / min(rates.values()),
        prefill_s=prefill.total_s,
    )


def speculation(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, plain: Time) -> Speculation:
    """Steps that draft ``speculate`` tokens with the modules that predict further ones, the last of which goes on
    where there are fewer, and check them in one forward. A draft that is refused ends the step.
    """
    if mode != "decode" or w.new != 1:
        raise ValueError("tokens are drafted in decode, one at a time: --mode decode without --seq")
    parts, drafts, accept = units(graph), setting.speculate, setting.accept
    if not parts.ahead:
        raise ValueError(f"`{model.name}` has no modules that predict further tokens to draft with (field mtp)")
    assert setting.hardware is not None
    step = Step(model, graph, w, mode, setting, setting.hardware)
    names = unit_names(graph)
    draft = sum(
        step.clock.spent(step.works(names[id(parts.ahead[min(k, len(parts.ahead) - 1)])])).total for k in range(drafts)
    )
    check = time(model, graph, replace(w, new=drafts + 1, past=w.past - drafts), mode, setting)
    assert check is not None
    tokens = drafts + 1 if accept == 1 else (1 - accept ** (drafts + 1)) / (1 - accept)
    total = draft * step.micros + check.total_s
    return Speculation(
        drafts=drafts,
        accept=accept,
        tokens_per_step=tokens,
        draft_s=draft * step.micros,
        check_s=check.total_s,
        tokens_per_s=w.batch * tokens / total,
        speedup=tokens * plain.total_s / total,
    )
