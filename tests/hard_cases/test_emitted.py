"""DeepSeek-V4's drawers with a memory in one spec: the package that is printed from them equals the graph interpreter
and keeps the laws.

The memory stands on two layers under one name: its class is printed once, and takes what differs as arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import archc
from archc.cost.count import count, flops
from archc.graph.interpreter import Interpreter
from archc.graph.verify import verify
from archc.ops import Workload
from archc.plan import plan
from tests.hard_cases.harness import torch_time

SPEC = """arch 1

model hard {
  vocab    = 131
  dim      = 36
  layers   = 6
  context  = 256
  residual = mhc { streams = 4 }

  attention swa = windowed {
    heads = 6, head_dim = 26, rope_dim = 6, q_rank = 22, out_groups = 3, out_rank = 11, window = 7
    rope = rope { pairs = interleaved }
  }
  attention csa = swa {
    rope     = yarn { theta = 160e3, factor = 4, original = 32, attention_factor = 1.0, pairs = interleaved }
    compress = csa { ratio = 4, indexer = lightning { heads = 5, head_dim = 18, topk = 4 } }
  }
  attention hca = csa { compress = hca { ratio = 8 } }
  ffn mix       = moe { experts = 8, hidden = 17, shared = 1, router = sqrtsoftplus { active = 3, scale = 1.5 } }
  ffn dense     = swiglu { hidden = 50 }
  memory engram = engram { heads = 2, head_dim = 5, rows = 40, ids = 97, pad = 2 }
  schedule {
    attention = [swa * 2, (csa, hca) * 2]
    ffn       = [dense, mix * rest]
    memory    = engram at [1, 4]
  }
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The resolved spec."""
    folder = tmp_path_factory.mktemp("hard")
    (folder / "hard.arch").write_text(SPEC)
    return archc.load(folder / "hard.arch")


@pytest.fixture(scope="module")
def module(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The emitted model in float64, every weight random."""
    folder = archc.build(model, tmp_path_factory.mktemp("packages"))
    sys.path.insert(0, str(folder.parent))
    net = import_module("hard").Model(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(1 + 0.3 * noise if "norm" in name else noise * p.shape[-1] ** -0.5 if p.dim() > 1 else 0.3 * noise)
        for name, b in net.named_buffers():
            if name.endswith("merged"):
                b.copy_(torch.randint(0, 97, b.shape, generator=generator))
    yield net.double()
    sys.path.remove(str(folder.parent))
    for name in [n for n in sys.modules if n.partition(".")[0] == "hard"]:
        del sys.modules[name]


IDS = torch.randint(0, 131, (2, 53), generator=torch.Generator().manual_seed(1))


def test_plan_equals_module(model: Any, module: Any) -> None:
    graph = plan(model)
    verify(graph)
    tensors = {n: tuple(t.shape) for n, t in (*module.named_parameters(), *module.named_buffers())}
    assert {p.name: p.spec.shape for p in graph.parameters()} == tensors


def test_one_class_stands_on_both_layers(module: Any) -> None:
    text = Path(import_module("hard.model").__file__ or "").read_text()
    assert (text.count("class EngramMemory("), text.count("class NgramEmbedding(")) == (1, 1)
    first, second = (module.model.layers[i].memory.embed for i in (1, 4))
    assert not set(first.multipliers) & set(second.multipliers)
    assert not set(first.primes) & set(second.primes)


def test_interpreter_equals_module(model: Any, module: Any) -> None:
    first = torch.zeros(2, dtype=torch.int64)
    time = torch_time()(
        first=first,
        count=torch.tensor([53, 53]),
        positions=torch.arange(53).expand(2, -1),
        past=0,
        new=53,
        cached=False,
        aligned=True,
        full=True,
    )
    (logits,) = Interpreter(plan(model), dict(module.state_dict())).run(IDS, time)
    assert torch.allclose(logits, module(IDS).logits, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunks", [[53], [1] * 53, [5, 1, 1, 13, 2, 30, 1], [50, 3]])
def test_chunks_equal_one_forward(module: Any, chunks: list[int]) -> None:
    cache = module.new_cache(2, 60)
    parts = [module(ids, cache=cache).logits for ids in IDS.split(chunks, 1)]
    assert torch.allclose(torch.cat(parts, 1), module(IDS).logits, atol=1e-9)


def test_rewinding_forgets(module: Any) -> None:
    cache = module.new_cache(2, 60, max_rewind=5)
    module(IDS[:, :40], cache=cache)
    module(IDS.flip(1)[:, :5], cache=cache)
    cache.rewind(5)
    assert torch.allclose(module(IDS[:, 40:], cache=cache).logits, module(IDS).logits[:, 40:], atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(module: Any, side: str) -> None:
    padded, mask = torch.zeros(2, 60, dtype=torch.int64), torch.zeros(2, 60, dtype=torch.int64)
    columns = slice(7, None) if side == "left" else slice(0, 53)
    padded[:, columns], mask[:, columns] = IDS, 1
    assert torch.allclose(module(padded, attention_mask=mask).logits[:, columns], module(IDS).logits, atol=1e-9)


@pytest.mark.parametrize(
    ("new", "past", "cached"), [(53, 0, False), (32, 0, True), (9, 23, True), (1, 31, True), (1, 32, True)]
)
def test_executed_flops(model: Any, module: Any, new: int, past: int, cached: bool) -> None:
    cache = module.new_cache(2, 60) if cached else None
    with torch.no_grad():
        if past:
            module(IDS[:, :past], cache=cache)
        with FlopCounterMode(display=False) as counter:
            module(IDS[:, past : past + new], cache=cache)
    counted = flops(plan(model), Workload(batch=2, new=new, past=past, cached=cached), "prefill", model.precision)
    assert counted.executed.workload_total == counter.get_total_flops()


def test_cache_bytes(model: Any, module: Any) -> None:
    single = type(module)(dtype=torch.bfloat16)
    report = count(model, plan(model), batch=2, context=60)
    assert single.new_cache(2, 60).bytes() == report.kv_cache.bytes_total


def test_every_parameter_learns(module: Any) -> None:
    """The indexers from a loss of their own."""
    module.zero_grad()
    module(IDS, labels=IDS).loss.backward()
    assert not {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    module.zero_grad()


def test_bfloat16_runs(module: Any) -> None:
    narrow = type(module)(dtype=torch.bfloat16)
    out = narrow(IDS, labels=IDS)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert out.loss.isfinite()


def test_a_memory_on_a_plain_residual(tmp_path: Path) -> None:
    """One stream is streams enough: the same memory writes to x + F(x)."""
    (tmp_path / "hard.arch").write_text(SPEC.replace("mhc { streams = 4 }", "add").replace("model hard", "model plain"))
    folder = archc.build(archc.load(tmp_path / "hard.arch"), tmp_path)
    text = (folder / "model.py").read_text()
    assert "streams = self.memory(before, step)" in text
    sys.path.insert(0, str(tmp_path))
    try:
        net = import_module("plain").Model(dtype=torch.float64)
        cache = net.new_cache(2, 60)
        parts = [net(ids, cache=cache).logits for ids in IDS.split([20, 1, 32], 1)]
        assert torch.allclose(torch.cat(parts, 1), net(IDS).logits, atol=1e-9)
    finally:
        sys.path.remove(str(tmp_path))
