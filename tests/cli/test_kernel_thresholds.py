"""What the generated kernels of the library's models launch, move and compile to, against what was promised of them.

The bounds are those that the design was tried at (one launch and two passes over the rows forward: 1.40 of what must
move, and 0.30 for reading the projection once for every 64 tokens), and, backward, those that it could not reach.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from archc.cli import main

pytestmark = pytest.mark.slow

ARCHS = ("sm_90", "sm_100")
BOUNDARY = "mix_sinkhorn_collapse_norm"


def rows(spec: str, name: str) -> list[dict[str, Any]]:
    words = ["bench", "--static", spec, "-k", name, "--tokens", "1", "--tokens", "4096", "--format", "json"]
    done = CliRunner().invoke(main, [*words, *(w for arch in ARCHS for w in ("--arch", arch.removeprefix("sm_")))])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["rows"]


def total(some: list[dict[str, Any]], kind: str) -> float:
    return sum(row[kind] for row in some) / some[0]["bytes_bound"]


@pytest.mark.parametrize("spec", ["deepseek_v4_flash", "deepseek_v4_pro"])
def test_boundaries_of_mhc(spec: str) -> None:
    """Rows of 4,096 and 7,168 channels, four streams."""
    made = rows(spec, BOUNDARY)
    for arch in ARCHS:
        mine = [row for row in made if row["arch"] == arch]
        for tokens, footprint, asked in ((1, 1.15, 1.30), (4096, 1.05, 1.80)):
            forward = [row for row in mine if (row["way"], row["tokens"]) == ("forward", tokens)]
            assert sum(row["launches"] for row in forward) == 1
            assert total(forward, "bytes_footprint") <= footprint
            assert total(forward, "bytes_requested") <= asked
        backward = [row for row in mine if (row["way"], row["tokens"]) == ("backward", 4096)]
        assert sum(row["launches"] for row in backward) <= 3
        assert total(backward, "bytes_footprint") <= 1.5
        assert total(backward, "bytes_requested") <= 2.4
        for row in mine:
            if row["backend"] == "triton":
                assert row["spills"] == 0, row
                assert row["regs"] <= 255, row
                assert row["compile_seconds"] < 10, row
                assert row["row_bits"] in (None, 128), row
        seen = {row["kernel"] for row in mine if row.get("row_bits") == 128}
        assert len(seen) == 3, seen
