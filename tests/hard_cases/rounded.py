"""A model whose keys are rounded as a narrow cache rounds them, without that cache: what such a cache is held to."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


class Rounded:
    """A model with caches of a layout, which without a cache rounds all that it would keep as they do."""

    def __init__(self, model: Any, package: ModuleType, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
        self.model, self.patch, self.layout = model, monkeypatch, layout
        self.modules = {name: sys.modules[f"{package.__name__}.{name}"] for name in ("model", "runtime.step")}
        self.keeps: dict[int, dict[str, Any]] = {}
        for module in model.modules():
            if getattr(module, "keeps", None):
                self.keeps.setdefault(module.layer, {}).update(module.keeps)

    def new_cache(self, *sizes: int, **given: Any) -> Any:
        return self.model.new_cache(*sizes, layout=self.layout, **given)

    def __call__(self, ids: Tensor, cache: Any = None, **given: Any) -> Any:
        if cache is not None:
            return self.model(ids, cache=cache, **given)
        with self.patch.context() as patch:
            state = lambda step, layer: SimpleNamespace(**self.keeps[layer])  # noqa: E731
            patch.setattr(self.modules["runtime.step"].StepBase, "state", state)
            for name in ("recall", "append"):
                patch.setattr(self.modules["model"], name, lambda x, store, time, **_: kept(x, store, self.layout))
            return self.model(ids, **given)


def kept(x: Tensor, store: Any, layout: str) -> Tensor:
    """x as a cache of a layout would return it of a store that is declared so."""
    if store.packing is None or store.packing.layout != layout:
        return x.to(torch.bfloat16).to(x.dtype)
    return store.packing.decode(store.packing.encode(x), x.shape[-1], x.dtype)
