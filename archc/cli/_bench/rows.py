"""Facts of a model's kernels without a GPU: one row for each kernel of each call, way and number of tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def rows(folder: Path, found: Sequence[Subject], targets: Sequence[str], tell: Callable[[str], None]) -> list[Row]:
    """The rows of subjects of a package at ``folder``, by subject, way and number of tokens.

    Equal launches of a call are one row, whose ``launches`` counts them. A subject that cannot run has one row with an
    ``error``.
    """
    job = {
        "folder": str(folder.parent),
        "package": folder.name,
        "tokens": TOKENS,
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
        for row in _subject(subject, code, moves, targets)
    ]


def layers(folder: Path) -> list[dict[str, Any]]:
    """Launches of each layer of the tiny twin in a package, by number of tokens: with its kernels and by reference."""
    return _run("layers", {"folder": str(folder.parent), "package": folder.name})


def _run(how: str, job: dict[str, Any]) -> Any:
    """What the child says."""
    env = {**os.environ, "TRITON_INTERPRET": "0" if how == "compile" else "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "archc.cli._bench.static.child", how],
        input=json.dumps(job),
        capture_output=True,
        env=env,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise click.UsageError(f"{how} ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _subject(subject: Subject, code: dict[str, Any], moves: dict[str, Any], targets: Sequence[str]) -> list[Row]:
    head: Row = {"op": subject.op, "shapes": subject.shapes, "times": subject.times}
    error = code.get("error") or moves.get("error")
    if error:
        return [{**head, "error": error.strip()}]
    made = []
    for target in targets:
        for way in ("forward", "backward"):
            for tokens in TOKENS:
                at = {**head, "way": way, "tokens": tokens, "arch": target}
                facts, moved = code[target][str(tokens)][way], moves[str(tokens)][way]
                made += _launches(at, facts, moved, subject.bounds[way][tokens])
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
