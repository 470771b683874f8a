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

SMALLER = (64, 128, 256, 512, 1024)
"""Numbers of tokens, of which the first two neighbours are traced that launch as the largest of `TOKENS` does: its
bytes lie on the line through theirs. In the interpreter that one would take an hour.
"""

COUNTS = tuple(sorted({*TOKENS, *SMALLER}))

PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
"""Multiprocessors of an A100, H100 and B200, and compute units of an MI300X: how many programs kernels start."""

Row = dict[str, Any]


def rows(folder: Path, found: Sequence[Subject], targets: Sequence[str], tell: Callable[[str], None]) -> list[Row]:
    """The rows of subjects of a package at ``folder``, by subject, way and number of tokens.

    What launches once for each number of tokens is one row; ``launches`` counts equal ones. Bytes are None where they
    cannot be told. A subject that cannot run has one row with an ``error``.
    """
    job = {
        "folder": str(folder.parent),
        "package": folder.name,
        "tokens": TOKENS,
        "smaller": SMALLER,
        "targets": targets,
        "processors": PROCESSORS[targets[0]],
    }
    tell(f"compiling the kernels of {len(found)} calls for {', '.join(targets)}")
    compiled = _run("compile", {**job, "subjects": [s.as_dict() for s in found]})
    tell("running them in Triton's interpreter")
    traced = _run("trace", {**job, "subjects": [_traced(s, c) for s, c in zip(found, compiled, strict=True)]})
    return [
        row
        for subject, code, moves in zip(found, compiled, traced, strict=True)
        for row in _subject(subject, code, moves, targets)
    ]


def layers(folder: Path) -> list[dict[str, Any]]:
    """Launches of each layer of the tiny twin in a package, by number of tokens: with its kernels and by reference."""
    return _run("layers", {"folder": str(folder.parent), "package": folder.name})


def _traced(subject: Subject, compiled: dict[str, Any]) -> dict[str, Any]:
    """The subject with the numbers of tokens at which it is traced."""
    pairs = [n for pair in compiled.get("pairs", {}).values() if pair for n in pair]
    return {**subject.as_dict(), "trace": sorted({*TOKENS[:-1], *pairs})}


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
                facts = code["facts"][target][str(tokens)][way]
                launched = _moved(moves, way, tokens, code["pairs"][way])
                made += _launches(at, facts, launched, subject.bounds[way][tokens])
    return made


def _moved(moves: dict[str, Any], way: str, tokens: int, pair: Sequence[int] | None) -> list[dict[str, Any]] | None:
    """What launches move at a number of tokens: traced, or on the straight line through two numbers that were."""
    if str(tokens) in moves:
        return moves[str(tokens)][way]
    if pair is None:
        return None
    a, b = pair
    first, second = (moves[str(n)][way] for n in pair)
    if len(first) != len(second):
        return None

    def line(x: dict[str, int], y: dict[str, int]) -> dict[str, int]:
        return {name: x.get(name, 0) + (tokens - a) * (y[name] - x.get(name, 0)) // (b - a) for name in y}

    return [
        {**u, "requested": line(u["requested"], v["requested"]), "distinct": line(u["distinct"], v["distinct"])}
        for u, v in zip(first, second, strict=True)
    ]


def _launches(at: Row, facts: list[dict[str, Any]], moved: list[dict[str, Any]] | None, bound: int) -> list[Row]:
    """The rows of one call at one number of tokens: its Triton kernels, and what PyTorch runs between them."""
    if moved is None:
        moved = [{"kernel": f["kernel"].partition(".")[2], "backend": "triton"} for f in facts]
    code = iter(facts)
    made: dict[tuple[Any, ...], Row] = {}
    for launch in moved:
        row = {**at, "kernel": launch["kernel"], "backend": launch["backend"], "launches": 1}
        requested, distinct = (launch.get(kind) for kind in ("requested", "distinct"))
        row |= {
            "bytes_requested": None if requested is None else sum(requested.values()),
            "bytes_footprint": None if distinct is None else sum(distinct.values()),
            "bytes_bound": bound,
        }
        if launch["backend"] == "triton":
            found = next(code)
            row |= {
                "regs": found["registers"],
                "spills": found["spills"] or found["spilled"],
                "shared": found["shared"],
                "instructions": found["instructions"],
                "access_bits": _narrowest(found, requested),
                "mma": found["matrix"],
            }
        key = (row["kernel"], row["backend"], json.dumps([row.get(k) for k in ("regs", "spills", "shared")]))
        known = made.setdefault(key, row)
        if known is not row:
            known["launches"] += 1
            for kind in ("bytes_requested", "bytes_footprint"):
                known[kind] = None if None in (known[kind], row[kind]) else known[kind] + row[kind]
    return list(made.values())


def _narrowest(facts: dict[str, Any], moved: dict[str, int] | None, share: float = 0.05) -> int | None:
    """The bits of the narrowest access to an array that makes a ``share`` of the bytes moved; None if unknown."""
    if moved is None or not facts["arrays"]:
        return None
    much = share * sum(moved.values())
    widths = [int(b) for name, found in facts["arrays"].items() if moved.get(name, much) >= much for b in found]
    return min(widths, default=None)
