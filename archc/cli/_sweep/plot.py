"""The variants of a sweep as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archc.cli._sweep.columns import figure, text, title
from archc.cost.sweep import Variant

BLUE, GREY, RED = "#1f5fa8", "#9aa3ad", "#c2410c"


def save(path: Path, heading: str, variants: Sequence[Variant], x: str, y: str, marks: Sequence[bool] | None) -> None:
    """Draws figure ``y`` over figure ``x``, one dot a variant; those on the front are marked and joined."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    # the same file for the same sweep
    with mpl.rc_context({"svg.hashsalt": "archc", "font.size": 11, "font.family": "DejaVu Sans"}):
        fig, ax = plt.subplots(figsize=(8, 5), dpi=100, layout="constrained")
        dots = [(figure(v, x), figure(v, y), i) for i, v in enumerate(variants) if v.report is not None]
        front = sorted(d for d in dots if marks is not None and marks[d[2]])
        rest = [d for d in dots if not (marks is not None and marks[d[2]])]
        sound = [d for d in rest if variants[d[2]].sound]
        failing = [d for d in rest if not variants[d[2]].sound]
        for chosen, colour, label, marker in (
            (sound, BLUE if marks is None else GREY, "variants", "o"),
            (failing, RED, "do not hold", "x"),
            (front, BLUE, "Pareto front", "o"),
        ):
            if chosen:
                across, up = [d[0] for d in chosen], [d[1] for d in chosen]
                size = 42 if chosen is front else 26
                ax.scatter(across, up, s=size, c=colour, label=label, marker=marker, zorder=3)
        if len(front) > 1:
            ax.plot([d[0] for d in front], [d[1] for d in front], color=BLUE, linewidth=1, alpha=0.5, zorder=2)
        for axis, set_scale, key, at in ((ax.xaxis, ax.set_xscale, x, 0), (ax.yaxis, ax.set_yscale, y, 1)):
            values = [d[at] for d in dots]
            if values and min(values) > 0 and max(values) > 20 * min(values):
                set_scale("log")
                axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
                axis.set_minor_formatter(NullFormatter())
            axis.set_major_formatter(FuncFormatter(lambda v, _, key=key: _tick(key, v)))
        ax.set_xlabel(title(x))
        ax.set_ylabel(title(y))
        ax.set_title(heading, loc="left", fontsize=12)
        ax.grid(color="#e3e6ea", linewidth=0.8)
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        if marks is not None or failing:
            ax.legend(frameon=False)
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        fig.savefig(path, metadata=metadata, facecolor="white")
        plt.close(fig)


def _tick(key: str, value: float) -> str:
    """A figure with its unit, without idle zeros."""
    shown = text(key, int(value) if value == int(value) else value)
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", shown).replace(". ", " ").rstrip(".")
