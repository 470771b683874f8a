"""How long a step takes, and what that means for a run."""

from __future__ import annotations

from archc.cli._cost.units import bytes_text, count_text, flops_text, seconds_text, share_text
from archc.cli._plain import Column, Table
from archc.cost.report import Memory, Serving, Time


def facts(time: Time, *, train: bool, memory: Memory | None) -> list[tuple[str, str]]:
    """Rows of names and texts: the step, its parts, the run; a step that no device has room for is said to be one."""
    parts = sorted(((n, s) for n, s in time.parts.items() if s > 0), key=lambda part: -part[1])
    step = f"{seconds_text(time.total_s)}, {count_text(time.tokens_per_s)} tokens/s; most of it: {time.bound}"
    if memory is not None and memory.fits is False:
        step += "; does not fit into memory"
    alone = [("arithmetic", time.compute_s), ("bytes", time.memory_s), ("communication", time.communication_s)]
    rows = [
        ("a step", step),
        ("its parts", ", ".join(f"{name} {seconds_text(s)} ({share_text(s / time.total_s)})" for name, s in parts)),
        ("if alone", ", ".join(f"{name} {seconds_text(s)}" for name, s in alone if s)),
        ("utilisation", f"MFU {100 * time.mfu:.1f} % of bfloat16, {flops_text(time.flops_per_device)}/s a device"),
    ]
    if (load := time.cache_load) is not None:
        rows.append(
            (
                "the cache",
                (
                    f"loading {bytes_text(load.bytes_per_device)} a device from {load.source}"
                    f" {seconds_text(load.load_s)}, computing it {seconds_text(load.prefill_s)}"
                ),
            )
        )
    if (spec := time.speculation) is not None:
        rows.append(
            (
                "speculation",
                (
                    f"{spec.drafts} drafted, {100 * spec.accept:g} % accepted: {spec.tokens_per_step:.2f} tokens a step"
                    f" of {seconds_text(spec.draft_s)} to draft and {seconds_text(spec.check_s)} to check,"
                    f" {count_text(spec.tokens_per_s)} tokens/s, {spec.speedup:.2f}x"
                ),
            )
        )
    if time.tables_s is not None:
        late = time.parts["tables"]
        hidden = "all" if not late else seconds_text(time.tables_s - late) if late < time.tables_s else "none"
        rows.append(("rows of tables", f"{seconds_text(time.tables_s)} to read, {hidden} of it while layers run"))
    if time.gpu_hours is not None and train:
        money = "" if time.money is None else f", ${count_text(time.money)}"
        rows.append(("the run", f"{count_text(time.gpu_hours)} device-hours, {time.days or 0:,.1f} days{money}"))
    return rows


def by_batch(rows: tuple[Serving, ...]) -> Table:
    """A table of steps by batch."""
    figures = ("batch", "a step", "tokens/s", "a device", "memory a device")
    table = Table(*(Column(title, "right") for title in figures), Column("most of it"))
    for row in rows:
        table.add(
            f"{row.batch:,}",
            seconds_text(row.total_s),
            count_text(row.tokens_per_s),
            count_text(row.tokens_per_s_per_device),
            "-" if row.bytes_per_device is None else bytes_text(row.bytes_per_device),
            row.bound,
        )
    return table
