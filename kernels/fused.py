"""What runs a function that stands for several ops: their reference in PyTorch, or one generated kernel for all.

A file of generated kernels says what lies in memory (`arrays`), and makes a `Fused` of its reference and its kernels.
That runs a kernel where one can (`dispatch`): Triton, or C++ for float32 and bfloat16 tensors on the CPU. Else the
reference runs: for other dtypes, under autocast, for subclasses of tensors, and where functions are transformed (vmap).

With a gradient, kernels run in an autograd function that keeps what the kernel of the gradient takes. Under
``torch.compile`` they are operators ``<package>::<name>_forward`` and ``<name>_backward``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from . import calls, native
from .arrays import Array, Layout, Tensors, act, fp32
from .dispatch import ACTS, chosen, use_triton, wants_cpp
from .library import in_a_name
from .runners import Launched, Launcher, Native, Runner

__all__ = ["Array", "Fused", "act", "fp32"]

PLAIN = frozenset((Tensor, nn.Parameter, nn.Buffer))


class Fused:
    """A function of tensors.

    ``takes`` and ``gives`` are its arrays by name, in order (`Layout`); a take that is None only the reference reads.
    ``saved`` are what its kernel gives in training beside. Without a gradient of takes (``backward``, ``learns``) the
    reference runs where one is wanted; that of a take may be that of another (``alike``).

    ``cpp`` is a file with a function called as this, with <name>_training where something is saved, and with
    <name>_backward; they take and give pointers in these orders, then the number of tokens, and add to what memory of
    sums over tokens holds. ``triton`` launches the kernels of training, and of the gradient: on tensors [tokens, *dims]
    in these orders. Gradients that are sums over tokens are float32 in C++, as what they are gradients of in Triton.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        *,
        lead: int,
        tokens: str,
        takes: Mapping[str, Array | None],
        gives: Mapping[str, Array],
        saved: Mapping[str, Array] = MappingProxyType({}),
        backward: Sequence[str] = (),
        learns: Sequence[str] = (),
        alike: Mapping[str, str] = MappingProxyType({}),
        cpp: Path | None = None,
        triton: Sequence[Launcher] = (),
    ) -> None:
        self.name, self.reference, self.cpp, self.triton = name, reference, cpp, triton
        read = {n: a for n, a in takes.items() if a is not None}
        self.passed = None if len(read) == len(takes) else [list(takes).index(n) for n in read]
        self.layout = Layout(lead, tokens, read, gives, saved, backward, learns, alike)
        self.runners: dict[tuple[str, torch.dtype], Runner | None] = {}
        self.calls: dict[torch.dtype, calls.Call] = {}
        self.places = self.passed or range(len(read))
        self.typical = self.places[next((i for i, a in enumerate(read.values()) if a.act), 0)]
        # Names of operators are global: two packages may have functions of one name, as may a model and its twin
        self.namespace = in_a_name(reference.__module__.rpartition(".")[0])
        self.key = f"{self.namespace}::{name}"
        self.operator = _operator(self)
        _KNOWN[self.key] = self

    def __call__(self, *operands: Tensor) -> Any:
        """Its gives of its takes: one tensor, or several."""
        if wants_cpp() and (call := self.calls.get(operands[self.typical].dtype)) is not None:
            given = call(*operands)
            if given is not None:
                return given
        takes = operands if self.passed is None else [operands[i] for i in self.passed]
        dtype = self.layout.dtypes.get(tuple([x.dtype for x in takes]))
        kind = None if dtype is None else self.kind(takes, dtype)
        if dtype is None or kind is None:
            return self.reference(*operands)
        graded = torch.is_grad_enabled() and True in [x.requires_grad for x in takes]
        if torch.compiler.is_compiling():
            if not _ready(self.key, kind, dtype, graded):
                return self.reference(*operands)
            several: list[Tensor] = self.operator(*takes, kind)[: len(self.layout.gives)]
            return tuple(several) if len(several) > 1 else several[0]
        runner = self.runners.get((kind, dtype)) or self.runner(kind, dtype)
        if runner is None or (graded and not runner.learns):
            return self.reference(*operands)
        if not PLAIN.issuperset(map(type, takes)) or _transformed():
            return self.reference(*operands)
        made: Any = Step.apply(self.layout, runner, *takes) if graded else runner.forward(takes)
        return made if len(made) > 1 else made[0]

    def kind(self, takes: Tensors, dtype: torch.dtype) -> str | None:
        """Which kernels these operands are for; None where they are for the reference."""
        mode = chosen()
        if mode == "cpp" and self.cpp is not None and dtype in ACTS and False not in [x.is_cpu for x in takes]:
            return None if torch.is_autocast_enabled("cpu") else "cpp"
        if mode == "reference" or not self.triton or not use_triton(*takes):
            return None
        return None if torch.is_autocast_enabled(takes[0].device.type) else "triton"

    def runner(self, kind: str, dtype: torch.dtype) -> Runner | None:
        """What runs kernels of a kind for activations of a dtype; None where that cannot be."""
        if (kind, dtype) not in self.runners:
            if kind == "cpp":
                _compile(self.namespace, dtype)
            else:
                self.runners[kind, dtype] = Launched(self.triton, self.layout, dtype)
        return self.runners[kind, dtype]

    def compile(self, dtype: torch.dtype) -> None:
        """Makes its C++ ready for activations of a dtype."""
        assert self.cpp is not None
        library = native.load(native.text(self.cpp), self.name, f"-DACT={ACTS[dtype]}")
        self.runners["cpp", dtype] = None if library is None else Native(self.name, self.layout, dtype, library)

    def connect(self, dtype: torch.dtype) -> None:
        """Has its C++ called without Python in between, where that can be."""
        runner = self.runners["cpp", dtype]
        call = calls.prepared(runner.address, self.layout, dtype, self.places) if isinstance(runner, Native) else None
        if call is not None:
            self.calls[dtype] = call


_KNOWN: dict[str, Fused] = {}


def _compile(namespace: str, dtype: torch.dtype) -> None:
    """Makes all C++ ready of the functions of a folder: a model that calls one calls most, and compilers run side by
    side.
    """
    waiting = [f for f in _KNOWN.values() if f.namespace == namespace and f.cpp and ("cpp", dtype) not in f.runners]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pool.submit(calls.module)
        list(pool.map(lambda fused: fused.compile(dtype), waiting))
    for fused in waiting:
        fused.connect(dtype)


_transformed = torch._C._are_functorch_transforms_active  # noqa: SLF001 - has no other name


@torch.compiler.assume_constant_result
def _ready(key: str, kind: str, dtype: torch.dtype, graded: bool) -> bool:
    """Whether kernels run, which are compiled now if need be: a compiler of PyTorch does not look into that."""
    runner = _KNOWN[key].runner(kind, dtype)
    return runner is not None and (runner.learns or not graded)


class Step(torch.autograd.Function):
    """A run of the kernels that has a gradient."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, runner: Runner, *takes: Tensor) -> tuple[Tensor, ...]:
        made = runner.training(takes)
        every = (*takes, *made)
        ctx.save_for_backward(*[every[i] for i in layout.kept])
        ctx.layout, ctx.runner = layout, runner
        return tuple(made[: len(layout.gives)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError("what runs as one kernel has no gradient of its gradient: set ARCHC_KERNELS=reference")
        layout: Layout = ctx.layout
        found: list[Tensor | None] = [None] * (2 + len(layout.takes))
        made = ctx.runner.backward([*ctx.saved_tensors, *(grads[i] for i in layout.upstream)])
        for i, at in layout.targets:
            found[2 + i] = made[at] if ctx.needs_input_grad[2 + i] else None
        return tuple(found)


def _operator(fused: Fused) -> Any:
    """The function as an operator of PyTorch: takes and the kind of kernels to gives and what is saved."""
    layout = fused.layout

    def runner(kind: str, dtype: torch.dtype) -> Runner:
        found = fused.runner(kind, dtype)
        assert found is not None, f"{fused.name} was compiled with kernels that are gone"
        return found

    def dtype_of(takes: Tensors) -> torch.dtype:
        return layout.dtypes[tuple(x.dtype for x in takes)]

    def forward(*operands: Any) -> list[Tensor]:
        *takes, kind = operands
        return list(runner(kind, dtype_of(takes)).training(takes))

    def forward_fake(*operands: Any) -> list[Tensor]:
        *takes, _ = operands
        return layout.given(takes, dtype_of(takes))

    def backward(read: list[Tensor], kind: str, dtype: torch.dtype) -> list[Tensor]:
        return runner(kind, dtype).backward(read)

    def backward_fake(read: list[Tensor], kind: str, dtype: torch.dtype) -> list[Tensor]:
        return layout.gradients(read, dtype)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        *takes, ctx.kind = inputs
        every = (*takes, *output)
        ctx.save_for_backward(*[every[i] for i in layout.kept])
        ctx.dtype = dtype_of(takes)

    def gradient(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None] * (len(layout.takes) + 1)
        made = backward_op([*ctx.saved_tensors, *(grads[i] for i in layout.upstream)], ctx.kind, ctx.dtype)
        for i, at in layout.targets:
            found[i] = made[at]
        return tuple(found)

    schema = f"({', '.join(f'Tensor {n}' for n in layout.names)}, str kind) -> Tensor[]"
    op = torch.library.custom_op(f"{fused.key}_forward", forward, mutates_args=(), schema=schema)
    op.register_fake(forward_fake)
    schema = "(Tensor[] read, str kind, ScalarType dtype) -> Tensor[]"
    backward_op = torch.library.custom_op(f"{fused.key}_backward", backward, mutates_args=(), schema=schema)
    backward_op.register_fake(backward_fake)
    op.register_autograd(gradient, setup_context=setup)
    return op
