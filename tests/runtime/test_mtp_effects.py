"""What modules of further tokens leave behind: loads and losses of the tokens they ran on, and of no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.resolve import load_text
from tests.built import built, randomise

SPECS = {
    "hidden": """arch 1
model further {
  vocab = 50, dim = 12, layers = 1, context = 64
  attention = gqa { heads = 2 }
  ffn = swiglu { hidden = 16 }
  mtp = concat {
    depth = 2
    ffn = moe { experts = 6, hidden = 8, router = sigmoid { active = 2, balance_weight = 0.01 } }
  }
}
""",
    "streams": """arch 1
model further {
  vocab = 50, dim = 12, layers = 1, context = 64
  residual = mhc { streams = 2, sinkhorn_iters = 4 }
  attention swa = windowed {
    heads = 2, head_dim = 6, rope_dim = 2, q_rank = 8, out_groups = 2, out_rank = 4, window = 2
    rope = rope { pairs = interleaved }
  }
  attention csa = swa { compress = csa { ratio = 2, indexer = lightning { heads = 2, head_dim = 4, topk = 2 } } }
  ffn = swiglu { hidden = 16 }
  schedule { attention = [swa] }
  mtp = mtp_streams {
    depth = 2
    attention = csa
    ffn = moe {
      experts = 6, hidden = 8
      router = sqrtsoftplus { active = 2, bias_rate = 0.001, balance_weight = 0.01 }
    }
  }
}
""",
}
"""A layer of the main model that leaves nothing, and modules that do: of routers, and of indexers."""
LEFT = {"hidden": {"mtp", "balance"}, "streams": {"mtp", "balance", "index"}}


@pytest.fixture(scope="module", params=SPECS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("further")
    made = built(load_text(SPECS[kind])[0], folder).Model(dtype=torch.float64)
    randomise(made)
    return made


def rows() -> tuple[Tensor, Tensor]:
    """Tokens and sequences: of 7, 1, 2 and 3 tokens in a row, and of 10 after padding."""
    sequences = torch.tensor([[1] * 7 + [2] + [3] * 2 + [4] * 3, [0] * 3 + [1] * 10])
    return torch.randint(50, sequences.shape, generator=torch.Generator().manual_seed(1)), sequences


def test_loads_are_of_columns_with_a_token_ahead(model: Any) -> None:
    ids, sequences = rows()
    model.train()
    model.loads.clear()
    model(ids, labels=ids, sequence_ids=sequences)
    lengths = (7, 1, 2, 3, 10)
    counts = {name: 0 for name, _ in model.named_buffers()}
    for load in model.loads:
        (name,) = (name for name, buffer in model.named_buffers() if buffer is load.bias)
        counts[name] += int(load.count.sum())
    assert counts == {
        f"mtp.{k}.mlp.gate.e_score_correction_bias": 2 * sum(max(0, n - 1 - k) for n in lengths) for k in range(2)
    }
    model.loads.clear()
    model(ids, sequence_ids=sequences)
    assert not model.loads, "without labels the modules do not run"


def test_biases_of_modules_move(model: Any) -> None:
    ids, sequences = rows()
    model.train()
    model.loads.clear()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(ids, labels=ids, sequence_ids=sequences)
    model.after_step()
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == before.keys()


def test_no_loss_sees_what_has_no_token_ahead(kind: str, model: Any) -> None:
    """Packing changes none of them: each sequence counts as it does in a row of its own."""
    ids, sequences = rows()
    packed = model(ids, labels=ids, sequence_ids=sequences).losses
    alone = [ids[row, sequences[row] == s] for row in range(2) for s in sequences[row].unique() if s]
    wide = torch.zeros(len(alone), 10, dtype=torch.long)
    mask = torch.zeros_like(wide)
    for row, one in enumerate(alone):
        wide[row, -len(one) :], mask[row, -len(one) :] = one, 1
    padded = model(wide, labels=wide, attention_mask=mask).losses
    assert packed.keys() == padded.keys() == LEFT[kind]
    for name, value in packed.items():
        assert value.item() == pytest.approx(padded[name].item(), abs=1e-12), name
