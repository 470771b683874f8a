"""What a forward keeps for its backward, planned and measured: the very same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.cost.activations import activations
from archc.cost.report import COMPONENTS
from archc.graph import Graph
from archc.ops import Workload
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model
from tests.built import built
from tests.memory.saved import kept_bytes
from tests.plan.test_agreement import HEAD, LIBRARY, SPECS, model_of

MORE = {
    "loads_of_batches": "dim = 16, layers = 3\nattention = gqa { heads = 2 }\n"
    "ffn = moe { experts = 6, hidden = 9, router = softmax { active = 2, balance_weight = 1e-1, balance = batch } }",
    "latents_in_parts": "dim = 16, layers = 1\n"
    "attention = mla { heads = 6, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 2, v_dim = 6, rope = rope }\n"
    "ffn = swiglu { hidden = 9, activation = gelu }",
}
SIZES = [(2, 40), (1, 64), (3, 17), (4, 1)]
WIDTHS = {4: torch.float32, 2: torch.bfloat16}


class Case:
    """A model, its graph, and modules of its package in two dtypes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model: Model = load_text(f"{HEAD}{MORE[name]}\n}}\n")[0] if name in MORE else model_of(name)
        self.graph: Graph = plan(self.model)
        package = built(self.model, folder)
        self.modules = {width: package.Model(dtype=dtype) for width, dtype in WIDTHS.items()}

    def workload(self, batch: int, new: int, act: int = 4) -> Workload:
        return Workload(batch=batch, new=new, act=act, layout=self.model.cache.kind)

    def ids(self, batch: int, new: int) -> torch.Tensor:
        return torch.randint(self.model.vocab, (batch, new), generator=torch.Generator().manual_seed(new))


@pytest.fixture(scope="module", params=[*LIBRARY, *SPECS, *MORE])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("act", WIDTHS)
@pytest.mark.parametrize(("batch", "new"), SIZES)
def test_what_a_forward_keeps(case: Case, batch: int, new: int, act: int) -> None:
    planned = activations(case.graph, case.workload(batch, new, act))
    assert planned.kept == kept_bytes(case.modules[act], case.ids(batch, new))


def test_parts_add_up(case: Case) -> None:
    planned = activations(case.graph, case.workload(2, 40))
    assert len(planned.layers) == case.model.layers
    assert set(planned.by_component) == set(COMPONENTS)
    assert sum(planned.by_component.values()) == planned.kept
