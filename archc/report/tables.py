"""The tables of a report page: a row for each figure, a column for each model, with the change from the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from archc.report.number import Change, Number, Word, change, number, word
from archc.report.subject import Subject

NAMES = {
    "params.total": "total, without MTP",
    "params.active": "active a token",
    "params.active_without_embedding": "active without embedding",
    "params.active_core": "active core",
    "params.by_component.mtp": "MTP",
    "params.buffers": "buffers",
    "flops.weighted_fp8_equivalent": "FP8 equivalent of a token",
    "kv_cache.bytes_per_token": "a token more",
    "kv_cache.bytes_per_sequence_fixed": "of a row, fixed",
    "kv_cache.bytes_total": "together",
    "kv_cache.layout": "stored as",
    "memory.fits": "fits",
    "memory.per_device.total": "together",
    "time.bound": "bound by",
    "time.total_s": "a step",
    "time.compute_s": "arithmetic alone",
    "time.memory_s": "memory alone",
    "time.communication_s": "communication alone",
    "time.mfu": "MFU",
    "time.gpu_hours": "device hours",
    "time.tokens_per_s": "tokens a second",
    "time.flops_per_device": "ideal FLOP/s of a device",
    "time.money": "money ($)",
}
"""What figures are called where the end of their key does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A figure, how it differs from the first model's, and its part of the longest bar of the table (0 to 100)."""

    number: Number | Word | None
    change: Change | None = None
    bar: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a table; ``strong`` is a sum of those above, ``under`` a heading of its own."""

    name: str
    cells: tuple[Cell, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a column for each model."""

    name: str
    title: str
    note: str
    rows: tuple[Row, ...]


def tables(subjects: list[Subject]) -> list[Table]:
    """Every table that has something to say."""
    workload = subjects[0].report()["workload"]
    training = workload["mode"] == "train"
    per = "train_per_token" if training else "forward_per_token"
    flops_of = "forward and backward" if training else "forward"
    found = [
        _table(
            subjects,
            "params",
            "Parameters",
            "Multi-token prediction (MTP) is counted apart. A tied head counts as embedding; core: without both.",
            _family(subjects, "params.by_component"),
            [f"params.{k}" for k in ("total", "active", "active_without_embedding", "active_core", "buffers")],
        ),
        *(
            _table(
                subjects,
                f"flops-{kind}",
                f"FLOPs, {kind}",
                f"{note} Of the whole workload ({flops_of}), 2 per multiply-add.",
                _family(subjects, f"flops.{kind}.by_component"),
                [f"flops.{kind}.workload_total", f"flops.{kind}.{per}"],
            )
            for kind, note in (
                ("ideal", "What the equations need: only the keys a query may see."),
                ("executed", "What the package's reference path runs."),
            )
        ),
        *([] if training else [_cache(subjects)]),
        *_memory(subjects),
        _table(
            subjects,
            "time",
            "Time",
            "What a step on the devices of the plan is made of; then all of a kind as if nothing overlapped.",
            _family(subjects, "time.parts"),
            ["time.total_s", *(k for k in _family(subjects, "time") if k != "time.total_s"), "time.bound"],
        ),
    ]
    return [t for t in found if t.rows]


def _memory(subjects: list[Subject]) -> list[Table]:
    counts = ("memory.devices", "memory.stage", "memory.master")
    fullest = [k for k in _family(subjects, "memory.per_device") if k != "memory.per_device.total"]
    return [
        _table(
            subjects,
            "memory",
            "Memory of the fullest device",
            "Of the devices of the plan.",
            fullest,
            ["memory.per_device.total", "memory.fits"],
        ),
        _table(
            subjects,
            "memory-all",
            "Memory of all devices",
            "Together; then their weights by the format they are stored in.",
            [k for k in _family(subjects, "memory") if k not in counts],
            ["memory.devices", *_family(subjects, "memory.weights_by_format")],
        ),
    ]


def _cache(subjects: list[Subject]) -> Table:
    return _table(
        subjects,
        "cache",
        "Cache",
        "What new_cache allocates for the workload's rows.",
        _family(subjects, "kv_cache.by_component"),
        [f"kv_cache.{k}" for k in ("bytes_total", "bytes_per_token", "bytes_per_sequence_fixed", "layout")],
    )


def _family(subjects: list[Subject], path: str) -> list[str]:
    """Keys of the figures right under a path that are not zero for all models."""
    keys: dict[str, bool] = {}
    for s in subjects:
        data: Any = s.report()
        for part in path.split("."):
            data = data.get(part) if isinstance(data, dict) else None
        for name, value in (data or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                keys[name] = keys.get(name, False) or bool(value)
    return [f"{path}.{name}" for name, there in keys.items() if there]


def _table(
    subjects: list[Subject], name: str, title: str, note: str, parts: Iterable[str], sums: Iterable[str]
) -> Table:
    parts = list(parts)
    longest = max((n.value for key in parts for s in subjects if (n := number(s, key)) is not None), default=0)
    rows = [*_rows(subjects, parts, longest), *_rows(subjects, sums, 0, strong=True)]
    return Table(name=name, title=title, note=note, rows=tuple(rows))


def _rows(subjects: list[Subject], keys: Iterable[str], longest: float, *, strong: bool = False) -> Iterator[Row]:
    for key in keys:
        found: list[Number | Word | None] = [number(s, key) or word(s, key) for s in subjects]
        if not any(n is not None and n.value for n in found):
            continue
        yield Row(
            name=_name(key),
            cells=tuple(
                Cell(
                    number=n if n is not None and n.value != 0 else None,
                    change=change(n, found[0]),
                    bar=_bar(n, longest),
                )
                for n in found
            ),
            strong=strong,
        )


def _bar(n: Number | Word | None, longest: float) -> float | None:
    part = round(100 * n.value / longest, 1) if isinstance(n, Number) and longest else 0
    return part if part >= 1 else None


def _name(key: str) -> str:
    if key in NAMES:
        return NAMES[key]
    if key.startswith("flops.") and key.endswith("workload_total"):
        return "together"
    if key.endswith("_per_token") and key.startswith("flops."):
        return "a token"
    end = key.rpartition(".")[2].removesuffix("_s") if key.startswith("time.") else key.rpartition(".")[2]
    if key.startswith("memory.weights_by_format."):
        return f"weights in {end}"
    return "cache" if end == "kv_cache" else end.replace("_", " ")
