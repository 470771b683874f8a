"""What tables cost: where they lie, what a token reads, and whether layers hide it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc.cost.count import count
from archc.cost.explain import explain
from archc.cost.parallel import Collective, collectives, groups, shard_shape
from archc.cost.setting import Parallel, Setting, setting_of
from archc.cost.tables import arrival
from archc.drawers import drawer_class
from archc.ops import Workload
from archc.plan import plan
from archc.resolve import load_text
from tests.oracles.engram import table_sizes

ROWS, DIM, TABLES = 1000, 10, 2 * 3

SPEC = """arch 1
hardware slow = h100 {{ disk = 1MB/s }}
model m {{
  vocab = 500, dim = 64, layers = 6, context = 1Ki
  attention = gqa {{ heads = 4, kv_heads = 2 }}
  ffn = swiglu {{ hidden = 128 }}
  optimizer = {optimizer}
  memory engram = engram {{ heads = 3, head_dim = 10, rows = 1000, placement = {place} }}
  schedule {{ memory = engram at [1, 4] }}
}}
"""
BYTES = [2 * DIM * sum(sizes) for sizes in table_sizes(ROWS, 2, 2, 3)]
"""Of the two tables in bfloat16."""


def loaded(place: str = "device", optimizer: str = "adamw") -> Any:
    (model,) = load_text(SPEC.format(place=place, optimizer=optimizer))
    return model


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@pytest.mark.parametrize("asked", [None, "device", "host", "disk"])
def test_tables_lie_where_the_setting_or_the_spec_says(place: str, asked: Any) -> None:
    model = loaded(place)
    report = count(model, plan(model), setting=Setting(tables=asked))
    where, everything = asked or place, count(model, plan(model), setting=Setting(tables="device")).memory
    assert report.tables is not None and report.memory is not None and everything is not None
    assert report.tables.bytes_by_tier == dict.fromkeys(("device", "host", "disk"), 0) | {where: sum(BYTES)}
    assert report.tables.parameters == sum(BYTES) // 2
    assert (report.tables.rows_per_token, report.tables.bytes_per_token) == (2 * TABLES, 2 * TABLES * DIM * 2)
    assert report.memory.host == (sum(BYTES) if where == "host" else 0)
    assert report.memory.disk == (sum(BYTES) if where == "disk" else 0)
    assert report.memory.weights == everything.weights - (sum(BYTES) if where != "device" else 0)


@pytest.mark.parametrize(("optimizer", "state"), [("adamw", 8), ("muon", 8), ("adamw { tables = none }", 0)])
@pytest.mark.parametrize("batch", [1, 3, 500])
def test_training_keeps_gradients_of_the_rows_that_were_read(optimizer: str, state: int, batch: int) -> None:
    """On a host; beside every parameter its master copy in float32 and the moments of its optimizer."""
    model = loaded("host", optimizer)
    memory = count(model, plan(model), mode="train", batch=batch, seq=10).memory
    rows = [min(size // (2 * DIM), batch * 10 * TABLES) for size in BYTES]
    assert memory is not None
    assert memory.host == sum(BYTES) + 4 * DIM * sum(rows) + sum(BYTES) // 2 * (state + 4)


def test_a_token_uses_the_rows_that_it_reads() -> None:
    params = archc.cost(loaded()).params
    assert params.total - params.active == sum(BYTES) // 2 - 2 * TABLES * DIM


@given(
    takes=st.lists(st.floats(0, 2e-6), min_size=7, max_size=7),
    rate=st.sampled_from([1e7, 1e9, 64e9]),
    rows=st.integers(1, 8),
    new=st.integers(1, 40),
)
def test_rows_arrive_while_layers_run(takes: list[float], rate: float, rows: int, new: int) -> None:
    """Played through: one reader, which begins with the forward; a layer starts when its rows are there."""
    model = loaded("host")
    graph = plan(model)
    hardware = drawer_class("hardware", "h100")(host=rate)
    w = Workload(batch=rows, new=new, past=100, cached=True)
    seconds = {id(unit): 0.0 for unit in _units(graph)}
    for unit, time in zip(_units(graph), takes, strict=False):
        seconds[id(unit)] = time
    found = arrival(model, graph, w, "decode", Setting(hardware=hardware), lambda unit: seconds[id(unit)])
    parts = _schedule(graph)
    one = rows * new * TABLES * DIM * 2 / rate
    now, late, there = seconds[id(parts[0])], 0.0, {2: one, 5: 2 * one}
    for place, unit in enumerate(parts[1:], 1):
        if place in there and there[place] > now:
            late += there[place] - now
            now = there[place]
        now += seconds[id(unit)]
    assert found == (pytest.approx(2 * one), pytest.approx(late, abs=1e-15))


def _units(graph: Any) -> list[Any]:
    from archc.cost.placement import units

    parts = units(graph)
    return [parts.first, *parts.kinds]


def _schedule(graph: Any) -> list[Any]:
    """What runs, in its order: what comes before the layers, then these."""
    from archc.cost.placement import units

    parts = units(graph)
    return [parts.first, *(parts.kinds[k] for k in parts.schedule)]


def test_a_slow_disk_is_waited_for() -> None:
    model = loaded("disk")
    slow, graph = model.machines["slow"], plan(model)
    setting = Setting(hardware=slow)
    time = count(model, graph, mode="prefill", batch=8, seq=512, setting=setting).time
    fast = count(model, graph, mode="prefill", batch=8, seq=512, setting=replace(setting, tables="device")).time
    assert time is not None and fast is not None
    assert (fast.parts["tables"], fast.tables_s) == (0, None)
    assert time.tables_s == pytest.approx(8 * 512 * 2 * TABLES * DIM * 2 / 1e6)
    assert time.bound == "tables" and time.total_s == pytest.approx(fast.total_s + time.parts["tables"])
    assert sum(time.parts.values()) == pytest.approx(time.total_s)


def test_an_unknown_rate_is_said() -> None:
    model = loaded("disk")
    setting = Setting(hardware=drawer_class("hardware", "h100")())
    report = count(model, plan(model), setting=setting)
    assert report.time is not None and report.time.tables_s is None
    assert any("no rate of disk is known of h100" in line for line in report.assumptions)


def test_a_memory_on_several_layers_is_explained_once() -> None:
    model = loaded()
    found = explain(model, plan(model), count(model, plan(model)), "params.by_component.memory")
    said = [(s.drawer, s.field, s.value) for s in found.sources if s.drawer == "memory engram"]
    assert said == [
        ("memory engram", "heads", "3"),
        ("memory engram", "head_dim", "10"),
        ("memory engram", "rows", "1,000"),
        ("memory engram", "placement", "device"),
    ]
    assert sum(t.total for t in found.terms) == found.value


PLANS = ["fsdp=16", "fsdp=4,ep=4", "tp=2,fsdp=2", "tp=2,ep=8,dp=2,fsdp=4", "dp=4,ep=2", "fsdp=2,cp=2"]
W = Workload(batch=64, new=20)


def under(text: str, plan_: str, mode: Any = "train", **fields: Any) -> tuple[Any, Setting, tuple[Collective, ...]]:
    (model,) = load_text(text)
    setting = setting_of(model, hardware="h100", parallel=Parallel.parse(plan_))
    setting = replace(setting, **fields)
    graph = plan(model)
    return graph, setting, collectives(model, graph, W, mode, setting)


@pytest.mark.parametrize("ways", PLANS)
def test_what_is_sent_does_not_depend_on_the_rows_of_tables(ways: str) -> None:
    """Rows that tokens read are sent, tables are not; but for gradients of what replicas have copies of."""
    few = SPEC.format(place="device", optimizer="adamw")
    many = few.replace("rows = 1000", "rows = 50000")
    (graph, setting, one), (_, _, other) = under(few, ways), under(many, ways)
    ours = [c for c in one if c.what != "gradients of experts (dp)"]
    assert ours == [c for c in other if c.what != "gradients of experts (dp)"]
    if groups(setting).expert_copies > 1:
        assert len(ours) < len(one)
    assert not any(c.what == "experts (fsdp)" for c in one)
    parts = [
        (p.spec.shape[0], shard_shape(p.spec, None, setting)[0]) for p in graph.parameters() if p.spec.role == "table"
    ]
    assert len(parts) == 2 and all(part == -(-rows // groups(setting).model) for rows, part in parts)


@pytest.mark.parametrize("ways", PLANS)
@pytest.mark.parametrize("mode", ["train", "prefill"])
@pytest.mark.parametrize("zero", [1, 3])
def test_rows_of_tables_are_exchanged(ways: str, mode: Any, zero: Any) -> None:
    """Counted device by device: rows are as likely with each; those of another node come over the network to the
    device of the same place there, and over its links.
    """
    _, setting, found = under(SPEC.format(place="device", optimizer="adamw"), ways, mode, zero=zero)
    p, g = setting.parallel, groups(setting)
    devices = range(g.model * (g.expert_shards if zero == 3 else 1))
    tokens = W.batch * W.new / (p.dp * p.fsdp * p.tp * p.cp)
    each = tokens * TABLES * DIM * 2 / len(devices)
    beyond = sum(each for device in devices if device // 8)
    passed = sum(each for device in devices if device % 8)
    runs = 2 * (2 if mode == "train" else 1)  # two layers; forward, and gradients
    rows = [c for c in found if c.what == "rows of tables"]
    assert sum(c.bytes * c.count for c in rows if c.network) == pytest.approx(runs * beyond)
    assert sum(c.bytes * c.count for c in rows if not c.network) == pytest.approx(runs * passed)


def test_tables_of_hosts_send_no_gradients() -> None:
    near, far = (SPEC.format(place=place, optimizer="adamw") for place in ("device", "host"))
    assert [c.what for c in under(near, "dp=4")[2]].count("gradients of experts (dp)") == 2
    assert not any("experts" in c.what for c in under(far, "dp=4")[2])


@pytest.mark.parametrize("key", ["tables.parameters", "tables.rows_per_token", "tables.bytes_per_token"])
@pytest.mark.parametrize("mode", ["train", "decode"])
def test_figures_of_tables_are_sums_of_their_terms(key: str, mode: Any) -> None:
    model = loaded()
    found = explain(model, plan(model), count(model, plan(model), mode=mode), key)
    assert sum(t.total for t in found.terms) == found.value
    assert {s.field for s in found.sources if s.drawer == "memory engram"} >= {"heads", "head_dim", "rows"}
