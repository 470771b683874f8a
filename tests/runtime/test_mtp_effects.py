"""What modules of further tokens leave behind: loads and losses of the tokens they ran on, and of no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.resolve import load_text
from tests.built import built, randomise

SPEC = """arch 1
model further {
  vocab = 50, dim = 12, layers = 1, context = 64
  attention = gqa { heads = 2 }
  ffn = swiglu { hidden = 16 }
  mtp = concat {
    depth = 2
    ffn = moe { experts = 6, hidden = 8, router = sigmoid { active = 2, balance_weight = 0.01 } }
  }
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("further")
    made = built(load_text(SPEC)[0], folder).Model(dtype=torch.float64)
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


def test_balance_does_not_see_what_has_no_token_ahead(model: Any) -> None:
    """Packing changes neither loss: each sequence counts as it does in a row of its own."""
    ids, sequences = rows()
    packed = model(ids, labels=ids, sequence_ids=sequences).losses
    alone = [ids[row, sequences[row] == s] for row in range(2) for s in sequences[row].unique() if s]
    wide = torch.zeros(len(alone), 10, dtype=torch.long)
    mask = torch.zeros_like(wide)
    for row, one in enumerate(alone):
        wide[row, -len(one) :], mask[row, -len(one) :] = one, 1
    padded = model(wide, labels=wide, attention_mask=mask).losses
    assert packed.keys() == padded.keys() > {"mtp"}
    for name, value in packed.items():
        assert value.item() == pytest.approx(padded[name].item(), abs=1e-12), name
