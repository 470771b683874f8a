"""Facts of a model's kernels without a GPU: one row for each kernel of each call, way and number of tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from archc.cli._bench.subjects import Subject

TOKENS = (1, 64, 4096)
"""A step of decoding, a small batch, and a training row."""

PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
"""Multiprocessors of an A100, H100 and B200, and compute units of an MI300X: how many programs kernels start."""

Row = dict[str, Any]


def counts(tokens: Sequence[int]) -> tuple[int, ...]:
    """Numbers of tokens that subjects are needed at: those asked for, and more, of which only rows have as many."""
    return tuple(sorted({*tokens, *(2 * n for n in tokens), 4096}))


def rows(
    folder: Path,
    found: Sequence[Subject],
    targets: Sequence[str],
    tell: Callable[[str], None],
    tokens: Sequence[int] = TOKENS,
) -> list[Row]:
    """The rows of subjects of a package at ``folder``, by subject, way and number of tokens; subjects are of `counts`.

    Equal launches of a call are one row, whose ``launches`` counts them. A subject that cannot run has one row with an
    ``error``.
    """
    job = {
        "folder": str(folder.parent),
        "package": folder.name,
        "tokens": tokens,
        "more": counts(tokens),
        "targets": targets,
        "processors": PROCESSORS[targets[0]],
    }
    tell(f"compiling the kernels of {len(found)} calls for {', '.join(targets)}")
    compiled = _run("compile", {**job, "subjects": [s.as_dict() for s in found]})
    tell("running them in Triton's interpreter")
    traced = _run("trace", {**job, "subjects": [s.as_dict() for s in found]})
    return [
        row
        for subject, code, moves in zip(found, compiled, traced, strict=True)
        for row in _subject(subject, code, moves, targets, tokens)
    ]


def layers(folder: Path, alone: Path | None = None) -> list[dict[str, Any]]:
    """Launches of each layer of the tiny twin in a package, by number of tokens: with its kernels and by reference.

    ``unfused`` is what layers launch with the kernels of a package ``alone`` of the same model, built without fusion.
    """
    found, others = (
        _run("layers", {"folder": str(at.parent), "package": at.name}) if at is not None else []
        for at in (folder, alone)
    )
    for entry, other in zip(found, others, strict=alone is not None):
        entry["unfused"] = other["triton"] + other["torch"]
    return found


def _run(how: str, job: dict[str, Any]) -> Any:
    """What the child says."""
    with tempfile.TemporaryDirectory(prefix="archc-bench-", ignore_cleanup_errors=True) as kept:
        # Nothing compiled before is taken from Triton's folder: how long compiling takes is a figure.
        env = {**os.environ, "TRITON_INTERPRET": "0" if how == "compile" else "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "archc.cli._bench.static.child", how],
            input=json.dumps(job),
            capture_output=True,
            env={**env, "TRITON_CACHE_DIR": kept},
            text=True,
            encoding="utf-8",
            check=False,
        )
    if done.returncode:
        raise click.UsageError(f"{how} ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _subject(
    subject: Subject, code: dict[str, Any], moves: dict[str, Any], targets: Sequence[str], tokens: Sequence[int]
) -> list[Row]:
    head: Row = {"op": subject.op, "shapes": subject.shapes, "times": subject.times}
    error = code.get("error") or moves.get("error")
    if error:
        return [{**head, "error": error.strip()}]
    made = []
    for target in targets:
        for way in ("forward", "backward"):
            for count in tokens:
                at = {**head, "way": way, "tokens": count, "arch": target}
                facts, moved = code[target][str(count)][way], moves[str(count)][way]
                made += _launches(at, facts, moved, subject.bounds[way][count])
    return made


def _launches(at: Row, facts: list[dict[str, Any]], moved: list[dict[str, Any]], bound: int) -> list[Row]:
    """The rows of one call at one number of tokens: its Triton kernels, and what PyTorch runs between them."""
    code = iter(facts)
    made: dict[tuple[Any, ...], Row] = {}
    for launch in moved:
        row = {**at, "kernel": launch["kernel"], "backend": launch["backend"], "launches": 1}
        row |= {
            "bytes_requested": sum(launch["requested"].values()),
            "bytes_footprint": sum(launch["distinct"].values()),
            "bytes_bound": bound,
        }
        if launch["backend"] == "triton":
            found = next(code)
            row |= {
                "regs": found["registers"],
                "spills": found["spills"] or found["spilled"],
                "shared": found["shared"],
                "instructions": found["instructions"],
                "access_bits": narrowest(found, launch["requested"]),
                "row_bits": of_rows(found, launch["requested"]),
                "compile_seconds": round(found["seconds"], 2),
                "mma": found["matrix"],
            }
        key = (row["kernel"], row["backend"], json.dumps([row.get(k) for k in ("regs", "spills", "shared")]))
        known = made.setdefault(key, row)
        if known is not row:
            known["launches"] += 1
            for kind in ("bytes_requested", "bytes_footprint"):
                known[kind] += row[kind]
    return list(made.values())


def narrowest(facts: dict[str, Any], moved: dict[str, int], share: float = 0.05) -> int | None:
    """The bits of the narrowest access to an array that makes a ``share`` of the bytes moved; None if unknown."""
    much = share * sum(moved.values())
    widths = [int(b) for name, found in facts["arrays"].items() if moved.get(name, much) >= much for b in found]
    return min(widths, default=None)


def of_rows(facts: dict[str, Any], moved: dict[str, int]) -> int | None:
    """The bits of the narrowest access to rows of channels; None where there are none, or no instruction names some."""
    rows = [name for name in facts["rows"] if moved.get(name)]
    if not all(facts["arrays"].get(name) for name in rows):
        return None
    return min((int(b) for name in rows for b in facts["arrays"][name]), default=None)
