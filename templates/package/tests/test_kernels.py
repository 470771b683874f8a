"""One model, several ways to run it: eager or compiled, reference or Triton kernels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import pytest
import torch
from torch import Tensor

from .tiny_model import Model
from .twin import abridged, allowed, assert_same, randomise, tokens, twin

COMPILER = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)


def results(model: Model, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the gradient of the loss by parameter."""
    model.zero_grad()
    out = model(ids, labels=ids)
    out.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return out.logits.detach(), grads


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], bound: float) -> None:
    """Fails where a gradient is off by more than `bound` of its own size, or of a thousandth of the largest's: where
    terms cancel, their rounding remains.
    """
    assert got.keys() == want.keys()
    sizes = {name: float(grad.norm()) for name, grad in want.items()}
    least = max(sizes.values()) / 1000
    for name, grad in want.items():
        assert float((got[name] - grad).norm()) <= bound * max(sizes[name], least), name


@pytest.fixture(autouse=True)
def forget_compiled():
    """Compiled code is dropped before and after each test."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_the_whole_model_is_one_graph() -> None:
    """`torch.compile(fullgraph=True)` captures forward and backward without a break, and changes nothing; with each
    part of a layer in one layer at least.
    """
    model, ids = abridged(twin(torch.float32)), tokens(2, 24, seed=20)
    want, slopes = results(model, ids)
    got, grads = results(torch.compile(model, fullgraph=True, backend="aot_eager"), ids)
    assert_same(got, want)
    assert_close({name.removeprefix("_orig_mod."): grad for name, grad in grads.items()}, slopes, bound=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="inductor needs a C++ compiler")
def test_compiled_code_gives_the_same_logits() -> None:
    model, ids = abridged(twin(torch.float32)), tokens(2, 24, seed=21)
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True)(ids).logits
        assert_same(got, model(ids).logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")
def test_triton_kernels_agree_with_their_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and gradients in float32, with matrix products in float32 too."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model = Model(device="cuda", dtype=torch.float32)
    randomise(model)
    ids = tokens(2, 64, seed=22).cuda()
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    want, slopes = results(model, ids)
    monkeypatch.setenv("ARCHC_KERNELS", "triton")
    got, grads = results(model, ids)
    assert float((got - want).abs().max()) <= allowed(torch.float32)
    assert_close(grads, slopes, bound=1e-3)
