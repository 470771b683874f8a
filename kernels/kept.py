"""Results that are kept where everything between them runs again in a backward pass.

Inside a region that keeps them (`Kept`), matrix products and fused attention are found where PyTorch dispatches them.
Functions with products inside say themselves what of them counts: ``kept(make, ...)`` is one result, whatever products
made it; in ``again(make, ...)`` they are small steps of something that is cheap to run again. Elsewhere both just call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

P = ParamSpec("P")
R = TypeVar("R")

_HERE = threading.local()

_NAMES = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_grouped_mm",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
PRODUCTS = frozenset(getattr(torch.ops.aten, name).default for name in _NAMES if hasattr(torch.ops.aten, name))
"""Operators whose results are kept."""


def kept(make: Callable[P, R], *operands: P.args, **settings: P.kwargs) -> R:
    """``make(*operands, **settings)``, of which a region keeps the result, and nothing that happens inside."""
    here = _region()
    return make(*operands, **settings) if here is None else here.result(partial(make, *operands, **settings))


def again(make: Callable[P, R], *operands: P.args, **settings: P.kwargs) -> R:
    """``make(*operands, **settings)``, of which a region keeps nothing."""
    here = _region()
    if here is None:
        return make(*operands, **settings)
    with here.closed():
        return make(*operands, **settings)


def _region() -> Kept | None:
    """The region that this thread is in."""
    return None if torch.compiler.is_compiling() else getattr(_HERE, "region", None)


class Kept:
    """The results of one run of a region, in order; when it runs again they stand in for what made them."""

    def __init__(self) -> None:
        self._results: list[Any] = []
        self.start(None)

    def start(self, first: int | None) -> None:
        """The region runs: again, and takes results from the `first` on, or for the first time."""
        self._next = first
        self._depth = 0  # of calls whose inside does not count

    def contexts(self) -> tuple[Any, Any]:
        """What to run the region in for the first time, and again."""
        return _Run(self, None), _Run(self, 0)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nothing inside is kept or given."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def result(self, make: Callable[[], Any]) -> Any:
        """What `make` makes: made and kept, or when the region runs again what was kept. RuntimeError where that was
        changed in place.
        """
        if self._depth:
            return make()
        if self._next is None:
            with self.closed():
                made = make()
            self._results.append(tree_map(_Held, made))
            return made
        if self._next == len(self._results):
            raise RuntimeError("a region that runs again for its gradient does more than it did at first")
        self._next += 1
        return tree_map(_Held.tensor, self._results[self._next - 1])


class _Held:
    """A tensor beside the graph that made it (else they would hold each other), or a value that is none."""

    def __init__(self, value: Any) -> None:
        self.value = _alias(value)
        self.version = value._version if isinstance(value, Tensor) else None  # noqa: SLF001 - has no other name

    def tensor(self) -> Any:
        """What is held, as a new tensor of the same memory."""
        if self.version is not None and self.value._version != self.version:  # noqa: SLF001
            raise RuntimeError("a result that was kept for the gradient has been changed in place")
        return _alias(self.value)


def _alias(value: Any) -> Any:
    """A tensor of the same memory without a graph, which counts changes in place with the first."""
    if not isinstance(value, Tensor):
        return value
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):  # noqa: SLF001
        return value.detach()


class _Run(TorchDispatchMode):
    """One run of a region, where the results of products are kept, or given back. It may be entered any number of
    times.
    """

    def __init__(self, region: Kept, first: int | None) -> None:
        super().__init__()
        self.region, self.first = region, first
        self.outer: list[Kept | None] = []

    def __enter__(self) -> Any:
        self.outer.append(getattr(_HERE, "region", None))
        _HERE.region = self.region
        self.region.start(self.first)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        _HERE.region = self.outer.pop()
        super().__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        make = partial(func, *args, **(kwargs or {}))
        return self.region.result(make) if func in PRODUCTS else make()
