"""What runs a function that stands for several ops: their reference in PyTorch, or one generated kernel for all.

A file of generated kernels says what lies in memory (`Array`), and makes a `Fused` of its reference and its kernels.
That runs a kernel where one can (`dispatch`): Triton, or C++ for float32 and bfloat16 tensors on the CPU. Else the
reference runs: for other dtypes, under autocast, for subclasses of tensors, and where functions are transformed (vmap).

With a gradient, kernels run in an autograd function that keeps what the kernel of the gradient takes. Under
``torch.compile`` they are operators ``<package>::<name>_forward`` and ``<name>_backward``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from . import native
from .dispatch import chosen, use_triton
from .library import NAMESPACE, on_device

if TYPE_CHECKING:
    import ctypes

Tensors = Sequence[Tensor]
Launcher = Callable[..., Any]

ACTS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
"""What C++ calls the dtypes of activations that it knows."""

PLAIN = frozenset((Tensor, nn.Parameter, nn.Buffer))


class Array(NamedTuple):
    """What lies in memory without gaps: [tokens, *dims], or [*dims] where there is one for all tokens."""

    dims: tuple[int, ...]
    act: bool
    """Whether it is stored in the dtype of activations; else in float32."""
    once: bool = False
    """Whether there is one for all tokens: a parameter."""
    shared: int = 1
    """How many tokens one after the other have one of it in common."""
    shape: tuple[int, ...] | None = None
    """Its dims in the tensor, where they are not these."""

    def dtype(self, act: torch.dtype) -> torch.dtype:
        """Its dtype where activations are of this one."""
        return act if self.act else torch.float32

    def empty(self, lead: Sequence[int], like: Tensor, act: torch.dtype) -> Tensor:
        """A new tensor of it, with tokens in these dims."""
        return like.new_empty((*lead, *(self.shape or self.dims)), dtype=self.dtype(act))

    def gradient(self, lead: Sequence[int], like: Tensor, act: torch.dtype) -> Tensor:
        """A new tensor for its gradient: zeros in float32 where that is a sum over tokens."""
        if self.once:
            return like.new_zeros(self.shape or self.dims, dtype=torch.float32)
        return self.empty(lead, like, act)


def act(*dims: int, **more: Any) -> Array:
    """An array in the dtype of activations."""
    return Array(dims, True, **more)


def fp32(*dims: int, **more: Any) -> Array:
    """An array in float32."""
    return Array(dims, False, **more)


class Fused:
    """A function of tensors.

    ``takes`` and ``gives`` are its arrays by name, in order; tokens are the first ``lead`` dims of the take ``tokens``.
    ``saved`` are what its kernel gives in training beside. The kernel of the gradient takes ``backward``: takes, gives,
    what is saved, and ``grad_<give>``; it gives the gradients of ``learns``, takes, in float32 where that is a sum over
    tokens. Without one the reference runs where a gradient is wanted.

    ``cpp`` is a file with a function called as this, with <name>_training where something is saved, and with
    <name>_backward; they take and give pointers in these orders, then the number of tokens, and add to what memory of
    sums over tokens holds. ``triton`` launches the kernels of training, and of the gradient: on tensors [tokens, *dims]
    in these orders.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        *,
        lead: int,
        tokens: str,
        takes: Mapping[str, Array],
        gives: Mapping[str, Array],
        saved: Mapping[str, Array] = MappingProxyType({}),
        backward: Sequence[str] = (),
        learns: Sequence[str] = (),
        cpp: Path | None = None,
        triton: Sequence[Launcher] = (),
    ) -> None:
        self.name, self.reference, self.cpp, self.triton = name, reference, cpp, triton
        self.takes, self.gives = list(takes.values()), list(gives.values())
        self.made = [*self.gives, *saved.values()]
        self.lead, self.first = lead, list(takes).index(tokens)
        self.dtypes = {
            tuple(a.dtype(dtype) for a in self.takes): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)
        }
        self.learned = [list(takes).index(n) for n in learns]
        # Where the kernel of the gradient finds what it takes: among takes, gives and saved, then among the gradients
        places, grads = [*takes, *gives, *saved], [f"grad_{n}" for n in gives]
        self.kept = [places.index(n) for n in backward if n in places]
        self.upstream = [grads.index(n) for n in backward if n in grads]
        every = [*self.takes, *self.made]
        self.read = [*(every[i] for i in self.kept), *(self.gives[i] for i in self.upstream)]
        self.runners: dict[tuple[str, torch.dtype], Runner | None] = {}
        self.key = f"{NAMESPACE}::{name}"
        self.operator = _operator(self, list(takes))
        _KNOWN[self.key] = self

    def __call__(self, *takes: Tensor) -> Any:
        """Its gives of its takes: one tensor, or several."""
        dtype = self.dtypes.get(tuple([x.dtype for x in takes]))
        kind = None if dtype is None else self.kind(takes, dtype)
        if dtype is None or kind is None:
            return self.reference(*takes)
        graded = torch.is_grad_enabled() and True in [x.requires_grad for x in takes]
        if torch.compiler.is_compiling():
            if not _ready(self.key, kind, dtype, graded):
                return self.reference(*takes)
            made = self.operator(*takes, kind)
            return tuple(made[: len(self.gives)]) if len(self.gives) > 1 else made[0]
        runner = self.runner(kind, dtype)
        if runner is None or (graded and not runner.learns):
            return self.reference(*takes)
        if not PLAIN.issuperset(map(type, takes)) or _transformed():
            return self.reference(*takes)
        made = Step.apply(self, runner, *takes) if graded else runner.forward(takes)
        return made if len(self.gives) > 1 else made[0]

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
            made: Runner | None = Launched(self, dtype)
            if kind == "cpp":
                assert self.cpp is not None
                library = native.load(self.cpp.read_text(encoding="utf-8"), self.name, f"-DACT={ACTS[dtype]}")
                made = None if library is None else Native(self, dtype, library)
            self.runners[kind, dtype] = made
        return self.runners[kind, dtype]


_KNOWN: dict[str, Fused] = {}

_transformed = torch._C._are_functorch_transforms_active  # noqa: SLF001 - has no other name


@torch.compiler.assume_constant_result
def _ready(key: str, kind: str, dtype: torch.dtype, graded: bool) -> bool:
    """Whether kernels run, which are compiled now if need be: a compiler of PyTorch does not look into that."""
    runner = _KNOWN[key].runner(kind, dtype)
    return runner is not None and (runner.learns or not graded)


class Runner:
    """The kernels of a function, for one dtype of activations."""

    learns: bool
    """Whether there is a kernel of the gradient."""

    def __init__(self, fused: Fused, dtype: torch.dtype) -> None:
        self.fused, self.dtype = fused, dtype

    def forward(self, takes: Tensors) -> Tensors:
        """The gives."""
        raise NotImplementedError

    def training(self, takes: Tensors) -> Tensors:
        """The gives, and what is saved for the gradient."""
        raise NotImplementedError

    def backward(self, read: Tensors) -> list[Tensor]:
        """The gradients, each in the dtype of what it is the gradient of."""
        raise NotImplementedError


class Native(Runner):
    """Kernels in C++."""

    def __init__(self, fused: Fused, dtype: torch.dtype, library: ctypes.CDLL) -> None:
        super().__init__(fused, dtype)
        takes, gives, made = len(fused.takes), len(fused.gives), len(fused.made)
        self.learns = bool(fused.learned)
        self._forward = self._training = native.function(library, fused.name, takes + gives)
        if made > gives:
            self._training = native.function(library, f"{fused.name}_training", takes + made)
        if self.learns:
            self._backward = native.function(library, f"{fused.name}_backward", len(fused.read) + len(fused.learned))
        self._shapes = [(a.shape or a.dims, a.dtype(dtype)) for a in fused.made]
        self._gives = self._shapes[:gives]
        self._first, self._lead, self._size = fused.first, fused.lead, math.prod(fused.takes[fused.first].dims)

    def forward(self, takes: Tensors) -> Tensors:
        return self._run(self._forward, takes, self._gives)

    def training(self, takes: Tensors) -> Tensors:
        return self._run(self._training, takes, self._shapes)

    def _run(self, function: Any, takes: Tensors, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> Tensors:
        takes = [x.contiguous() for x in takes]
        first = takes[self._first]
        lead = first.shape[: self._lead]
        made = [first.new_empty((*lead, *dims), dtype=dtype) for dims, dtype in shapes]
        function(*[x.data_ptr() for x in (*takes, *made)], first.numel() // self._size)
        return made

    def backward(self, read: Tensors) -> list[Tensor]:
        lead = _lead(self.fused, read)
        learned = [self.fused.takes[i] for i in self.fused.learned]
        made = [a.gradient(lead, read[0], self.dtype) for a in learned]
        read = [x.contiguous() for x in read]
        self._backward(*[x.data_ptr() for x in (*read, *made)], math.prod(lead))
        return [x.to(a.dtype(self.dtype)) for a, x in zip(learned, made, strict=True)]


class Launched(Runner):
    """Kernels in Triton."""

    def __init__(self, fused: Fused, dtype: torch.dtype) -> None:
        super().__init__(fused, dtype)
        self.learns = len(fused.triton) > 1

    def forward(self, takes: Tensors) -> Tensors:
        return self.training(takes)[: len(self.fused.gives)]

    def training(self, takes: Tensors) -> Tensors:
        fused, lead = self.fused, takes[self.fused.first].shape[: self.fused.lead]
        if not math.prod(lead):
            return [a.empty(lead, takes[0], self.dtype) for a in fused.made]
        made = self._launched(0, fused.takes, takes, lead)
        return [x.view(*lead, *(a.shape or a.dims)) for a, x in zip(fused.made, made, strict=True)]

    def backward(self, read: Tensors) -> list[Tensor]:
        lead = _lead(self.fused, read)
        learned = [self.fused.takes[i] for i in self.fused.learned]
        if not math.prod(lead):
            made = [a.gradient(lead, read[0], self.dtype) for a in learned]
        else:
            made = self._launched(1, self.fused.read, read, lead)
        shapes = [(*(() if a.once else lead), *(a.shape or a.dims)) for a in learned]
        return [x.view(s).to(a.dtype(self.dtype)) for a, s, x in zip(learned, shapes, made, strict=True)]

    def _launched(self, which: int, arrays: Sequence[Array], tensors: Tensors, lead: Sequence[int]) -> Tensors:
        """What a launcher gives of tensors, laid out without gaps, their tokens in one dim."""
        tokens = math.prod(lead)
        laid = [
            x.contiguous().view(*(() if a.once else (tokens // a.shared,)), *a.dims)
            for a, x in zip(arrays, tensors, strict=True)
        ]
        with on_device(laid[0]):
            made = self.fused.triton[which](*laid)
        return (made,) if isinstance(made, Tensor) else made


def _lead(fused: Fused, read: Tensors) -> Sequence[int]:
    """The dims of tokens, of what the kernel of the gradient takes."""
    return next(x.shape[: fused.lead] for a, x in zip(fused.read, read, strict=True) if not a.once and a.shared == 1)


class Step(torch.autograd.Function):
    """A run of the kernels that has a gradient."""

    @staticmethod
    def forward(ctx: Any, fused: Fused, runner: Runner, *takes: Tensor) -> tuple[Tensor, ...]:
        made = runner.training(takes)
        every = (*takes, *made)
        ctx.save_for_backward(*[every[i] for i in fused.kept])
        ctx.fused, ctx.runner = fused, runner
        return tuple(made[: len(fused.gives)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        fused = ctx.fused
        if torch.is_grad_enabled():
            raise RuntimeError(f"the gradient of {fused.name} has no gradient of its own: set ARCHC_KERNELS=reference")
        found: list[Tensor | None] = [None] * (2 + len(fused.takes))
        made = ctx.runner.backward([*ctx.saved_tensors, *(grads[i] for i in fused.upstream)])
        for i, grad in zip(fused.learned, made, strict=True):
            found[2 + i] = grad if ctx.needs_input_grad[2 + i] else None
        return tuple(found)


def _operator(fused: Fused, takes: Sequence[str]) -> Any:
    """The function as an operator of PyTorch: takes and the kind of kernels to gives and what is saved."""

    def forward(*operands: Any) -> list[Tensor]:
        *given, kind = operands
        runner = fused.runner(kind, fused.dtypes[tuple(x.dtype for x in given)])
        assert runner is not None, f"{fused.name} was compiled with kernels that are gone"
        return list(runner.training(given))

    def forward_fake(*operands: Any) -> list[Tensor]:
        *given, _ = operands
        dtype, lead = fused.dtypes[tuple(x.dtype for x in given)], given[fused.first].shape[: fused.lead]
        return [a.empty(lead, given[0], dtype) for a in fused.made]

    def backward(read: list[Tensor], kind: str, dtype: torch.dtype) -> list[Tensor]:
        runner = fused.runner(kind, dtype)
        assert runner is not None, f"{fused.name} was compiled with kernels that are gone"
        return runner.backward(read)

    def backward_fake(read: list[Tensor], kind: str, dtype: torch.dtype) -> list[Tensor]:
        lead = _lead(fused, read)
        return [fused.takes[i].gradient(lead, read[0], dtype).to(fused.takes[i].dtype(dtype)) for i in fused.learned]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        *given, ctx.kind = inputs
        every = (*given, *output)
        ctx.save_for_backward(*[every[i] for i in fused.kept])
        ctx.dtype = fused.dtypes[tuple(x.dtype for x in given)]

    def gradient(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None] * (len(fused.takes) + 1)
        made = backward_op([*ctx.saved_tensors, *(grads[i] for i in fused.upstream)], ctx.kind, ctx.dtype)
        for i, grad in zip(fused.learned, made, strict=True):
            found[i] = grad
        return tuple(found)

    schema = f"({', '.join(f'Tensor {n}' for n in takes)}, str kind) -> Tensor[]"
    op = torch.library.custom_op(f"{fused.key}_forward", forward, mutates_args=(), schema=schema)
    op.register_fake(forward_fake)
    schema = "(Tensor[] read, str kind, ScalarType dtype) -> Tensor[]"
    backward_op = torch.library.custom_op(f"{fused.key}_backward", backward, mutates_args=(), schema=schema)
    backward_op.register_fake(backward_fake)
    op.register_autograd(gradient, setup_context=setup)
    return op
