"""What a forward keeps for its backward, planned and measured: the very same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from archc.api import FUSE
from archc.cost.activations import activations
from archc.cost.report import COMPONENTS
from archc.cost.setting import Recompute
from archc.graph import Graph
from archc.ops import Workload
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model
from tests.built import built
from tests.memory.saved import held_bytes, kept_bytes
from tests.plan.test_agreement import HEAD, LIBRARY, SPECS, model_of

MORE = {
    "loads_of_batches": "dim = 16, layers = 3\nattention = gqa { heads = 2 }\n"
    "ffn = moe { experts = 6, hidden = 9, router = softmax { active = 2, balance_weight = 1e-1, balance = batch } }",
    "latents_in_parts": "dim = 16, layers = 1\n"
    "attention = mla { heads = 6, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 2, v_dim = 6, rope = rope }\n"
    "ffn = swiglu { hidden = 9, activation = gelu }",
    "layers_of_nothing": "dim = 16, layers = 6, residual = mhc { streams = 2 }\n"
    "attention far = gqa { heads = 2 }\nffn mix = swiglu { hidden = 9 }\n"
    "schedule { attention = [none * 2, far, none * 3], ffn = [none * 2, mix * 2, none * 2] }",
}
SIZES = [(2, 40), (1, 64), (4, 1)]
WIDTHS = {4: torch.float32, 2: torch.bfloat16}


ROTATED = {"rotated V4": "deepseek_v4_flash", "rotated Llama": "llama_3_1_8b"}
"""Models whose layers begin by leaving the one before."""


FUSED = {"fused V4": "deepseek_v4_flash", "fused Qwen3": "qwen3_235b_a22b", "fused HC": "streams_mixed_freely"}
"""Models with functions, which run by reference here: the plan is that of the graph before these were made."""


class Case:
    """A model, its graph, and modules of its package in two dtypes."""

    def __init__(self, name: str, folder: Path) -> None:
        fused, rotated = name in FUSED, name in {*ROTATED, *FUSED}
        name = {**ROTATED, **FUSED}.get(name, name)
        self.model: Model = load_text(f"{HEAD}{MORE[name]}\n}}\n")[0] if name in MORE else model_of(name)
        self.graph: Graph = plan(self.model, rotated=rotated)
        package = built(self.model, folder, rotated=rotated, fuse="layers" if fused else FUSE)
        self.modules = {width: package.Model(dtype=dtype) for width, dtype in WIDTHS.items()}

    def workload(self, batch: int, new: int, act: int = 4) -> Workload:
        return Workload(batch=batch, new=new, act=act, layout=self.model.cache.kind)

    def ids(self, batch: int, new: int) -> torch.Tensor:
        return torch.randint(self.model.vocab, (batch, new), generator=torch.Generator().manual_seed(new))


@pytest.fixture(scope="module", params=[*LIBRARY, *SPECS, *MORE, *ROTATED, *FUSED])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("act", WIDTHS)
@pytest.mark.parametrize(("batch", "new"), SIZES)
def test_what_a_forward_keeps(case: Case, batch: int, new: int, act: int) -> None:
    planned = activations(case.graph, case.workload(batch, new, act))
    assert planned.kept == kept_bytes(case.modules[act], case.ids(batch, new))


@pytest.mark.parametrize("act", WIDTHS)
@pytest.mark.parametrize("policy", get_args(Recompute))
def test_what_recomputation_keeps(case: Case, policy: Recompute, act: int) -> None:
    """All that lives as long as the loss. Layers that run again hold the step, in which they left the losses so far: a
    few numbers that are not planned.
    """
    module, ids = case.modules[act], case.ids(3, 17)
    module(ids, labels=ids)  # what a first forward makes for all others
    module.loads.clear()
    module.recompute = policy
    try:
        held = held_bytes(module, ids)
    finally:
        module.recompute = "none"
    beside = 0 if policy == "none" else 32
    planned = activations(case.graph, case.workload(3, 17, act), policy).kept
    assert planned <= held <= planned + beside


@pytest.mark.parametrize("policy", get_args(Recompute))
def test_parts_add_up(case: Case, policy: Recompute) -> None:
    planned = activations(case.graph, case.workload(2, 40), policy)
    assert len(planned.layers) == case.model.layers
    assert set(planned.by_component) == set(COMPONENTS)
    assert sum(planned.by_component.values()) == planned.kept


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v4_flash", "further_tokens"])
def test_plans_without_names_keep_the_same(name: str) -> None:
    """Names say when a variable is given up, not what is kept."""
    model = model_of(name)
    named, bare = (activations(plan(model, names=n), Workload(batch=2, new=24, act=4)) for n in (True, False))
    assert (named.layers, named.rest, named.logits) == (bare.layers, bare.rest, bare.logits)
