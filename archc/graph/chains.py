"""Chains of what can run as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def chains(items: Sequence[T], before: Callable[[T], Iterable[T]], joins: Callable[[T], bool]) -> list[list[T]]:
    """The items in groups, in an order in which these can run, each as early as it can.

    ``before(item)`` are those of the items that it waits for. Items that `joins` are in one group if one waits for the
    other and nothing else need run in between; others are alone.
    """
    depth: dict[T, int] = {}
    chain: dict[T, T] = {}

    def depth_of(item: T) -> int:
        """How many groups must run before it: equal for what can run together, so groups never wait in a circle."""
        if item not in depth:
            mine = joins(item)
            depth[item] = max((depth_of(p) + (not (mine and joins(p))) for p in before(item)), default=0)
        return depth[item]

    def head(item: T) -> T:
        while chain.get(item, item) is not item:
            item = chain[item]
        return item

    for item in items:
        for other in before(item):
            if joins(item) and joins(other) and depth_of(item) == depth_of(other):
                chain[head(item)] = head(other)
    groups: dict[T, list[T]] = {}
    for item in items:
        groups.setdefault(head(item), []).append(item)
    return sorted(groups.values(), key=lambda group: depth_of(group[0]))
