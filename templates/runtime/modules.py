"""Building blocks with parameters, initialised as the model's specification says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..kernels.linear import linear
from ..kernels.rms_norm import rms_norm


@contextmanager
def building(device: torch.device | str | None, dtype: torch.dtype) -> Iterator[None]:
    """Parameters made inside are made on `device` and in `dtype` from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device if device is not None else torch.get_default_device()):
            yield
    finally:
        torch.set_default_dtype(before)


def at_least_float32() -> torch.dtype:
    """The dtype of a model being built, or float32 where that is narrower: for parameters of dtype islands."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class Linear(nn.Linear):
    """A matrix from a normal distribution, without bias unless asked for (biases start at zero)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, std: float = 0.02) -> None:
        self.std = std  # reset_parameters is called by the constructor of nn.Linear
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The matrix times each vector of x [..., in], plus the bias: [..., out]."""
        weight = self._parameters.get("weight")  # as an attribute it would be searched for, at every token anew
        return super().forward(x) if weight is None else linear(x, weight, self._parameters["bias"])


class Embedding(nn.Embedding):
    """A table of token vectors from a normal distribution."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(num_embeddings, embedding_dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Each vector of x [..., dim] at unit root mean square, times the weight: [..., dim]."""
        return rms_norm(x, self.weight, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


def normal(*shape: int, std: float = 0.02, dtype: torch.dtype | None = None) -> nn.Parameter:
    """A parameter of `shape` from a normal distribution, for weights that are not those of a linear map."""
    return nn.Parameter(torch.empty(shape, dtype=dtype).normal_(std=std))


def choices(rows: int, columns: int, *, below: int) -> Tensor:
    """Random ids under `below`, distinct in each row, every id as often as any other: [rows, columns] int64.

    In each block of `below` rows every column holds a permutation of the ids; the last block may be cut.
    """
    blocks = -(-rows // below)
    ids = torch.rand(blocks, below, dtype=torch.float32).argsort(-1)
    turns = torch.rand(blocks, below, dtype=torch.float32).argsort(-1)[:, None, :columns]
    places = (torch.arange(below)[:, None] + turns) % below  # of row and column in the block's permutation
    return ids.gather(1, places.flatten(1)).view(-1, columns)[:rows].contiguous()
