"""What residual streams cost: mHC (arXiv:2512.24880) and hyper-connections (arXiv:2409.19606)."""

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


@pytest.mark.parametrize("name", ["mhc_3b", "mhc_9b", "mhc_27b"])
def test_what_the_models_of_the_paper_spend_on_mixing(name: str) -> None:
    """Two sub-layers a layer; the read-out is a sum. All their other counts are published: test_published.py."""
    model = archc.load(name)
    n, c = 4, model.dim
    counted = archc.cost(model).params.by_component["residual"]
    assert counted == 2 * model.layers * ((n * n + 2 * n) * (n * c + 1) + 3)


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
