"""The graph: values, the builder that drawers write in, and what checks and runs it."""

from archc.graph.builder import Builder, BuildError
from archc.graph.value import Graph, Node, Parameter, Scope, Stack, Value

__all__ = ["BuildError", "Builder", "Graph", "Node", "Parameter", "Scope", "Stack", "Value"]
