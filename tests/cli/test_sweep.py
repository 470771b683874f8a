"""`archc sweep`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.cli import main
from archc.cost.count import count
from archc.plan import plan
from archc.resolve import load

SPEC = """arch 1

model small {
  param width = 256 in [128, 256, 512, 1000]
  param depth = 4 in 1..8
  vocab = 1000
  dim = width
  layers = depth
  context = 4Ki
  attention = gqa { heads = 8, kv_heads = 2, head_dim = 32 }
  ffn = swiglu { hidden = 4 * width }
  check cost.params.total <= 6M else "too large"

  sweep sizes { width = [128, 256], depth = [2, 4] }
  sweep deep { depth = 1..3 }
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spec with two sweeps."""
    found = tmp_path / "small.arch"
    found.write_text(SPEC)
    return found


def run(*args: object) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = CliRunner().invoke(main, ["sweep", *map(str, args)])
    return done.exit_code, done.output


def test_json_is_the_cost_of_every_variant(path: Path) -> None:
    code, text = run(path, "sizes", "--format", "json", "--minimise", "params.total", "--maximise", "depth")
    assert code == 0
    data = json.loads(text)
    assert [v["params"] for v in data["variants"]] == [
        {"width": 128, "depth": 2},
        {"width": 128, "depth": 4},
        {"width": 256, "depth": 2},
        {"width": 256, "depth": 4},
    ]
    for variant in data["variants"]:
        model = load(path, params=variant["params"])
        expected = json.loads(json.dumps(count(model, plan(model)).as_dict()))
        assert {k: v for k, v in variant["cost"].items() if k != "memory"} == {
            k: v for k, v in expected.items() if k != "memory"
        }
    assert [v["front"] for v in data["variants"]] == [True, True, False, False]


def test_csv_and_what_does_not_hold(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    code, text = run(path, "--vary", "width=128,512,64", "-o", out)
    assert (code, text) == (0, f"wrote {out}\n")
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["width"] for row in rows] == ["128", "512", "64"]
    assert rows[0]["finding"] == ""
    assert rows[1]["finding"].startswith("E0501")
    assert rows[2]["finding"].startswith("E0206")
    assert rows[2]["params.total"] == ""


def test_table(path: Path) -> None:
    code, text = run(path, "--vary", "width=128,512,64")
    assert code == 0
    assert "small: width, 3 variants" in text
    assert "2 of 3 do not hold" in text
    assert "width = 64: `width` must be in" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_made_and_repeat(path: Path, tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for out in (first, second):
        assert run(path, "sizes", "-o", out, "--minimise", "params.total", "--maximise", "depth")[0] == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "which sweep? There are sizes, deep"),
        (("wide",), "no sweep `wide`; there are sizes, deep"),
        (("--vary", "heads=1"), "no param `heads`; params: width, depth"),
        (("sizes", "--vary", "width=128"), "name a sweep or vary params, not both"),
        (("sizes", "--minimise", "params.totl"), "no figure `params.totl`; there are params.active"),
        (("sizes", "-o", "a.pdf"), "ends in none of .csv, .json, .png, .svg"),
        (("sizes", "--batch", "1", "--seq", "8Ki"), "cannot hold"),
    ],
)
def test_wrong_usage_is_one_sentence(path: Path, args: tuple[str, ...], message: str) -> None:
    code, text = run(path, *args)
    assert code == 2
    assert message in text
