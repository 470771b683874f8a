"""The square root that keeps the sign."""

from __future__ import annotations

import torch

from kernels.signed_sqrt import signed_sqrt


def test_signed_sqrt() -> None:
    x = torch.tensor([4.0, -9.0, 0.0, 1e-9, -1e-9], dtype=torch.float64, requires_grad=True)
    y = signed_sqrt(x, floor=1e-6)
    torch.testing.assert_close(y, torch.tensor([2.0, -3.0, 0.0, 1e-3, -1e-3], dtype=torch.float64))
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
