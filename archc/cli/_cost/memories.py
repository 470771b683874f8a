"""Memory, part by part."""

from __future__ import annotations

from archc.cli._cost.units import bytes_text
from archc.cli._plain import Column, Table
from archc.cost.report import Memory

NAMES = {"kv_cache": "cache", "buffers": "from other devices"}
"""What parts are called where their key says too little."""

STEP_PEAK = (
    "apart: the most that the package's own step on one micro-batch allocates, with torch.optim.AdamW and parameters in"
    " the dtype of activations"
)
"""Below a total that it is no part of, and that it may be far from."""


def table(memory: Memory, room: float | None) -> Table:
    """A line for each part: on all devices together, and on the fullest; ``room`` is what a device has."""
    several = memory.devices > 1
    titles = (f"{memory.devices:,} devices", "the fullest") if several else ("bytes",)
    shown = Table(Column("memory"), *(Column(title, "right") for title in titles), Column("of which", style="dim"))
    totals = {**vars_of(memory), "total": 0}
    totals["total"] = sum(totals.values())
    for name, on_device in memory.per_device.items():
        if not totals[name] and name != "total":
            continue
        both = (totals[name], on_device) if several else (on_device,)
        style = "bold" if name == "total" else ""
        shown.add(NAMES.get(name, name), *map(bytes_text, both), _which(memory, name, room), style=style)
    if memory.host:
        shown.add("on hosts", *(["-"] if several else []), bytes_text(memory.host), "")
    if memory.disk:
        shown.add("on disks", *(["-"] if several else []), bytes_text(memory.disk), "")
    if memory.step_peak is not None:
        shown.add("step peak", bytes_text(memory.step_peak), STEP_PEAK)
    return shown


def vars_of(memory: Memory) -> dict[str, int]:
    """The parts of all devices together that lie on devices."""
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "workspace": memory.workspace,
        "kv_cache": memory.kv_cache_by_tier.get("device", 0),
        "buffers": memory.buffers,
    }


def _which(memory: Memory, name: str, room: float | None) -> str:
    """What a part is made of, where that is worth a word."""
    if name == "weights" and len([n for n in memory.weights_by_format.values() if n]) > 1:
        some = sorted(memory.weights_by_format.items(), key=lambda item: -item[1])
        return ", ".join(f"{form} {bytes_text(n)}" for form, n in some if n >= 0.001 * memory.weights)
    if name == "optimizer" and memory.master:
        return f"master copies {bytes_text(memory.master)}"
    if name == "total" and room is not None:
        stage = f" (stage {memory.stage})" if memory.stage else ""
        verdict = "fits" if memory.fits else "does not fit"
        return f"{verdict}: a device has {bytes_text(room)}{stage}"
    return ""
