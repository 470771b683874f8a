"""`archc plan`: what it says of a model that predicts further tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.api import FUSE
from archc.cli import main, options
from archc.graph import Graph
from archc.importers import load
from archc.plan import plan as planned
from archc.plan.groups import is_work, may_join

SPEC = """arch 1
model further {
  vocab = 50, dim = 24, layers = 3, context = 64
  attention far = gqa { heads = 2 }
  attention near = far { window = 8 }
  ffn = swiglu { hidden = 32 }
  schedule { attention = [near, near, far] }
  mtp = concat { depth = 2, weight = 0.1, ffn = swiglu { hidden = 40 } }
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "further.arch"
    path.write_text(SPEC)
    return str(path)


def plan(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["plan", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_modules_that_predict_further_tokens_are_shown(spec: str) -> None:
    lines = [" ".join(line.split()) for line in plan(spec).splitlines()]
    assert "0..1 attention near, ffn swiglu" in lines
    assert "further mtp concat, attention far, ffn swiglu: 2 modules, 0.1 of the loss" in lines
    assert "ConcatMtp mtp.1" in lines
    assert "linear eh_proj role merge [B, S, 24] act mtp" in lines
    assert "linear lm_head role head [B, S, 50] act mtp" in lines


@pytest.mark.parametrize(
    ("attention", "rows"),
    [
        (
            "[near * 2, (far, near) * 3, far]",
            ["0..1 near", "2, 4 .. 6 far", "3, 5 .. 7 near", "8 far"],
        ),
        ("[(near, far, mid) * 3]", ["0, 3 .. 6 near", "1, 4 .. 7 far", "2, 5 .. 8 mid"]),
        ("[(near, far) * 2, mid * 5]", ["0 near", "1 far", "2 near", "3 far", "4..8 mid"]),
        ("[(near * 2, far) * 3]", ["0..1 near", "2 far", "3..4 near", "5 far", "6..7 near", "8 far"]),
    ],
)
def test_layers_that_take_turns_are_a_row_for_each_kind(tmp_path: Path, attention: str, rows: list[str]) -> None:
    path = tmp_path / "turns.arch"
    path.write_text(
        SPEC.replace("layers = 3", "layers = 9")
        .replace("attention near", "attention mid = far { window = 16 }\n  attention near")
        .replace("[near, near, far]", attention)
    )
    lines = plan(str(path)).splitlines()
    shown = lines[lines.index("") + 2 : lines.index("", lines.index("") + 1) - 1]
    assert [" ".join(line.split()) for line in shown] == [
        " attention ".join(row.rsplit(" ", 1)) + ", ffn swiglu" for row in rows
    ]


def test_ops_are_shown_with_what_decides_them() -> None:
    lines = [" ".join(line.split()) for line in plan("deepseek_v3").splitlines()]
    assert "group_mask groups 8, keep 4 [B, S, 256] fp32 router" in lines
    assert "count_loads rate 0.001 router" in lines
    assert "binary sign + [B, S, 7168] act residual" in lines
    assert all(line == line.rstrip() for line in plan("deepseek_v3").splitlines())


def test_as_data(spec: str) -> None:
    facts = json.loads(plan(spec, "--format", "json"))
    drawers = {"mtp": "concat", "attention": "far", "ffn": "swiglu"}
    assert facts["mtp"] == {"modules": 2, "weight": 0.1, "drawers": drawers}
    ahead = [scope for scope in facts["graph"] if scope["scope"].startswith("mtp")]
    assert {node["component"] for scope in ahead for node in scope["nodes"]} == {"mtp"}
    assert json.loads(plan("llama_3_1_8b", "--format", "json"))["mtp"] is None


# --- after fusion --------------------------------------------------------------------------------
def test_functions_are_shown_with_what_must_move() -> None:
    """An add and a norm take two rows and a weight, and give two rows: of 4,096 channels in bfloat16, 8 KiB each."""
    lines = [
        " ".join(line.split()) for line in plan("llama_3_1_8b", "--after", "fuse", "--fuse", "layers").splitlines()
    ]
    assert "llama_3_1_8b: 2 functions run 130 ops of a forward as 65 kernels" in lines
    assert any(re.fullmatch(r"add_norm 64 1 \+ \d 40.00 KiB 128.01 MiB 1\.\d\d 1\.25", line) for line in lines)
    assert "add_norm Layer add, norm" in lines
    assert "swiglu Swiglu 32 [B, S, 14336] no row program beside it" in lines


@pytest.mark.parametrize("columns", ["80", "200"])
def test_functions_fit_into_a_terminal(columns: str) -> None:
    result = CliRunner(env={"COLUMNS": columns}).invoke(
        main, ["plan", "deepseek_v4_flash", "--after", "fuse", "--fuse", "layers"]
    )
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert sum(line.startswith("mix_sinkhorn_collapse_norm ") for line in lines) == 2


def test_functions_and_what_stays_alone_are_all_row_local_ops() -> None:
    """Those of the graph before fusion, each as often; no function moves less than it must, or asks for less.

    A function of experts has ops beside its row-local one that are none.
    """
    graph = planned(load("deepseek_v4_flash"), rotated=True)
    works = [times for n, times in graph.walk() if n.op.kind != "append" and may_join(n) and is_work(n)]
    facts = json.loads(plan("deepseek_v4_flash", "--after", "fuse", "--fuse", "layers", "--format", "json"))
    others = {"dispatch", "grouped_linear", "combine"}
    inside = sum(row["calls"] * sum(op not in others for op in row["ops"]) for row in facts["functions"])
    assert inside + sum(row["calls"] for row in facts["alone"]) == sum(works) - of_steps(graph)
    for row in facts["functions"]:
        experts = others <= set(row["ops"])
        assert row["launches"][:1] == ([] if experts else [1])
        for at in row["bytes"]:
            assert at["requested"] is None if experts else at["bound"] <= at["requested"]
            assert at["bound"] < at["op_by_op"] or at["bound"] == 0


def of_steps(graph: Graph) -> int:
    """Row-local ops that run once for all layers."""
    return sum(may_join(n) and is_work(n) for n in graph.steps.nodes())


def test_functions_within_modules_leave_layers_as_they_are() -> None:
    """The boundary of a layer is in two kernels then; packages are fused by default as the Python interface has it."""
    facts = json.loads(plan("mhc_3b", "--after", "fuse", "--fuse", "modules", "--format", "json"))
    names = {row["function"]: row["calls"] for row in facts["functions"]}
    assert names["mix_sinkhorn_collapse_norm"] == names["sinkhorn_collapse_norm"] == 12
    assert options.FUSE == FUSE
