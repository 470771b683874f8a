"""The machine at hand."""

from __future__ import annotations

from collections.abc import Iterator

from archc import machine
from archc.schema import Hardware, Problem, field


class Local(Hardware):
    """The machine at hand, as `archc bench --calibrate` measured it: its processor, by what PyTorch reaches.

    Times come from the whole calibration, call by call, of which these are the largest rates. The calls are those of
    PyTorch, https://docs.pytorch.org/docs/stable/.
    """

    memory: float = field("memory of the machine", unit="bytes", default_factory=lambda: machine.figure("memory"))
    bandwidth: float = field(
        "what its memory reads or writes", unit="bytes/s", default_factory=lambda: machine.figure("bandwidth")
    )
    fp32: float = field("matrix products in float32", unit="FLOP/s", default_factory=lambda: machine.figure("fp32"))
    bf16: float = field("matrix products in bfloat16", unit="FLOP/s", default_factory=lambda: machine.figure("bf16"))
    launch: float = field("time of a small call", unit="s", default_factory=lambda: machine.figure("launch"))

    def problems(self) -> Iterator[Problem]:
        if not machine.figures():
            yield Problem(fields=(), message=machine.MISSING)
