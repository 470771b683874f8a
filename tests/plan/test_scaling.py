"""A prefill and a training step of sparse attention grow with the row as their plan says: there is no S x S square."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import archc
from archc.cost.count import count
from archc.plan import plan, shrink
from archc.schema import Model
from kernels.sparse_blocks import LIMIT
from tests.built import built, randomise

LENGTHS = (512, 1024, 2048)


class Memory(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes, and of all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given:  # no view, not in place
                self.largest = max(self.largest, t.untyped_storage().nbytes())
                self.made += t.untyped_storage().nbytes()
        return out


@pytest.fixture(scope="module")
def model() -> Model:
    return shrink(archc.load("deepseek_v4_flash"))


@pytest.fixture(scope="module")
def module(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    module = built(model, tmp_path_factory.mktemp("scaling")).Model()
    randomise(module)
    return module


@pytest.mark.parametrize("mode", ["prefill", "train"])
def test_memory_grows_no_faster_than_the_work_of_the_plan(model: Model, module: Any, mode: Any) -> None:
    graph = plan(model)
    used, work = [], []
    for length in LENGTHS:
        ids = torch.randint(model.vocab, (1, length), generator=torch.Generator().manual_seed(0))
        with Memory() as memory:
            if mode == "train":
                module(ids, labels=ids).loss.backward()
            else:
                with torch.no_grad():
                    module(ids, cache=module.new_cache(1, length))
        used.append(memory)
        counted = count(model, graph, mode=mode, batch=1, seq=length, context=length)
        work.append(counted.flops.executed.workload_total)
        widest = max(model.vocab, 4 * model.dim, 3 * 64 * 6)  # logits, streams, the rows of experts
        assert memory.largest <= 4 * max(LIMIT, length * widest) * 1.1
    for n in range(1, len(LENGTHS)):
        assert used[n].made / used[n - 1].made <= work[n] / work[n - 1] * 1.1  # scores have few FLOPs a byte
        assert used[n].largest <= max(4 * LIMIT * 1.1, 2.01 * used[n - 1].largest)
    # Work itself: what each token adds is nearly constant, with the scores of indexers alone growing.
    assert work[-1] / work[0] < 1.35 * LENGTHS[-1] / LENGTHS[0]


def test_a_square_would_be_seen() -> None:
    with Memory() as memory:
        x = torch.ones(LENGTHS[0], 1)
        (x @ x.mT).sum()
    assert memory.largest == 4 * LENGTHS[0] ** 2 and memory.made > memory.largest
