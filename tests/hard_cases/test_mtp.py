"""Further tokens with residual streams, compressed keys and experts: one module for every drawer, drafts that leave no
trace.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import archc
from archc.graph.verify import verify
from archc.plan import plan
from tests.built import built, randomise

SPEC = """arch 1
model hard {
  vocab    = 11
  dim      = 24
  layers   = 2
  context  = 128
  residual = mhc { streams = 3 }

  attention swa = windowed {
    heads = 4, head_dim = 14, rope_dim = 6, q_rank = 12, out_groups = 2, out_rank = 8, window = 5
    rope = rope { pairs = interleaved }
  }
  attention csa = swa {
    compress = csa { ratio = 4, indexer = lightning { heads = 3, head_dim = 10, topk = 3 } }
  }
  ffn mix = moe { experts = 6, hidden = 9, shared = 1, router = sqrtsoftplus { active = 2, scale = 1.5 } }
  ffn dense = swiglu { hidden = 30 }
  schedule { attention = [swa, csa], ffn = [dense, mix] }
  mtp = concat { depth = 2 }
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("further")
    (folder / "hard.arch").write_text(SPEC)
    resolved = archc.load(folder / "hard.arch")
    verify(plan(resolved))
    made = built(resolved, folder).Model(dtype=torch.float64)
    randomise(made)
    return made.eval()


def tokens(rows: int, columns: int) -> Tensor:
    return torch.randint(11, (rows, columns), generator=torch.Generator().manual_seed(rows))


def test_a_module_has_streams_of_its_own(model: Any) -> None:
    """They start from the joined halves and end before the norm that the head gets."""
    names = {name for name, _ in model.named_parameters() if name.startswith("mtp.1.")}
    assert {"mtp.1.attn_hc.fn", "mtp.1.ffn_hc.base", "mtp.1.hc_head.hc_fn"} <= names
    assert {name.removeprefix("mtp.1.") for name in names} >= {
        name.removeprefix("model.layers.1.")
        for name, _ in model.named_parameters()
        if name.startswith("model.layers.1.")
    }


@pytest.mark.parametrize("speculate", [1, 2, 4])
def test_drafts_leave_no_trace(model: Any, speculate: int) -> None:
    ids = tokens(3, 13)
    mask = torch.ones_like(ids)
    mask[0, :4], mask[2, 9:] = 0, 0
    with torch.no_grad():
        want = model.generate(ids, 14, attention_mask=mask)
        got = model.generate(ids, 14, attention_mask=mask, speculate=speculate)
    assert torch.equal(got, want)
    assert model.last_generation.acceptance is not None


def test_sequences_of_a_row_stay_apart(model: Any) -> None:
    ids = tokens(1, 19)
    sequences = torch.tensor([[1] * 8 + [2] * 11])
    packed = model(ids, labels=ids, sequence_ids=sequences).losses["mtp"]
    mask = torch.tensor([[1] * 8 + [0] * 11, [0] * 8 + [1] * 11])
    apart = model(ids.expand(2, -1), labels=ids.expand(2, -1), attention_mask=mask).losses["mtp"]
    assert packed.item() == pytest.approx(apart.item(), abs=1e-10)
