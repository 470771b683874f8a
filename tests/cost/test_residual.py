"""Parameters of the models of the mHC paper (arXiv:2512.24880, table 5), whose residual is the paper's form, and of
hyper-connections.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import archc
from archc.cost.explain import explain
from archc.plan import plan

SPEC = """arch 1
model m {{
  vocab     = 129_280
  dim       = {dim}
  layers    = {layers}
  context   = 4096
  residual  = mhc {{ form = paper }}
  attention = mla {{ heads = {heads}, kv_rank = 512, nope_dim = 128, rope_dim = 64, v_dim = 128, rope = rope }}
  ffn dense = swiglu {{ hidden = {dense} }}
  ffn moe   = moe {{
    experts = {experts}, hidden = {hidden}, shared = 2, router = sigmoid {{ active = 6 }}
  }}
  schedule {{ ffn = [dense, moe * rest] }}
}}
"""


# Widths of the first layer's feed-forward are not in the paper; eight experts wide, all six figures come out
@pytest.mark.parametrize(
    ("total", "active", "sizes"),
    [
        ("2.97", "0.612", {"dim": 1280, "layers": 12, "heads": 16, "hidden": 896, "experts": 64}),
        ("9.18", "1.66", {"dim": 1920, "layers": 18, "heads": 24, "hidden": 1280, "experts": 64}),
        ("27.0", "4.14", {"dim": 2560, "layers": 30, "heads": 32, "hidden": 1536, "experts": 72}),
    ],
)
def test_models_of_the_paper(total: str, active: str, sizes: dict[str, int], tmp_path: Path) -> None:
    """Billions, in all and of a token without the embedding."""
    (tmp_path / "m.arch").write_text(SPEC.format(**sizes, dense=8 * sizes["hidden"]))
    params = archc.cost(archc.load(tmp_path / "m.arch")).params
    assert f"{params.total / 1e9:.{len(total.partition('.')[2])}f}" == total
    assert f"{params.active_without_embedding / 1e9:.{len(active.partition('.')[2])}f}" == active
    # Two sub-layers a layer; the read-out is a sum
    n, c = 4, sizes["dim"]
    assert params.by_component["residual"] == 2 * sizes["layers"] * ((n * n + 2 * n) * (n * c + 1) + 3)


def test_a_learned_collapse_counts(tmp_path: Path) -> None:
    """The form of DeepSeek-V4 has one more projection, at the end."""
    sizes = {"dim": 1280, "layers": 12, "heads": 16, "hidden": 896, "experts": 64, "dense": 7168}
    counts = []
    for form in ("paper", "v4"):
        (tmp_path / "m.arch").write_text(SPEC.format(**sizes).replace("form = paper", f"form = {form}"))
        counts.append(archc.cost(archc.load(tmp_path / "m.arch")).params.by_component["residual"])
    assert counts[1] - counts[0] == 4 * 4 * 1280 + 4 + 1


@pytest.mark.parametrize(
    ("fields", "dim", "layers", "count"),
    [
        ("dynamic = false, streams = 2", 2048, 16, 256),
        ("dynamic = false", 2048, 16, 768),
        ("streams = 2", 2048, 16, 262_464),
        ("", 2048, 16, 394_048),
        ("", 4096, 32, 1_574_528),
    ],
)
def test_hyper_connections(fields: str, dim: int, layers: int, count: int, tmp_path: Path) -> None:
    """Of OLMo-1B and 7B, whose norms have no weights (arXiv:2409.19606, appendix B). In table 7: 0.0000026B,
    0.0000077B, 0.0002625B, 0.0003940B; the last is the difference of its totals, 6.88967027B and 6.88809574B.
    """
    text = SPEC.format(dim=dim, layers=layers, heads=16, hidden=64, experts=8, dense=64)
    (tmp_path / "m.arch").write_text(text.replace("mhc { form = paper }", f"hc {{ {fields} }}"))
    assert archc.cost(archc.load(tmp_path / "m.arch")).params.by_component["residual"] == count


def test_what_the_first_layer_reads_has_no_gradient(tmp_path: Path) -> None:
    """The first sub-layer of the single-pass form reads by constants: its product has one gradient, all others two."""
    text = SPEC.format(dim=64, layers=3, heads=2, hidden=32, experts=8, dense=64)
    report = {}
    for form in ("v4", "single_pass"):
        (tmp_path / "m.arch").write_text(text.replace("form = paper", f"form = {form}"))
        report[form] = archc.cost(archc.load(tmp_path / "m.arch"), mode="train", seq=10)
    v4, one = (r.flops.executed.by_component["residual"] for r in report.values())
    head = 3 * 2 * 10 * 4 * (4 * 64)  # the projection of the learned collapse; both collapse
    assert v4 - one == head + 2 * 10 * 4 * 64
    model = archc.load(tmp_path / "m.arch")
    told = explain(model, plan(model), report["single_pass"], "flops.executed.by_component.residual")
    assert sum(term.total for term in told.terms) == one
