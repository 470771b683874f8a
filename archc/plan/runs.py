"""The schedule of a model in few words: runs of equal layers, and the turns that runs of one layer take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from archc.schema import LAYER_SLOTS, Model


def schedule(model: Model) -> list[dict[str, Any]]:
    """Runs of equal layers: first and last layer, and the drawer of each slot."""
    runs: list[dict[str, Any]] = []
    for i, slots in enumerate(model.schedule):
        drawers = {s: d.label for s in LAYER_SLOTS if (d := getattr(slots, s)) is not None}
        if runs and runs[-1]["drawers"] == drawers:
            runs[-1]["last"] = i
        else:
            runs.append({"first": i, "last": i, "drawers": drawers})
    return runs


def spans(runs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, str]]]:
    """(layers, drawers) of the rows of a schedule: ``0..1``, ``2``, and where runs of one layer each take turns,
    ``3, 5 .. 41`` for all of one kind.
    """
    i = 0
    while i < len(runs):
        first, last = runs[i]["first"], runs[i]["last"]
        period, count = turns([(run["drawers"], run["first"] == run["last"]) for run in runs[i:]])
        for k in range(period):
            run = runs[i + k]
            if count > 1:
                yield f"{first + k}, {first + k + period} .. {first + k + (count - 1) * period}", run["drawers"]
            else:
                yield str(first) if first == last else f"{first}..{last}", run["drawers"]
        i += period * count


def turns(runs: list[tuple[dict[str, str], bool]]) -> tuple[int, int]:
    """(period, count) of the shortest sequence of single layers that the runs, (drawers, whether single), begin with at
    least three times in a row; (1, 1) where there is none.
    """
    for period in range(2, len(runs) // 3 + 1):
        count = 1
        while runs[count * period : (count + 1) * period] == runs[:period]:
            count += 1
        if count > 2 and all(single for _, single in runs[:period]):
            return period, count
    return 1, 1


def ranges(layers: Iterable[int]) -> str:
    """Layer numbers in few words: ``0..2, 5``, and ``3, 5 .. 41`` where every second or third one is meant."""
    left, words = sorted(layers), []
    while left:
        step = left[1] - left[0] if len(left) > 1 else 1
        count = 1
        while count < len(left) and left[count] - left[count - 1] == step:
            count += 1
        if step > 1 and count < 3:
            step, count = 1, 1
        head, last = left[0], left[count - 1]
        run = f"{head}..{last}" if step == 1 else f"{head}, {head + step} .. {last}"
        words.append(str(head) if count == 1 else run)
        left = left[count:]
    return ", ".join(words)
