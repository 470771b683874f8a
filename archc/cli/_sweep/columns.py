"""The figures of a variant that a sweep shows, with their titles and units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from archc.cli._cost.units import bytes_text, count_text, flops_text, seconds_text
from archc.cost.sweep import Variant
from archc.record import dataclass

TITLES = {
    "params.total": "parameters",
    "params.active": "active",
    "flops.ideal.forward_per_token": "FLOPs a token",
    "flops.ideal.train_per_token": "training FLOPs a token",
    "kv_cache.bytes_per_token": "cache a token",
    "kv_cache.bytes_total": "cache",
    "memory.per_device.total": "memory of a device",
    "time.total_s": "time of a step",
    "time.tokens_per_s": "tokens/s",
}

PLAIN = ("params.total", "params.active", "flops.ideal.forward_per_token", "kv_cache.bytes_per_token")
"""What every sweep shows."""

DEEP = ("memory.per_device.total", "time.total_s", "time.tokens_per_s")
"""What a sweep on hardware shows too."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A figure to be small, or large."""

    key: str
    largest: bool = False

    def value(self, variant: Variant) -> float:
        """The figure, so that less is better."""
        found = figure(variant, self.key)
        return -found if self.largest else found


def figure(variant: Variant, key: str) -> Any:
    """The figure or param of a variant at a key. Raises KeyError with the keys there are."""
    if key in variant.values:
        return variant.values[key]
    assert variant.report is not None
    found = variant.report.value(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise KeyError(key, tuple(f"{key}.{k}" for k in found) if isinstance(found, dict) else ())
    return found


def title(key: str) -> str:
    """What a figure is called."""
    return TITLES.get(key, key)


def text(key: str, value: Any) -> str:
    """A figure with its unit."""
    return _unit(key)(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _unit(key: str) -> Callable[[Any], str]:
    section, _, rest = key.partition(".")
    if section == "params":
        return count_text
    if section == "flops":
        return flops_text
    if section in ("kv_cache", "memory"):
        return bytes_text
    if rest.endswith("_s") and "per_s" not in rest:
        return seconds_text
    if rest.endswith("per_s"):
        return count_text
    return lambda v: f"{v:,}"


def keys_of(sections: Sequence[str], further: Sequence[str], params: Sequence[str]) -> list[str]:
    """The keys of the columns after the params; ``sections`` of a report beyond the plain ones."""
    every = [*PLAIN, *(key for key in DEEP if key.partition(".")[0] in sections), *further]
    return [key for key in dict.fromkeys(every) if key not in params]
