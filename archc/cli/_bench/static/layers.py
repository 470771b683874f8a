"""Launches of each layer of a package's tiny twin: Triton kernels, and every operation of PyTorch that is no view."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import torch
from torch import nn

from archc.cli._bench.static.traced import Traced, tracing

TOKENS = 64
"""Columns of a prefill; a step of decoding follows it."""


def launches(package: str) -> list[dict[str, Any]]:
    """One entry a layer and length: what it launches with kernels, and by references alone, in bfloat16."""
    model = import_module(f"{package}.tests.tiny_model").Model(dtype=torch.bfloat16).eval()
    stack = next(m for name, m in model.named_modules() if name.endswith("layers") and isinstance(m, nn.ModuleList))
    ids = torch.randint(model.vocab, (1, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    found = [
        {"layer": i, "class": _class(layer), "tokens": tokens}
        for tokens in (1, TOKENS)
        for i, layer in enumerate(stack)
    ]
    kept = os.environ["ARCHC_KERNELS"]
    try:
        for mode in ("triton", "reference"):
            os.environ["ARCHC_KERNELS"] = mode
            cache = model.new_cache(1, TOKENS + 1)
            with torch.no_grad():
                prefill = _by_layer(stack, lambda cache=cache: model(ids[:, :TOKENS], cache=cache))
                step = _by_layer(stack, lambda cache=cache: model(ids[:, TOKENS:], cache=cache))
            for entry, made in zip(found, [*step, *prefill], strict=True):
                own = sum(launch.backend == "triton" for launch in made)
                entry.update(
                    {"reference": len(made)} if mode == "reference" else {"triton": own, "torch": len(made) - own}
                )
    finally:
        os.environ["ARCHC_KERNELS"] = kept
    return found


def _by_layer(stack: nn.ModuleList, run: Any) -> list[list[Traced]]:
    """What each layer of a stack launches."""
    ends: list[tuple[int, int]] = []
    with tracing() as made:
        hooks = [h for layer in stack for h in _hooks(layer, made, ends)]
        run()
    for hook in hooks:
        hook.remove()
    return [made[first:last] for first, last in ends]


def _hooks(layer: nn.Module, made: list[Traced], ends: list[tuple[int, int]]) -> tuple[Any, Any]:
    return (
        layer.register_forward_pre_hook(lambda *_: ends.append((len(made), 0))),
        layer.register_forward_hook(lambda *_: ends.append((ends.pop()[0], len(made)))),
    )


def _class(layer: nn.Module) -> str:
    """The class of a layer and those of its parts that make the difference: `Layer(CsaAttention, Moe)`."""
    package = type(layer).__module__
    slots = [type(m).__name__ for m in layer.children() if type(m).__module__ == package]
    return f"{type(layer).__name__}({', '.join(slots)})"
