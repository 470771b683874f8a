"""A drawer in one file outside the package: it checks, costs, builds, trains and decodes with nothing else edited."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import archc

DRAWER = '''
"""Attention with one shared head that is key and value at once, and a gate on its output."""

from archc.ops import Table
from archc.schema import Attention, Rope, field


class GatedShared(Attention):
    """Every query head reads one shared head; a sigmoid of the input gates what it gives (a toy; see https://example.org/toy)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    head_dim: int = field("width of a head", unit="channels", gt=0)
    rope: Rope | None = field("rotary positions", default=None)

    def tiny(self):
        return {"heads": 3, "head_dim": 24}

    def build(self, g, x):
        wide = self.heads * self.head_dim
        q = g.unflatten(g.linear("q_proj", x, out=wide), sizes=(self.heads, self.head_dim))
        shared = g.unflatten(g.linear("shared_proj", x, out=self.head_dim), sizes=(1, self.head_dim))
        if self.rope is not None:
            q = self.rope.build(g, q)
            shared = self.rope.build(g, shared)
        shared = g.append(shared, g.state("shared", Table(every=1, shape=(1, self.head_dim))), g.time)
        mixed = g.attend(q, shared, shared, g.time, scale=self.head_dim**-0.5)
        gate = g.sigmoid(g.linear("gate_proj", x, out=wide))
        return g.linear("o_proj", g.flatten(mixed) * gate, out=self.dim, role="output")
'''

SPEC = """arch 1

model toy {
  vocab   = 1000
  dim     = 96
  layers  = 4
  context = 1Ki

  attention shared = gated_shared { heads = 5, head_dim = 40, rope = rope { theta = 10e3 } }
  attention full   = gqa { heads = 4, kv_heads = 2, rope = rope { theta = 10e3 } }
  ffn mlp          = swiglu { hidden = 128 }
  schedule { attention = [shared, full] * 2 }
}
"""


@pytest.fixture
def toy(tmp_path: Path):
    """The resolved toy model."""
    (tmp_path / "drawers").mkdir()
    (tmp_path / "drawers" / "gated_shared.py").write_text(DRAWER)
    (tmp_path / "toy.arch").write_text(SPEC.replace("[shared, full] * 2", "[(shared, full) * 2]"))
    return archc.load(tmp_path / "toy.arch", drawers=[tmp_path / "drawers"])


def test_cost(toy) -> None:
    report = archc.cost(toy, mode="decode", context=512)
    one = 96 * (200 + 40 + 200 + 200)
    other = 96 * (96 + 48 + 48 + 96)
    assert report.params.by_component["attention"] == 2 * one + 2 * other
    assert report.kv_cache.bytes_per_token == 2 * (40 + 2 * 2 * 24) * 2


def test_build_train_and_decode(toy, tmp_path: Path, imported) -> None:
    import torch

    package = imported(archc.build(toy, tmp_path, tiny=True))
    text = (tmp_path / "toy" / "model.py").read_text()
    assert "class SharedAttention(nn.Module)" in text
    assert "Layer(SharedAttention(0), Mlp())" in text
    torch.manual_seed(0)
    model = package.Model()
    ids = torch.randint(0, 512, (4, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(512), rel=0.1)
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    with torch.no_grad():
        whole = model(ids).logits
        cache = model.new_cache(4, 32)
        parts = torch.cat([model(ids[:, a:b], cache=cache).logits for a, b in ((0, 5), (5, 6), (6, 32))], 1)
    assert torch.allclose(parts, whole, atol=1e-4)
    generated = model.generate(ids[:, :8], max_new_tokens=4)
    assert generated.shape == (4, 12)
