"""One model of a report page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from archc.schema import Hardware, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model of the page, and what costs it.

    ``index`` is its place on the page. ``cost`` gives the report under the page's workload with some of ``mode``,
    ``batch``, ``seq`` and ``context`` changed, as plain data. ``options`` are the options of `archc cost` that give it.
    """

    index: int
    model: Model
    spec: str
    cost: Callable[..., dict[str, Any]]
    options: Mapping[str, str]
    hardware: Hardware | None = None
    _known: dict[tuple, dict[str, Any]] = field(default_factory=dict)

    def report(self, **changes: Any) -> dict[str, Any]:
        """The report under a workload, made once."""
        key = tuple(sorted(changes.items()))
        if key not in self._known:
            self._known[key] = self.cost(**changes)
        return self._known[key]

    def words(self, **changes: Any) -> str:
        """Options of `archc cost` for that report."""
        dropped = changes.get("mode") == "decode" and self.options["mode"] != "decode"
        lost = ("seq", "tokens", "price") if dropped else ()
        options = {name: value for name, value in self.options.items() if name not in lost}
        return " ".join(f"--{name} {value}" for name, value in {**options, **changes}.items())
