"""The tiny twin of this package with weights that matter, and what counts as equal."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import tiny_model
from .tiny_model import Model

TESTS = Path(__file__).parent
TINY: dict[str, Any] = json.loads((TESTS / "tiny_plan.json").read_text(encoding="utf-8"))
FULL: dict[str, Any] = json.loads((TESTS.parent / "plan.json").read_text(encoding="utf-8"))

COLUMNS = 72
"""The longest row: more tokens than any window, ratio or top-k of a twin needs."""

DTYPES = (torch.float64, torch.float32)

CHOOSES = any("topk" in name or name == "compressed_attention" for name in vars(tiny_model))
"""Whether it routes or picks by scores. Where two lie within rounding of each other rounding decides, and what a token
gets moves by more than rounding: in float32 that may happen to a few tokens.
"""


ON_DEVICE = {"memory": "device"} if any(p["role"] == "table" for p in TINY["parameters"]) else {}
"""Laws are those of tables on the device, whose gradients are dense; `test_tables` has those of the others."""


def fresh(seed: int = 0, dtype: torch.dtype = torch.float32) -> Model:
    """A twin initialised as the plan says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(dtype=dtype, **ON_DEVICE)


@cache
def twin(dtype: torch.dtype = torch.float64) -> Model:
    """The twin with large random weights, the same in every dtype: nothing is symmetric, small or switched off."""
    model = fresh(dtype=dtype)
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: Model, seed: int = 1) -> None:
    """Fills every parameter of a twin: matrices keep the size of vectors, norms lie about one, the rest about zero."""
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    for spec in TINY["parameters"]:
        if spec["buffer"]:
            continue
        spread = 0.3
        if spec["role"] in ("embedding", "table"):
            spread = 1.0
        elif len(spec["shape"]) > 1:
            spread = spec["shape"][-1] ** -0.5
        drawn = torch.randn(spec["shape"], generator=generator) * spread
        named[spec["name"]].copy_(drawn + 1 if spec["init"] == "ones" else drawn)


def structure(whole: nn.Module) -> str:
    """All that a module is made of but the number of its layer and the values of its weights."""
    modules = [
        (name, type(module), [(k, v) for k, v in vars(module).items() if k[0] != "_" and k not in ("layer", "forward")])
        for name, module in whole.named_modules()
    ]
    return f"{modules} {[(name, tensor.shape, tensor.dtype) for name, tensor in whole.state_dict().items()]}"


def abridged(model: Model) -> Model:
    """A copy that has only the layers with a part that none before them has."""
    short, seen = deepcopy(model), set()
    for layers in [m for m in short.modules() if isinstance(m, nn.ModuleList)]:
        for layer in list(layers):
            parts = {f"{type(layer)}", *map(structure, layer.children())}
            if parts <= seen:
                del layers[list(layers).index(layer)]
            seen |= parts
    return short


@torch.no_grad()
def logits(model: Model, ids: Tensor, **given: Any) -> Tensor:
    """Logits of one forward: [B, S, vocab]."""
    return model(ids, **given).logits


def tokens(rows: int, columns: int, seed: int) -> Tensor:
    """Random token ids: [rows, columns]."""
    return torch.randint(TINY["vocab"], (rows, columns), generator=torch.Generator().manual_seed(seed))


@cache
def allowed(dtype: torch.dtype) -> float:
    """The largest difference of two logits that are equal but for rounding.

    Measured, for float32: 16 times what computing in float32 instead of float64 changes. A wrong key, position or
    weight moves logits by thousands of times more.
    """
    if dtype == torch.float64:
        return 1e-9
    ids = tokens(3, COLUMNS, seed=2)
    changed = (logits(twin(torch.float64), ids) - logits(twin(torch.float32), ids)).abs().amax(-1).flatten()
    return 16 * float(changed.quantile(0.9) if CHOOSES else changed.max())


def assert_same(got: Tensor, want: Tensor) -> None:
    """Fails where two logits of one dtype differ by more than rounding, or one is not finite.

    In float32 one token in ten (at least one) may have chosen otherwise (`CHOOSES`); in float64 none.
    """
    assert got.shape == want.shape
    if not got.numel():
        return
    assert got.isfinite().all(), "not finite"
    off = (got - want).abs().reshape(-1, got.shape[-1]).amax(-1)
    spared = max(1, len(off) // 10) if CHOOSES and want.dtype == torch.float32 else 0
    worst = float(off.sort().values[: len(off) - spared].max()) if spared < len(off) else 0.0
    assert worst <= allowed(want.dtype), f"differs by {worst:.3g}, allowed are {allowed(want.dtype):.3g}"
