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


@pytest.fixture
def equal(path: Path) -> Path:
    """A spec whose sweep keeps the parameters equal."""
    solve = "solve wide for cost.params.total == 2.5M within 0.05"
    text = SPEC.replace("param width = 256", "param wide = 256 in 32..1024 by 32\n  param width = 256")
    text = text.replace("dim = width", "dim = wide").replace("4 * width", "4 * wide")
    path.write_text(text.replace("sweep deep { depth = 1..3 }", f"sweep equal {{ depth = [1, 8], {solve} }}"))
    return path


def test_what_is_solved_for_is_a_column_with_its_residual(equal: Path) -> None:
    code, text = run(equal, "equal", "--format", "csv", "--minimise", "kv_cache.bytes_per_token")
    assert code == 0
    shallow, deep = csv.DictReader(io.StringIO(text))
    for row, depth in ((shallow, 1), (deep, 8)):
        model = load(equal, params={"depth": depth, "wide": int(row["wide"])})
        residual = count(model, plan(model)).params.total - 2_500_000
        assert (int(row["depth"]), float(row["residual.wide"])) == (depth, residual)
        assert float(row["residual.wide.relative"]) == residual / 2_500_000
        assert row["front"] == str(depth == 1).lower() if row["finding"] == "" else "false"
    data = json.loads(run(equal, "equal", "--format", "json")[1])
    (solved,) = data["variants"][1]["solved"]
    assert solved["param"] == "wide"
    assert solved["equation"] == "cost.params.total == 2.5M"
    assert solved["residual"] == float(deep["residual.wide"])
    assert data["variants"][1]["params"] == {"depth": 8, "wide": int(deep["wide"])}


def test_what_could_not_be_solved_is_said(equal: Path) -> None:
    equal.write_text(equal.read_text().replace("32..1024 by 32", "[32, 64, 256]"))
    code, text = run(equal, "equal", "--x", "residual.wide", "--minimise", "params.total")
    assert code == 0
    assert "2 of 2 do not hold\ndepth = 1, wide = 256: `wide = 256` " in text
    assert "comes closest, but `cost.params.total` = " in " ".join(text.split())  # wherever lines end


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_cell_is_cut(equal: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table too wide goes on below, with its params."""
    monkeypatch.setenv("COLUMNS", str(columns))
    code, text = run(equal, "equal", "--minimise", "params.total", "--maximise", "flops.ideal.train_per_token")
    assert code == 0
    table = text.partition("do not hold")[0]
    assert all(len(line) <= columns for line in table.splitlines())
    variants = json.loads(run(equal, "equal", "--format", "json")[1])["variants"]
    for variant in variants:
        assert f"{variant['cost']['params']['total'] / 1e6:.2f} M" in table
        assert f"{100 * variant['solved'][0]['relative']:+.2g} %)" in table
    titles = len([line for line in table.splitlines() if line.startswith("depth  wide")])
    assert titles == len([line for line in table.splitlines() if line.split()[:1] == ["8"]])
    assert titles == {40: 4, 80: 2}.get(columns, 1)


def test_a_wrong_equation_is_told_by_check(equal: Path) -> None:
    equal.write_text(equal.read_text().replace("cost.params.total ==", "cost.params.totl =="))
    done = CliRunner().invoke(main, ["check", str(equal)])
    assert done.exit_code == 1
    assert "there is no cost `params.totl`" in done.output
    assert done.output.count("error[") == 1


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
