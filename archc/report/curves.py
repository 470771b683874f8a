"""The plots of a report page: over context, over batch, and against the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from archc.report.number import Number, count, flops, number, rate, seconds, size
from archc.report.plot import Plot, Series, plot
from archc.report.subject import Subject

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHORTEST = 1024
HOLLOW = "A hollow marker: such a batch does not fit into memory."


def curves(subjects: list[Subject]) -> list[Plot]:
    """Every plot that has something to show."""
    made = (_cache, _flops, _flops_executed, _throughput, _latency, _roofline)
    return [found for make in made if (found := make(subjects)) is not None]


def contexts(subject: Subject) -> list[int]:
    """Powers of four up to the model's context, and that."""
    longest = subject.model.context
    found = {SHORTEST * 4**k for k in range(12) if SHORTEST * 4**k < longest} | {longest}
    return sorted(found)


def _over(
    subjects: list[Subject], key: str, changes: Callable[[Subject], Iterator[tuple[int, dict[str, Any]]]]
) -> list[Series]:
    found = []
    for s in subjects:
        points = [(x, n) for x, given in changes(s) if (n := number(s, key, **given)) is not None]
        lost = frozenset(x for x, given in changes(s) if fits(s, given) is False)
        found.append(Series(name=s.model.name, colour=s.index, points=tuple(points), hollow=lost))
    return found


def fits(s: Subject, given: dict[str, Any]) -> bool | None:
    """Whether the fullest device holds a workload; None where that is not known."""
    memory = s.report(**given)["memory"]
    return None if memory is None or s.hardware is None else memory["fits"]


def _by_context(s: Subject) -> Iterator[tuple[int, dict[str, Any]]]:
    for n in contexts(s):
        yield n, {"mode": "decode", "batch": 1, "context": n}


def training(s: Subject) -> bool:
    """Whether the page is about training: its plans are none to decode on."""
    return s.report()["workload"]["mode"] == "train"


def _by_batch(s: Subject) -> Iterator[tuple[int, dict[str, Any]]]:
    for n in BATCHES if s.hardware is not None and not training(s) else ():
        yield n, {"mode": "decode", "batch": n, "context": decode_context(s)}


def decode_context(s: Subject) -> int:
    """Tokens of a row while batches grow: those of the page's workload."""
    return s.report()["workload"]["context"]


def _cache(subjects: list[Subject]) -> Plot | None:
    return plot(
        "cache-context",
        "Cache of a row",
        _over(subjects, "kv_cache.bytes_total", _by_context),
        x_title="tokens of a row",
        x_style=tokens,
        y_style=size,
        y_base=2,
        note="Tensors that new_cache allocates.",
    )


def _flops(subjects: list[Subject]) -> Plot | None:
    return plot(
        "flops-context",
        "FLOPs to decode a token, ideal",
        _over(subjects, "flops.ideal.forward_per_token", _by_context),
        x_title="tokens of a row",
        x_style=tokens,
        y_style=flops,
        note="What the equations need for the last token of a row.",
    )


def _flops_executed(subjects: list[Subject]) -> Plot | None:
    return plot(
        "flops-context-executed",
        "FLOPs to decode a token, executed",
        _over(subjects, "flops.executed.forward_per_token", _by_context),
        x_title="tokens of a row",
        x_style=tokens,
        y_style=flops,
        note="What the package's reference path runs for it.",
    )


def _throughput(subjects: list[Subject]) -> Plot | None:
    return plot(
        "throughput-batch",
        "Tokens a second, decoding",
        _over(subjects, "time.tokens_per_s", _by_batch),
        x_title="rows of a batch",
        x_style=count,
        y_style=rate,
        note=HOLLOW,
    )


def _latency(subjects: list[Subject]) -> Plot | None:
    return plot(
        "latency-batch",
        "Time of a step, decoding",
        _over(subjects, "time.total_s", _by_batch),
        x_title="rows of a batch",
        x_style=count,
        y_style=seconds,
        note=HOLLOW,
    )


def _roofline(subjects: list[Subject]) -> Plot | None:
    """Ideal FLOP/s of a device over its FLOPs for each byte: of growing batches, or of a step of training."""
    with_hardware = [s for s in subjects if s.hardware is not None]
    if not with_hardware:
        return None
    hw = with_hardware[0].hardware
    assert hw is not None
    found = []
    for s in with_hardware:
        points: list[tuple[float, Number]] = []
        for given in [{}] if training(s) else [given for _, given in _by_batch(s)]:
            reached, moving, whole = (
                number(s, f"time.{k}", **given) for k in ("flops_per_device", "memory_s", "total_s")
            )
            if reached is not None and moving is not None and whole is not None and moving.value:
                points.append((reached.value * whole.value / (moving.value * hw.streams), reached))
        found.append(Series(name=s.model.name, colour=s.index, points=tuple(points)))
    if not any(s.points for s in found):
        return None
    xs = [x for s in found for x, _ in s.points]
    peak = hw.peak("bf16")
    ridge = peak / hw.streams
    low, high = min(*xs, ridge / 4), max(*xs, ridge * 4)
    what = "training" if training(subjects[0]) else f"decoding {BATCHES[0]} to {BATCHES[-1]} rows"
    return plot(
        "roofline",
        f"Roofline of {hw.kind}, {what}",
        found,
        x_title="ideal FLOPs for each byte moved",
        x_style=intensity,
        x_base=10,
        y_style=flops,
        roof=[(low, low * hw.streams), (ridge, peak), (high, peak)],
        note="The line is what memory and products in bfloat16 allow.",
    )


def tokens(n: float) -> str:
    """``64 Ki``"""
    for unit, one in (("Mi", 2**20), ("Ki", 2**10)):
        if n >= one:
            return f"{n / one:g}\N{NO-BREAK SPACE}{unit}"
    return f"{n:g}"


def intensity(n: float) -> str:
    """``0.5``, ``300``"""
    return f"{n:.3g}" if n < 1000 else f"{n:,.0f}"
