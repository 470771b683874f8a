"""Optimizers of a model with large tables: one that moves the rows of tables that were read, and one for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from . import mapped
from .table_model import TableModel
from .tables import LargeTable

TABLE_RATE = 5.0
"""The learning rate of tables, as a multiple of that of the rest (Engram, arXiv:2601.07372)."""


class TableAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) of the rows of tables that have a gradient, without weight decay.

    A row that was not read stays as it is, its moments too, as in `torch.optim.SparseAdam`; the step that corrects
    their bias is that of the table. Moments are in at least float32, in memory of the same kind as the table: on disk,
    in files that take room for what is written only.
    """

    def __init__(
        self,
        tables: Iterable[LargeTable],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"needs lr >= 0, eps >= 0 and 0 <= beta < 1, got {lr}, {eps} and {betas}")
        self._tables = {table.weight: table for table in tables}
        super().__init__(list(self._tables), {"lr": lr, "betas": betas, "eps": eps})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tables": self._tables}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Moves the rows that have a gradient. Returns what `closure` does, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """One step of the rows of a weight that have a gradient."""
        state = self.state[weight] or self._begin(weight)
        rows, grad = _rows(grad)
        if not len(rows):
            state["step"] += 1
            return
        self._tables[weight].writable()
        held = (weight, state["exp_avg"], state["exp_avg_sq"])
        moved, mean, square = (tensor.index_select(0, rows).to(state["exp_avg"].dtype) for tensor in held)
        adam(
            [moved],
            [grad.to(moved.dtype)],
            [mean],
            [square],
            [],
            [state["step"]],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        for tensor, new in zip(held, (moved, mean, square), strict=True):
            tensor.index_copy_(0, rows, new.to(tensor.dtype))

    def _begin(self, weight: nn.Parameter) -> dict[str, Any]:
        """The state of a weight that has not moved yet."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        table = self._tables[weight]
        state = {"step": torch.tensor(0.0), "exp_avg": table.beside(wide), "exp_avg_sq": table.beside(wide)}
        self.state[weight] = state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of another run into memory of the same kind as the tables."""
        super().load_state_dict({**state_dict, "state": {}})
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for i, weight in zip(ids, weights, strict=True):
            if i in state_dict["state"]:
                saved, state = state_dict["state"][i], self._begin(weight)
                state["step"].copy_(saved["step"])
                mapped.fill(state["exp_avg"], saved["exp_avg"])
                mapped.fill(state["exp_avg_sq"], saved["exp_avg_sq"])


def _rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a gradient [rows, dim] that may not be zero, each once, and what they are: [N] and [N, dim]."""
    if grad.is_sparse:
        grad = grad.coalesce()
        return grad.indices()[0], grad.values()
    rows = grad.any(1).nonzero()[:, 0]
    return rows, grad[rows]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients together so that their norm is at most `max_norm`; returns what it was.

    `torch.nn.utils.clip_grad_norm_` does not take sparse gradients; where there are none, this is that.
    """
    held = [p for p in parameters if p.grad is not None]
    if not any(p.grad.is_sparse for p in held if p.grad is not None):
        return torch.nn.utils.clip_grad_norm_(held, max_norm)
    values = []
    for p in held:
        assert p.grad is not None
        if p.grad.is_sparse and not p.grad.is_coalesced():
            p.grad = p.grad.coalesce()
        values.append(p.grad.values() if p.grad.is_sparse else p.grad)
    norm = torch.nn.utils.get_total_norm(values)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale.to(value.device))
    return norm


def parameter_groups(model: TableModel, lr: float, table_rate: float = TABLE_RATE) -> list[dict[str, Any]]:
    """The parameters for one optimizer of dense gradients: tables with a learning rate of their own and without weight
    decay, and the rest.
    """
    tables = [table.weight for table in model.tables.values()]
    held = set(map(id, tables))
    rest = [p for p in model.parameters() if id(p) not in held]
    return [{"params": rest, "lr": lr}, {"params": tables, "lr": table_rate * lr, "weight_decay": 0.0}]


def optimizers(
    model: TableModel,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    table_rate: float = TABLE_RATE,
) -> tuple[torch.optim.AdamW, TableAdam]:
    """AdamW for all but the tables, and Adam with `table_rate` times its learning rate for the rows of tables.

    Gradients of the tables are sparse from now on.
    """
    model.sparse_gradients = True
    rest, tables = parameter_groups(model, lr, table_rate)
    backbone = torch.optim.AdamW(rest["params"], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    return backbone, TableAdam(model.tables.values(), lr=tables["lr"], betas=betas, eps=eps)
