"""Runs a graph node by node, each by its reference: the third witness beside the emitted module and public models.

Nothing of the printer is used: no variable names, no inlining, no classes, no loop. Only an op's own printed form is
shared, evaluated over the values of its operands.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any

from archc.graph.torch_package import torch_package
from archc.graph.value import Graph, Node, Scope, Stack, Value

if TYPE_CHECKING:
    from torch import Tensor


class Interpreter:
    """A graph with parameters, ready to run.

    ``parameters`` maps full names to tensors; their dtype decides the precision (float64 tensors give a float64 run).
    """

    def __init__(self, graph: Graph, parameters: Mapping[str, Tensor]) -> None:
        self.graph, self.parameters = graph, parameters
        self.step: Any = None
        """What the effects of the last run left: its losses and loads."""
        self.index_stage = "sparse"
        """How losses of indexers are computed in runs without a cache, as by a package's model."""
        package = torch_package().__name__
        self.names: dict[str, Any] = {}
        for op in {type(node.op) for node, _ in graph.walk()}:
            for name, module in op.needs.items():
                self.names[name] = _import(package, name, module)
        self._code: dict[Node, tuple[CodeType, list[str]]] = {}

    def new_cache(
        self, batch: int, max_tokens: int, max_rewind: int = 8, dtype: Any = None, layout: str | None = None
    ) -> Any:
        """A cache of the graph's state, as a package would allocate it; stores are packed that know the ``layout``."""
        package = torch_package().__name__
        runtime = import_module(f"{package}.runtime.cache")
        stores, packings = (import_module(f"{package}.kernels.{name}") for name in ("state", "packed_rows"))
        names = vars(stores) | vars(packings)
        layers: dict[int, dict[str, Any]] = {}
        for layer, name, store in self.graph.states():
            layers.setdefault(layer, {})[name] = eval(ast.unparse(store.code()), names)
        keeps = [layers.get(i, {}) for i in range(max(layers, default=-1) + 1)]
        first = next(iter(self.parameters.values()))
        dtype = dtype or first.dtype
        return runtime.Cache(keeps, batch, max_tokens, max_rewind, dtype=dtype, device=first.device, layout=layout)

    def run(self, tokens: Tensor, time: Any, cache: Any = None) -> list[Any]:
        """The root's results for ``tokens`` [B, S] at ``time`` (the runtime's `Time`), padded as inside a package."""
        values: dict[Value, Any] = {}
        self._begin(tokens, time, cache)
        self._items(self.graph.steps, values, "", None)
        self._items(self.graph.root, values, "", cache)
        return [self._value(v, values, "", None) for v in self.graph.root.returns]

    def call(
        self, scope: Scope, arguments: list[Any], tokens: Tensor, time: Any, state: Any = None, prefix: str = ""
    ) -> list[Any]:
        """The results of one scope for given arguments; ``state`` holds its stores, ``prefix`` leads names."""
        values: dict[Value, Any] = dict(zip(scope.args, arguments, strict=True))
        self._begin(tokens, time, None)
        self._items(self.graph.steps, values, "", None)
        self._items(scope, values, prefix, state)
        return [self._value(v, values, prefix, state) for v in scope.returns]

    def ahead(self, depth: int, carried: Tensor, tokens: Tensor, time: Any, state: Any = None) -> list[Any]:
        """What MTP module ``depth`` makes of what the one before carried on and the tokens [B, S] ahead of it.

        Returns what the head gets, what is carried on, and logits; ``time`` is that of the columns, ``state`` holds its
        stores.
        """
        scope = self.graph.predictions()[depth]
        values: dict[Value, Any] = {p.value: self.parameters[p.name] for p in self.graph.parameters()}
        values[scope.args[0]] = carried
        self._begin(tokens, time, None)
        self._items(self.graph.steps, values, "", None)
        self._items(scope, values, f"{scope.name}.", state)
        return [self._value(v, values, "", None) for v in scope.returns]

    def _begin(self, tokens: Tensor, time: Any, cache: Any) -> None:
        """What nodes read, and what their effects go to, in this run."""
        step, effects = (import_module(f"{torch_package().__name__}.runtime.{name}") for name in ("step", "effects"))
        stage = self.index_stage if cache is None else "off"
        left = effects.Effects(learning=True, counting=True, graded=False, index_stage=stage)
        self.step = step.StepBase(tokens=tokens, time=time, cache=cache, effects=left)
        self.names.update(tokens=tokens, time=time, step=self.step)

    def _items(self, scope: Scope, values: dict[Value, Any], prefix: str, state: Any) -> None:
        for value in scope.params:
            assert value.param is not None
            values[value] = self.parameters[prefix + value.param.name]
        for item in scope.items:
            if isinstance(item, Node):
                self._node(item, values, prefix, state)
            elif isinstance(item, Scope):
                if not item.ahead:
                    self._items(item, values, f"{prefix}{item.name}.", state)
            else:
                self._stack(item, values, prefix, state)

    def _stack(self, stack: Stack, values: dict[Value, Any], prefix: str, cache: Any) -> None:
        state = [values[v] for v in stack.args]
        kept = () if cache is None else cache.layers
        for layer, index in enumerate(stack.schedule):
            kind = stack.kinds[index]
            values.update(zip(kind.args, state, strict=True))
            keeps = layer < len(kept)  # layers after the last with a state have no entry
            self._items(kind, values, f"{prefix}{stack.name}.{layer}.", kept[layer] if keeps else None)
            state = [values[v] for v in kind.returns]
        values.update(zip(stack.outs, state, strict=True))

    def _node(self, node: Node, values: dict[Value, Any], prefix: str, state: Any) -> None:
        operands = [self._value(v, values, prefix, state) for v in node.ins]
        if node not in self._code:
            names = [f"_{i}" for i in range(len(operands))]
            form = ast.Expression(node.op.code(*(ast.Name(id=n, ctx=ast.Load()) for n in names)))
            self._code[node] = compile(ast.fix_missing_locations(form), node.op.kind, "eval"), names
        code, names = self._code[node]
        result = eval(code, self.names | dict(zip(names, operands, strict=True)))
        if node.op.effect:
            return
        outs = result if len(node.outs) > 1 else (result,)
        for value, out in zip(node.outs, outs, strict=True):
            values[value] = out

    @staticmethod
    def _value(value: Value, values: dict[Value, Any], prefix: str, state: Any) -> Any:
        if value.state is not None:
            return None if state is None else getattr(state, value.state)
        return values[value]


def _import(package: str, name: str, module: str) -> Any:
    """What ``name`` means in a package where ``module`` defines it."""
    if module == "torch.nn.functional":
        return import_module(module)
    if module == "torch":
        torch = import_module("torch")
        return torch if name == "torch" else getattr(torch, name)
    return getattr(import_module(f"{package}.{module}"), name)
