"""What an op is: its parameters, shape rule, cost rule and printed form, all torch-free.

An op is one equation of a paper (a linear map, a norm, an attention over given keys). Its *reference* is what its
printed form says: the expression is printed into a package's `model.py`, and evaluated by the graph interpreter.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from archc.record import Record, dataclass

if TYPE_CHECKING:
    from archc.ops.calls import Calls
    from archc.ops.tape import Tape

DType = Literal["act", "fp32", "int", "bool", "none"]
"""`act` is the activation dtype of the model; `fp32` an island that keeps at least float32; `none` is not a tensor."""


# --- sizes ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a forward is asked to do: ``batch`` rows of ``new`` tokens, after ``past`` ones if there is a cache.

    ``act`` is the size of an activation's element in bytes, ``layout`` how the cache is stored (its drawer's kind).
    """

    batch: int
    new: int
    past: int = 0
    cached: bool = False
    act: int = 2
    layout: str = "bf16"

    @property
    def total(self) -> int:
        """Tokens of a row so far, the new ones included."""
        return self.past + self.new


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that depends on the workload. Sizes of equal ``name`` are equal; ``+ - * //`` give new ones."""

    name: str
    value: Callable[[Workload], int] = field(compare=False, repr=False)

    def _with(self, op: str, other: Size, apply: Callable[[int, int], int], *, flip: bool = False) -> Dim:
        left, right = (other, self) if flip else (self, other)
        names = [str(left), str(right)]
        if op in "*//":
            names = [f"({n})" if any(sign in n for sign in "+- /") else n for n in names]
        return Dim(op.join(names), lambda w: apply(size(left, w), size(right, w)))

    def __add__(self, other: Size) -> Dim:
        return self._with("+", other, lambda a, b: a + b)

    def __radd__(self, other: Size) -> Dim:
        return self._with("+", other, lambda a, b: a + b, flip=True)

    def __sub__(self, other: Size) -> Dim:
        return self._with("-", other, lambda a, b: a - b)

    def __mul__(self, other: Size) -> Dim:
        return self._with("*", other, lambda a, b: a * b)

    def __rmul__(self, other: Size) -> Dim:
        return self._with("*", other, lambda a, b: a * b, flip=True)

    def __floordiv__(self, other: Size) -> Dim:
        return self if other == 1 else self._with("//", other, lambda a, b: a // b)

    def __str__(self) -> str:
        return self.name


Size = int | Dim
Shape = tuple[Size, ...]

B = Dim("B", lambda w: w.batch)
S = Dim("S", lambda w: w.new)
T = Dim("T", lambda w: w.total)


def size(dim: Size, w: Workload) -> int:
    """The value of a size under a workload."""
    return dim if isinstance(dim, int) else dim.value(w)


def numel(shape: Shape, w: Workload) -> int:
    """The number of elements of a shape under a workload."""
    return math.prod(size(dim, w) for dim in shape)


def element(dtype: DType, w: Workload) -> int:
    """Bytes of an element: activations are as wide as the workload says, islands at least float32."""
    return w.act if dtype == "act" else max(4, w.act) if dtype == "fp32" else BYTES[dtype]


class ShapeError(Exception):
    """A shape rule was broken. The builder adds the scope; the plan turns it into a diagnostic at the spec span."""


def need(ok: bool, message: str) -> None:
    """Raises `ShapeError` with ``message`` unless ``ok``."""
    if not ok:
        raise ShapeError(message)


@dataclass(frozen=True, slots=True)
class Type:
    """Shape and dtype of a value."""

    shape: Shape
    dtype: DType = "act"

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"

    @property
    def last(self) -> int:
        """The last dimension, which must be a plain number of channels."""
        return self.fixed(-1)

    def fixed(self, axis: int) -> int:
        """The size of an axis that must not depend on the workload. Raises `ShapeError`."""
        dim = self.shape[axis] if -len(self.shape) <= axis < len(self.shape) else None
        if not isinstance(dim, int):
            raise ShapeError(f"needs a fixed dimension {axis}, got {self}")
        return dim


def nbytes(t: Type, w: Workload) -> int:
    """Bytes of a value under a workload."""
    return numel(t.shape, w) * element(t.dtype, w)


def wider(*types: Type) -> DType:
    """The dtype of a result of float operands: float32 where one of them is."""
    return "fp32" if any(t.dtype == "fp32" for t in types) else "act"


# --- parameters ----------------------------------------------------------------------------------
Role = Literal[
    "embedding",
    "head",
    "matrix",
    "output",
    "experts",
    "router",
    "pool",
    "scorer",
    "merge",
    "norm",
    "bias",
    "scale",
    "table",
]
"""What a parameter is: decides initialisation, number format, optimizer group and placement.

`output` projects back to the stream; `router` scores experts; `pool` makes what a compressor pools, and its gates;
`scorer` weighs index heads; `merge` joins tokens ahead with the main model's state.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """A parameter that an op or a drawer declares.

    ``init`` is "normal" (with ``std`` from the spec's init drawer), "ones", "zeros", or the number that fills it; "eye"
    (the identity); "turn" (zeros and a one, at the module's layer, see `Scope.place`, modulo its length); for a table
    of ids "choices": distinct ids under ``below`` in each row, every id as often as any other; "wrapped": each
    number its own place, modulo ``below``.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "matrix"
    init: Literal["normal", "ones", "zeros", "eye", "turn", "choices", "wrapped"] | float = "normal"
    std: float | None = None
    below: int = 0
    dtype: DType = "act"
    buffer: bool = False
    share: tuple[int, int] = (1, 1)
    """Part of it that one token uses, as a fraction: (active, experts) for routed experts, rows of a table."""
    placement: Literal["device", "host", "disk"] = "device"
    """Where a table lies."""


# --- cost ----------------------------------------------------------------------------------------
BYTES: dict[DType, int] = {"act": 2, "fp32": 4, "int": 8, "bool": 1, "none": 0}
"""Bytes of an element while a model runs in bfloat16."""


TORCH_DTYPES: dict[DType, str] = {"fp32": "torch.float32", "int": "torch.int64", "bool": "torch.bool"}
"""How dtypes other than the activations' print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Work of one run of an op.

    ``executed``: FLOPs of the matrix products that the reference path really runs (2 per multiply-add). ``useful``:
    those the equation needs (causal: only visible pairs). ``backward``: executed FLOPs of its gradient, and
    ``useful_backward`` those that this needs: twice the forward's where left out. ``read`` and ``written`` in bytes.
    """

    executed: int = 0
    useful: int = 0
    backward: int = 0
    useful_backward: int | None = None
    read: int = 0
    written: int = 0


NOTHING = Cost()

# --- ops -----------------------------------------------------------------------------------------
OPS: dict[str, type[Op]] = {}


class Op(Record):
    """Base of every op: a frozen record whose annotated fields are its attributes.

    Subclasses register themselves under their snake-case name, which is how a drawer calls them: ``g.rms_norm(...)``.
    """

    kind: ClassVar[str]
    needs: ClassVar[dict[str, str]] = {}
    """Names its printed form uses, and the module of a package that defines them (``kernels.rotate``)."""
    view: ClassVar[bool] = False
    """Moves no data."""
    effect: ClassVar[bool] = False
    """Has no results: it leaves something in the step, and prints as a statement."""
    island: ClassVar[bool] = False
    """Wants its float operands in at least float32: the dtype pass inserts the casts."""
    lowers: ClassVar[bool] = False
    """Wants its float operands in the activation dtype: the dtype pass casts islands back before it."""
    uniform: ClassVar[bool] = False
    """Wants its float operands, parameters included, in one dtype: the dtype pass lifts all where one is float32."""

    constant: ClassVar[bool] = False
    """Its results have no gradient, whatever its operands have."""

    fused: ClassVar[Literal["", "attention", "index"]] = ""
    """One kernel of products between what tokens hold: attention, whose result [B, S, H, V] has heads, or scores of an
    index. Their format is the one that a precision names so.
    """

    varies: ClassVar[tuple[str, ...]] = ()
    """Fields that layers of one class may have other values of: the class takes them as arguments."""

    borrows: ClassVar[str] = ""
    """The op whose module computes just this with the module's own weight: on such a weight it prints as its call."""

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of its operands (values of a graph) whose gradient is more than zeros."""
        return ins

    def __init_subclass__(cls, *, abstract: bool = False, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        if not abstract:
            cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
            if cls.kind in OPS:
                raise TypeError(
                    f"two ops are called {cls.kind}: one in {OPS[cls.kind].__module__}, one in {cls.__module__}"
                )
            OPS[cls.kind] = cls

    def _label(self) -> str:
        return self.kind

    def params(self, name: str | None, *ins: Type) -> tuple[ParamSpec, ...]:
        """Parameters it declares; they become its last operands."""
        return ()

    def infer(self, *ins: Type) -> Type | tuple[Type, ...]:
        """Types of its results. Raises `ShapeError`."""
        return ins[0]

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        """(executed, useful, backward) FLOPs."""
        return 0, 0, 0

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """The part of each operand that it has to read: 1 but where it picks rows."""
        return (1.0,) * len(ins)

    def arithmetic(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """The FLOPs of its `cost`, without the bytes, which take longer to count than anything else."""
        found = self.flops(w, ins, outs)
        return Cost(executed=found[0], useful=found[1], backward=found[2]) if any(found) else NOTHING

    def cost(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """Work under a workload; by default what it needs of an operand is read once and every result written once."""
        done = self.arithmetic(w, ins, outs)
        if self.view:
            return done
        read = sum(round(s * nbytes(t, w)) for s, t in zip(self.shares(w, ins, outs), ins, strict=True))
        return replace(done, read=read, written=sum(nbytes(t, w) for t in outs))

    def run(self, t: Tape, *ins: Any) -> Any:
        """Its reference in training, without a cache, on tensors that have sizes but no numbers; operands that are
        none, and state, are None. NotImplementedError where an op does not say.
        """
        raise NotImplementedError

    def executes(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Calls:
        """Calls of tensor operations that its reference runs on a CPU in inference: what the function of its name in
        ``archc/ops/reference`` says; by default none for a view or an effect, else one call over all operands.
        """
        rule = _reference(type(self).__module__, self.kind)
        if rule is not None:
            return rule(self, w, ins, outs)
        if self.view or self.effect:
            return ()
        from archc.ops.calls import call

        read, written = (sum(nbytes(t, w) for t in ts) for ts in (ins, outs))
        return (call("map", read, written),) if read or written else ()

    def row(self, *ins: Type) -> bool:
        """Whether a token's result depends on that token alone, with weights that fit into a row-wise kernel."""
        return False

    def code(self, *ins: ast.expr) -> ast.expr:
        """The printed expression over its operands, parameters included."""
        raise NotImplementedError

    def module(self, *ins: Type) -> ast.expr | None:
        """The constructor of the submodule it prints as when it is named; None if it has none."""
        return None


def _reference(module: str, kind: str) -> Callable[..., Calls] | None:
    """The function in ``archc/ops/reference`` that says what an op's reference runs, if it has one."""
    family = module.rpartition(".")[2]
    try:
        found = import_module(f"archc.ops.reference.{family}")
    except ModuleNotFoundError:
        return None
    return getattr(found, kind, None)


# --- printed forms -------------------------------------------------------------------------------
@cache
def _parsed(template: str) -> ast.expr:
    return ast.parse(template, mode="eval").body


def expr(template: str, **values: Any) -> ast.expr:
    """A Python expression: ``template`` with the names given in ``values`` replaced by expressions or literals.

    ``expr("rms_norm(x, eps=eps)", x=operand, eps=1e-6)``; keyword arguments whose value is None or False disappear, and
    a starred name takes a list of expressions.
    """

    def build(node: Any) -> Any:
        if isinstance(node, ast.Name) and node.id in values:
            return literal(values[node.id])
        if isinstance(node, ast.Call):
            keywords = [k for k in node.keywords if not (_given(k.value) and _left_out(values[k.value.id]))]  # type: ignore[attr-defined]
            return ast.Call(
                func=build(node.func),
                args=many(node.args),
                keywords=[ast.keyword(arg=k.arg, value=build(k.value)) for k in keywords],
            )
        if isinstance(node, ast.List | ast.Tuple):
            return type(node)(elts=many(node.elts), ctx=node.ctx)
        if isinstance(node, ast.AST):
            return type(node)(**{name: build(value) for name, value in ast.iter_fields(node)})
        if isinstance(node, list):
            return [build(n) for n in node]
        return node

    def many(nodes: Iterable[ast.expr]) -> list[ast.expr]:
        out: list[ast.expr] = []
        for n in nodes:
            if isinstance(n, ast.Starred) and _given(n.value):
                out += [literal(v) for v in values[n.value.id]]  # type: ignore[attr-defined]
            elif _given(n) and values[n.id] is None:  # type: ignore[attr-defined]
                continue
            else:
                out.append(build(n))
        return out

    def _given(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in values

    return build(_parsed(template))


def _left_out(value: Any) -> bool:
    """Whether a keyword argument disappears: identity, because 0 equals False."""
    return value is None or value is False


def literal(value: Any) -> ast.expr:
    """The expression of a Python value; expressions stay as they are."""
    if isinstance(value, ast.expr):
        return value
    if isinstance(value, tuple):
        return ast.Tuple(elts=[literal(v) for v in value], ctx=ast.Load())
    if isinstance(value, list):
        return ast.List(elts=[literal(v) for v in value], ctx=ast.Load())
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=-value))
    return ast.Constant(value=value)
