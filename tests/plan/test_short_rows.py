"""Rows shorter than the groups of a compressor: nothing is made of them, so nothing learns from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import archc
from archc.resolve import load_text
from archc.schema import Model
from tests.built import built
from tests.flops import counted

SPEC = """arch 1
model short {
  vocab = 50, dim = 16, layers = 4, context = 64
  attention swa = windowed {
    heads = 2, head_dim = 6, rope_dim = 2, q_rank = 5, out_groups = 2, out_rank = 3, window = 7
    rope = rope { pairs = interleaved }
  }
  attention hca = swa { compress = hca { ratio = 8 } }
  attention csa = swa { compress = csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 4, topk = 2 } } }
  attention staged = swa {
    compress = csa { ratio = 4, indexer = two_stage { heads = 2, head_dim = 4, topk = 2, block = 2, blocks = 2 } }
  }
  ffn = swiglu { hidden = 11 }
  schedule { attention = [swa, hca, csa, staged] }
}
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_text(SPEC)[0]


@pytest.fixture(scope="module")
def module(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return built(model, tmp_path_factory.mktemp("short")).Model()


@pytest.mark.parametrize("new", [1, 3, 4, 7, 8, 30])
def test_training_counts_what_runs(model: Model, module: Any, new: int) -> None:
    report = archc.cost(model, mode="train", batch=2, seq=new, context=new)
    ids = torch.randint(50, (2, new), generator=torch.Generator().manual_seed(new))
    with counted() as counter:
        module(ids, labels=ids).loss.backward()
    assert report.flops.executed.workload_total == counter.get_total_flops()


def test_what_learns_depends_on_the_length(module: Any) -> None:
    """The claim that the count rests on: no gradient reaches a compressor that made no entry."""
    for new, without in ((3, {1, 2, 3}), (4, {1}), (8, set())):
        module.zero_grad()
        ids = torch.randint(50, (1, new), generator=torch.Generator().manual_seed(new))
        module(ids, labels=ids).loss.backward()
        names = {f"model.layers.{n}.self_attn.compressor.kv_proj.weight": n for n in (1, 2, 3)}
        dead = {n for name, n in names.items() if module.get_parameter(name).grad is None}
        assert dead == without
