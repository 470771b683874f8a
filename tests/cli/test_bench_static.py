"""`archc bench --static`: which calls it looks at, what they must move, and what it says of their kernels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from click.testing import CliRunner

from archc.api import build
from archc.cli import main
from archc.cli._bench import rows as bench_rows
from archc.cli._bench.rows import TOKENS, Row
from archc.cli._bench.static.child import Call, arrays_of_rows
from archc.cli._bench.subjects import Subject, subjects
from archc.cli._bench.table import _layers
from archc.importers import load
from archc.plan import plan
from archc.plan.passes.fuse import fuse

SPEC = """arch 1
model small {
  vocab = 64, dim = 48, layers = 2, context = 8192
  attention = gqa { heads = 3, kv_heads = 1, head_dim = 16, rope = rope { theta = 1e4 } }
  ffn = swiglu { hidden = 40 }
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.arch"
    path.write_text(SPEC)
    return str(path)


def bench(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["bench", *words])


def found(spec: str, *, fused: bool) -> dict[tuple[str, str], Subject]:
    graph = fuse(plan(load(spec), rotated=True)) if fused else plan(load(spec))
    return {(s.op, s.shapes): s for s in subjects(graph, TOKENS)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--static",), "archc bench --static SPEC"),
        (("--static", "--calibrate"), "one at a time"),
        (("llama_3_1_8b",), "archc bench --static llama_3_1_8b"),
        (("--static", "llama_3_1_8b", "-k", "sinkhorn"), "no kernel of Llama_3_1_8B has `sinkhorn` in its name"),
    ],
)
def test_what_cannot_be_asked(words: tuple[str, ...], said: str) -> None:
    done = bench(*words)
    assert done.exit_code == 2
    assert said.lower() in done.output.lower()


def test_every_call_with_a_kernel_is_looked_at(spec: str) -> None:
    calls = {name: s.times for name, s in found(spec, fused=False).items()}
    assert calls == {
        ("rms_norm", "[B, S, 48] -> [B, S, 48]"): 5,
        ("rotate", "[B, S, 3, 16] [B, S, 8, 2] -> [B, S, 3, 16]"): 2,
        ("rotate", "[B, S, 1, 16] [B, S, 8, 2] -> [B, S, 1, 16]"): 2,
        ("swiglu", "[B, S, 40] -> [B, S, 40]"): 2,
    }


def test_functions_take_the_place_of_what_they_fuse(spec: str) -> None:
    calls = {op: s.times for (op, _), s in found(spec, fused=True).items() if op not in ("rotate", "swiglu")}
    # The first layer begins with the embedding, which nothing is added to; behind the last the norm is needed alone.
    assert sum(calls.values()) == 5
    assert calls["add_norm"] == 3 or calls["add_norm"] == 4


def test_bounds_by_hand(spec: str) -> None:
    calls = found(spec, fused=False)
    norm = calls["rms_norm", "[B, S, 48] -> [B, S, 48]"].bounds
    gate = calls["swiglu", "[B, S, 40] -> [B, S, 40]"].bounds
    turn = calls["rotate", "[B, S, 3, 16] [B, S, 8, 2] -> [B, S, 3, 16]"].bounds
    for tokens in TOKENS:
        assert norm["forward"][tokens] == tokens * 4 * 48 + 2 * 48
        assert gate["forward"][tokens] == tokens * 6 * 40
        # Two operands, the gradient of the result, and theirs
        assert gate["backward"][tokens] == tokens * 10 * 40
        # Three heads, and float32 angles of a token for all of them
        assert turn["forward"][tokens] == turn["backward"][tokens] == tokens * (4 * 48 + 4 * 16)


def test_bounds_of_functions_by_hand(spec: str) -> None:
    """The gradient of a sum and its norm reads the sum, its squares' and the gradients of both, and gives one row for
    both terms.
    """
    (inside, *_) = (s for (op, _), s in found(spec, fused=True).items() if op == "add_norm")
    for tokens in TOKENS:
        assert inside.bounds["backward"][tokens] == tokens * (4 * 2 * 48 + 4) + 2 * 2 * 48


def test_which_arrays_hold_rows() -> None:
    """Streams and rows of 4,096 channels, coefficients of a token, a parameter: as many numbers as the smaller rows."""
    shapes = [(64, 4, 4096), (64, 4096), (64, 4, 4), (24, 4, 4096)]
    operands = [{"shapes": {"64": s}, "rows": s[0] == 64} for s in shapes]
    call = Call("math", {"operands": operands, "names": {}, "call": "None"})
    assert call.rows(64) == {4096: 64 * 4096}


def test_parameters_are_no_rows() -> None:
    """Of one token a parameter has as many numbers as a row, and so has what one program adds up."""
    names = ("x", "weight", "d_weight", "shares", "rstd", "tokens")
    kernel, small = (MagicMock(params=[SimpleNamespace(name=name) for name in names]) for _ in range(2))

    def launch(kernel: Any, tokens: int) -> Any:
        shapes = [(tokens, 4096), (4096,), (4096,), (min(tokens, 132), 4096), (tokens,)]
        return SimpleNamespace(kernel=kernel, args=(*(torch.empty(s) for s in shapes), tokens), kwargs={})

    def least(tokens: int) -> dict[int, int]:
        return {4096: tokens * 4096}

    recorded = {tokens: {"forward": [launch(kernel, tokens)], "backward": []} for tokens in (1, 256)}
    recorded[1]["backward"] = [launch(small, 1)]
    recorded[2] = {"forward": [], "backward": [launch(small, 2)]}
    # A kernel that two tokens are the most of cannot tell shares of two programs.
    assert arrays_of_rows(recorded, least) == {kernel: {"x"}, small: {"x", "shares"}}


def test_more_tokens_than_are_asked_for() -> None:
    assert max(bench_rows.counts((1, 4096))) > 4096
    assert {1, 2} < set(bench_rows.counts((1,)))


@pytest.mark.parametrize(
    ("arrays", "bits"),
    [
        ({"x": {"128": 4}, "out": {"128": 1}, "post": {"32": 4}}, 128),
        ({"x": {"128": 4}, "out": {"128": 1, "64": 2}}, 64),
        ({"x": {"128": 4}, "?": {"32": 1}}, None),  # by what width `out` is written is not known
    ],
)
def test_how_wide_rows_are_accessed(arrays: dict[str, dict[str, int]], bits: int | None) -> None:
    facts = {"arrays": arrays, "rows": ["x", "out", "unused"]}
    assert bench_rows.of_rows(facts, {"x": 64, "out": 64, "post": 16}) == bits


def test_layers_of_v4_stand_in_one_line_each() -> None:
    """Of 120 columns, as output into files and documents has."""
    counts = {"tokens": 64, "reference": 515, "unfused": 436, "triton": 13, "torch": 192}
    name = "Layer(HyperConnection, CsaAttention, HyperConnection, HashMoe)"
    table = _layers([{"layer": i, "class": name, **counts} for i in (2, 3)])
    assert [line.split() for line in table.lines(120, styled=False)][1] == [
        "2,",
        "3",
        *name.split(),
        "64",
        "515",
        "436",
        "205",
        "13",
    ]
    assert len(list(table.lines(120, styled=False))) == 2


@pytest.mark.slow
def test_a_model_from_the_command_line(spec: str) -> None:
    done = bench("--static", spec, "--format", "json", "--arch", "90", "--arch", "gfx942")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    rows: list[Row] = said["rows"]
    own = [row for row in rows if row["backend"] == "triton"]
    assert {row["op"] for row in own} >= {"add_norm", "rotate", "swiglu"}
    for row in own:
        assert row["launches"] >= 1 and row["spills"] == 0 and 0 < row["regs"] < 256, row
        assert row["mma"] == {} and 0 < row["compile_seconds"] < 10
    forward = [row for row in own if row["way"] == "forward" and row["arch"] == "sm_90"]
    assert {row["tokens"] for row in forward} == set(TOKENS)
    for row in forward:
        # One launch, no byte missing, and few more: a norm may keep a number for each token.
        assert row["bytes_bound"] <= row["bytes_footprint"] <= row["bytes_bound"] + 8 * row["tokens"], row
        assert row["bytes_footprint"] <= row["bytes_requested"], row
    assert {row["arch"] for row in own} == {"sm_90", "gfx942"}
    layers = said["layers"]
    assert {entry["tokens"] for entry in layers} == {1, 64}
    for entry in layers:
        # Two sums and two norms become one kernel each, at the least.
        assert entry["triton"] > 0 and entry["triton"] + entry["torch"] < entry["unfused"] < entry["reference"], entry


@pytest.mark.slow
def test_a_few_programs_tell_of_all(spec: str, tmp_path: Path) -> None:
    """Forward and backward of every kernel: what samples of a launch say is what all of its programs move."""
    calls = list(found(spec, fused=True).values())
    folder = build(load(spec), tmp_path, fuse="layers")
    counts = [64, 192, 1024]
    wide = [s._replace(operands=tuple(_sized(o, counts) for o in s.operands)) for s in calls]
    job: dict[str, Any] = {"folder": str(folder.parent), "package": folder.name, "tokens": counts, "processors": 4}
    job["subjects"] = [s.as_dict() for s in wide]
    few, all_of_them = (bench_rows._run("trace", {**job, "sampled": sampled}) for sampled in (True, False))
    assert few == all_of_them
    assert {way for ways in few[0].values() for way, made in ways.items() if made} == {"forward", "backward"}


def _sized(operand: Any, counts: list[int]) -> Any:
    """The operand at other numbers of tokens: the dims that are that of 64 tokens in one of 4,096 follow."""
    few, many = (operand.shapes[n] for n in (1, 4096))
    return operand._replace(
        shapes={n: tuple(a if a == b else a * n for a, b in zip(few, many, strict=True)) for n in counts}
    )
