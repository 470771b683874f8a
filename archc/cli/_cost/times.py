"""How long a step takes, and what that means for a run."""

from __future__ import annotations

from archc.cli._cost.units import count_text, flops_text, seconds_text
from archc.cost.report import Time


def facts(time: Time, *, train: bool) -> list[tuple[str, str]]:
    """Rows of names and texts: the step, its parts, the run."""
    parts = sorted(((n, s) for n, s in time.parts.items() if s > 0), key=lambda part: -part[1])
    rows = [
        ("a step", f"{seconds_text(time.total_s)}, {count_text(time.tokens_per_s)} tokens/s; most of it: {time.bound}"),
        ("its parts", ", ".join(f"{name} {seconds_text(s)} ({100 * s / time.total_s:.0f} %)" for name, s in parts)),
        (
            "if alone",
            (
                f"arithmetic {seconds_text(time.compute_s)}, bytes {seconds_text(time.memory_s)},"
                f" communication {seconds_text(time.communication_s)}"
            ),
        ),
        ("utilisation", f"MFU {100 * time.mfu:.1f} % of bfloat16, {flops_text(time.flops_per_device)}/s a device"),
    ]
    if time.gpu_hours is not None and train:
        money = "" if time.money is None else f", ${count_text(time.money)}"
        rows.append(("the run", f"{count_text(time.gpu_hours)} device-hours, {time.days or 0:,.1f} days{money}"))
    return rows
