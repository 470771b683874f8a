"""Adam of the rows that were read, against the optimizers of PyTorch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tables.conftest import PLACEMENTS
from tests.tables.test_models import IDS
from tests.tables.test_table import DIM, ROWS, make, pulled

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95)}


def trained(runtime: Any, placement: str, steps: list[list[int]], dtype: torch.dtype = torch.float64) -> Any:
    """A table after a step for each list of ids, and its optimizer."""
    torch.manual_seed(0)
    table = make(runtime, placement, dtype)
    optimizer = runtime("optimizers").TableAdam([table], **SETTINGS)
    more(table, optimizer, steps)
    return table, optimizer


def more(table: Any, optimizer: Any, steps: list[list[int]], seed: int = 0) -> None:
    for i, some in enumerate(steps, seed):
        optimizer.zero_grad()
        pulled(table(torch.tensor(some, dtype=torch.int64)), i).backward()
        optimizer.step()


def by_torch(runtime: Any, optimizer: type, steps: list[list[int]], *, sparse: bool, **given: Any) -> torch.Tensor:
    """The same steps of a whole weight by an optimizer of PyTorch."""
    torch.manual_seed(0)
    table = make(runtime, "device", torch.float64)
    table.sparse = sparse
    more(table, optimizer([table.weight], **SETTINGS, **given), steps)
    return table.weight.detach()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_equals_adam_where_every_row_is_read(runtime: Any, placement: str) -> None:
    """Bit for bit: the arithmetic is Adam's own."""
    steps = [torch.randperm(ROWS, generator=torch.Generator().manual_seed(i)).tolist() * 2 for i in range(5)]
    table, _ = trained(runtime, placement, steps)
    assert torch.equal(table.weight, by_torch(runtime, torch.optim.Adam, steps, sparse=False))


@pytest.mark.parametrize("placement", PLACEMENTS)
@given(steps=st.lists(st.lists(st.integers(0, ROWS - 1), max_size=6), min_size=1, max_size=6))
def test_equals_sparse_adam(runtime: Any, placement: str, steps: list[list[int]]) -> None:
    """But for eps, which SparseAdam adds before it corrects the bias of the second moment: without it they agree."""
    torch.manual_seed(0)
    table = make(runtime, placement, torch.float64)
    start = table.weight.detach().clone()
    more(table, runtime("optimizers").TableAdam([table], **SETTINGS, eps=0.0), steps)
    want = by_torch(runtime, torch.optim.SparseAdam, steps, sparse=True, eps=1e-300)
    torch.testing.assert_close(table.weight.detach(), want, rtol=1e-12, atol=1e-14)
    idle = torch.ones(ROWS, dtype=torch.bool)
    idle[[i for some in steps for i in some]] = False
    assert torch.equal(table.weight[idle], start[idle])


def test_dense_gradients_move_their_rows_too(runtime: Any) -> None:
    steps = [[1, 2, 2], [5], [1, 5]]
    table, _ = trained(runtime, "device", steps)
    assert not table.sparse
    assert torch.equal(table.weight, trained(runtime, "host", steps)[0].weight)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_training_goes_on_from_a_state_dict(runtime: Any, placement: str, dtype: torch.dtype) -> None:
    steps = [[0, 3], [3, 4, 4], [9], [0, 9, 3]]
    whole, _ = trained(runtime, placement, steps, dtype)
    table, optimizer = trained(runtime, placement, steps[:2], dtype)
    saved = deepcopy(optimizer.state_dict())
    assert {v.dtype for v in saved["state"][0].values()} == {torch.float32, torch.promote_types(dtype, torch.float32)}
    other = runtime("optimizers").TableAdam([table])
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == SETTINGS["lr"]
    more(table, other, steps[2:], seed=2)
    assert torch.equal(table.weight, whole.weight)


def test_moments_lie_beside_the_table(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In files on disk, which are as large as the table."""
    made = []
    mapped = runtime("mapped")
    real = mapped.scratch
    monkeypatch.setattr(mapped, "scratch", lambda *given: made.append(given) or real(*given))
    trained(runtime, "disk", [[1]], torch.bfloat16)
    shapes = [(shape, dtype) for shape, dtype, _ in made]
    assert shapes == [((ROWS, DIM), torch.bfloat16), *[((ROWS, DIM), torch.float32)] * 2]


def test_closures_and_settings(runtime: Any) -> None:
    table, optimizer = trained(runtime, "host", [])

    def closure() -> torch.Tensor:
        loss = table(torch.tensor([2])).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    with pytest.raises(ValueError, match="needs lr >= 0"):
        runtime("optimizers").TableAdam([table], lr=-1.0)


def test_groups_of_a_model(package: Any, models: dict[str, Any]) -> None:
    """Every parameter is in one group; tables have five times the rate and do not decay."""
    model = models["host"]
    rest, tables = package.optimizers(model, lr=1e-3)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [id(p) for o in (rest, tables) for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(names) and len(set(held)) == len(held)
    assert {names[id(p)] for p in tables.param_groups[0]["params"]} == {f"{name}.weight" for name in model.tables}
    assert (rest.param_groups[0]["lr"], tables.param_groups[0]["lr"]) == (1e-3, 5e-3)
    device = models["device"]
    assert not device.sparse_gradients
    groups = package.parameter_groups(device, lr=1e-3)
    both = torch.optim.AdamW(groups, weight_decay=0.1)
    assert [(g["lr"], g["weight_decay"]) for g in both.param_groups] == [(1e-3, 0.1), (5e-3, 0.0)]
    assert {id(p) for p in groups[1]["params"]} == {id(table.weight) for table in device.tables.values()}
    package.optimizers(device, lr=1e-3)
    assert device.sparse_gradients


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_clipped_as_dense_gradients_are(package: Any, models: dict[str, Any], placement: str, max_norm: float) -> None:
    """Of several backward passes, whose sparse gradients are added up."""
    norms, grads = [], []
    for model, clip in (
        (models["device"], torch.nn.utils.clip_grad_norm_),
        (deepcopy(models[placement]), package.clip_gradients),
    ):
        model.sparse_gradients = clip is package.clip_gradients
        for ids in (IDS, IDS.flip(1)):
            model(ids, labels=ids).loss.backward()
        norms.append(clip(model.parameters(), max_norm))
        grads.append({name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*grads)
    assert 1e-3 < float(norms[0]) < 1e3


def test_clipping_takes_dense_gradients_too(package: Any) -> None:
    given = torch.tensor([3.0, 4.0], requires_grad=True), torch.zeros(2, requires_grad=True)
    given[0].grad = torch.tensor([3.0, 4.0])
    assert package.clip_gradients(given, 1.0) == 5.0
    torch.testing.assert_close(given[0].grad, torch.tensor([0.6, 0.8]))
    assert package.clip_gradients([given[1]], 1.0) == 0.0
