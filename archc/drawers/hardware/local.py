"""The machine at hand."""

from __future__ import annotations

from archc import machine
from archc.schema import Hardware


class Local(Hardware, **machine.figures()):
    """The machine at hand, as `archc bench --calibrate` measured it: its processor, by what PyTorch reaches.

    Times come from the whole calibration, call by call, of which these are the largest rates. Without one they are
    missing.
    """
