"""`archc plan`: what it says of a model that predicts further tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.cli import main

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
