"""The allocation peak of a whole training step, planned and measured."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from archc.cost.activations import activations, peak
from archc.cost.count import count
from archc.cost.setting import Recompute, Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model
from tests.built import built
from tests.memory.saved import step_peaks
from tests.plan.test_agreement import LIBRARY, SPECS, model_of

MIDDLE = {
    "middle_dense": "attention = gqa { heads = 8, kv_heads = 2, head_dim = 32, rope = rope }\n"
    "ffn = swiglu { hidden = 700 }",
    "middle_routed": "attention = mla { heads = 8, q_rank = 96, kv_rank = 64, nope_dim = 32, rope_dim = 16, v_dim = 32,"
    " rope = rope { pairs = interleaved } }\n"
    "ffn = moe { experts = 16, hidden = 128, shared = 1, router = sigmoid { active = 4, balance_weight = 1e-3 } }",
    "middle_streams": "residual = mhc { streams = 4 }\n"
    "attention = windowed { heads = 8, head_dim = 64, rope_dim = 16, q_rank = 96, out_groups = 2, out_rank = 64,\n"
    "  window = 32, rope = rope { pairs = interleaved }, compress = csa { ratio = 4,\n"
    "  indexer = lightning { heads = 4, head_dim = 32, topk = 16 } } }\nffn = swiglu { hidden = 512 }",
}
"""Models in which activations outweigh parameters."""

WIDE = {
    "wide_dense": "attention far = windowed { heads = 6, head_dim = 28, rope_dim = 6, q_rank = 7, out_groups = 3,\n"
    "  out_rank = 8, window = 7, rope = rope, compress = hca { ratio = 2 } }",
    "wide_picked": "attention far = windowed { heads = 2, head_dim = 32, rope_dim = 6, q_rank = 7, out_groups = 1,\n"
    "  out_rank = 8, window = 4, rope = rope, compress = csa { ratio = 2, overlap = false,\n"
    "  indexer = lightning { heads = 1, head_dim = 6, topk = 2 } } }",
    "wide_blocks": "attention far = nsa { heads = 4, kv_heads = 2, head_dim = 24, v_dim = 16, stride = 2,\n"
    "  compress_block = 4, select_block = 4, blocks = 4, window = 4, rope = rope }",
}
"""Sparse attention whose keys outweigh its logits."""


BLOCKS = {
    "bands": "heads = 16, head_dim = 8, window = 64",
    "gathered": "heads = 2, head_dim = 64, window = 16, compress = csa { ratio = 4,\n"
    "  indexer = lightning { heads = 2, head_dim = 8, topk = 16 } }",
    "two_stages": "heads = 2, head_dim = 16, window = 16, compress = csa { ratio = 2,\n"
    "  indexer = two_stage { heads = 4, head_dim = 32, topk = 8, block = 8, blocks = 12 } }",
    "looked_up": "heads = 8, head_dim = 16, window = 16, compress = csa { ratio = 4,\n"
    "  indexer = lightning { heads = 2, head_dim = 8, topk = 1000 } }",
}
"""Attention of which the blocks outweigh what is kept: one layer of these, in several blocks of queries."""

LATENTS = {
    "latents_gathered": 16,
    "latents_looked_up": 1000,
}
"""The same of attention to picked latents, by the number of picks."""

CHOSEN = {
    "tokens_of_blocks": "heads = 4, kv_heads = 2, head_dim = 8, v_dim = 16, stride = 2, compress_block = 4,\n"
    "  select_block = 16, blocks = 8, window = 4",
    "entries_of_blocks": "heads = 8, kv_heads = 1, head_dim = 4, stride = 1, compress_block = 1, select_block = 4,\n"
    "  blocks = 4, window = 4",
}
"""The same of native sparse attention."""


def _model(name: str) -> Model:
    if name in BLOCKS:
        fixed = "rope_dim = 4, q_rank = 8, out_groups = 2, out_rank = 4, rope = rope { pairs = interleaved }"
        head = "arch 1\nmodel spec { vocab = 50, context = 4096, dim = 16, layers = 1\nffn = swiglu { hidden = 8 }\n"
        return load_text(f"{head}attention = windowed {{ {BLOCKS[name]}, {fixed} }} }}\n")[0]
    if name in CHOSEN:
        head = "arch 1\nmodel spec { vocab = 19, context = 4096, dim = 13, layers = 1\nffn = swiglu { hidden = 9 }\n"
        return load_text(f"{head}attention = nsa {{ {CHOSEN[name]} }} }}\n")[0]
    if name in LATENTS:
        head = "arch 1\nmodel spec { vocab = 50, context = 4096, dim = 16, layers = 1\nffn = swiglu { hidden = 8 }\n"
        fixed = "heads = 8, q_rank = 8, kv_rank = 32, nope_dim = 8, rope_dim = 4, v_dim = 8, rope = rope"
        index = f"indexer = lightning {{ heads = 2, head_dim = 8, topk = {LATENTS[name]} }}"
        return load_text(f"{head}attention = dsa {{ {fixed}, {index} }} }}\n")[0]
    if name in WIDE:
        head = "arch 1\nmodel spec { vocab = 19, context = 96, dim = 13, layers = 2\n"
        return load_text(f"{head}{WIDE[name]}\nffn = swiglu {{ hidden = 9 }}\n}}\n")[0]
    if name not in MIDDLE:
        return model_of(name)
    head = "arch 1\nmodel spec { vocab = 1000, context = 1024, dim = 256, layers = 4\n"
    return load_text(f"{head}{MIDDLE[name]}\n}}\n")[0]


def _agrees(name: str, folder: Path, batch: int, new: int, act: int = 4) -> None:
    model = _model(name)
    graph: Graph = plan(model, names=True)
    module = built(model, folder).Model(dtype=torch.bfloat16 if act == 2 else torch.float32)
    ids = torch.randint(model.vocab, (batch, new), generator=torch.Generator().manual_seed(new))
    w = Workload(batch=batch, new=new, act=act, layout=model.cache.kind)
    for policy in get_args(Recompute):
        module.recompute = policy
        measured, planned = max(step_peaks(module, ids)), peak(graph, w, policy)
        assert abs(planned.total / measured - 1) < 0.1, (policy, planned, measured)
        setting = Setting(recompute=policy)
        report = count(model, graph, mode="train", batch=batch, seq=new, setting=setting)
        assert report.memory is not None
        if model.precision.activation == 4:  # what was measured is a package in float32
            assert report.memory.step_peak == planned.total


@pytest.mark.parametrize("name", [*BLOCKS, *CHOSEN, *LATENTS])
def test_blocks_are_gone_when_the_next_is_made(name: str, tmp_path: Path) -> None:
    _agrees(name, tmp_path, 1, 1500)


@pytest.mark.parametrize("name", [*LIBRARY, *SPECS])
def test_the_peak_of_a_step(name: str, tmp_path: Path) -> None:
    _agrees(name, tmp_path, 2, 64)


@pytest.mark.parametrize("act", [4, 2])
@pytest.mark.parametrize("name", WIDE)
def test_the_peak_of_sparse_attention(name: str, act: int, tmp_path: Path) -> None:
    """In two dtypes: of narrow operands the kernel makes wide copies."""
    _agrees(name, tmp_path, 3, 48, act)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIBRARY, *MIDDLE])
def test_the_peak_of_a_larger_step(name: str, tmp_path: Path) -> None:
    _agrees(name, tmp_path, 4, 128)


@pytest.mark.parametrize("policy", get_args(Recompute))
def test_a_larger_batch_takes_more(policy: Recompute) -> None:
    graph = plan(model_of("deepseek_v3"))
    small, large = (Workload(batch=b, new=32, act=4, layout="fp32") for b in (1, 2))
    assert peak(graph, small, policy).total <= peak(graph, large, policy).total
    one, two = (activations(graph, w, policy) for w in (small, large))
    assert all(a < b for a, b in zip(one.layers, two.layers, strict=True))


def test_policies_in_order() -> None:
    """Of what they keep: least where all runs again, most where nothing does."""
    for name in ("llama_3_1_8b", "deepseek_v3", "deepseek_v4_flash"):
        graph = plan(model_of(name))
        w = Workload(batch=2, new=64, act=4, layout="fp32")
        full, selective, none = (activations(graph, w, p).kept for p in ("full", "selective", "none"))
        assert full < selective < none
