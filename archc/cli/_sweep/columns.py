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

RESIDUAL, RELATIVE = "residual", ".relative"
"""What the keys of residuals begin with, and end with where they are shares: ``residual.experts.relative``."""

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
    section, _, rest = key.partition(".")
    if section == RESIDUAL:
        solved = next((s for s in variant.solved if s.solve.param == rest.removesuffix(RELATIVE)), None)
        if solved is None:
            raise KeyError(key, tuple(f"{RESIDUAL}.{s.solve.param}" for s in variant.solved))
        return solved.relative if rest.endswith(RELATIVE) else solved.residual
    assert variant.report is not None
    found = variant.report.value(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise KeyError(key, tuple(f"{key}.{k}" for k in found) if isinstance(found, dict) else ())
    return found


def title(key: str) -> str:
    """What a figure is called."""
    section, _, rest = key.partition(".")
    if section == RESIDUAL:
        return f"{'relative ' if is_share(key) else ''}residual of {rest.removesuffix(RELATIVE)}"
    return TITLES.get(key, key)


def is_share(key: str) -> bool:
    """Whether a key asks for a residual as a share of the right side."""
    return key.partition(".")[0] == RESIDUAL and key.endswith(RELATIVE)


def text(key: str, value: Any) -> str:
    """A figure with its unit."""
    return _unit(key)(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def shown(variant: Variant, key: str) -> str:
    """The figure of a variant at a key with its unit; a residual in that of what is solved for, with its share."""
    value = figure(variant, key)
    section, _, param = key.partition(".")
    if section != RESIDUAL or is_share(key):
        return text(key, value)
    solved = next(s for s in variant.solved if s.solve.param == param)
    sign = "-" if value < 0 else "+" if value > 0 else ""
    return f"{sign}{text(solved.solve.cost, abs(value))} ({text(key + RELATIVE, solved.relative)})"


def _unit(key: str) -> Callable[[Any], str]:
    section, _, rest = key.partition(".")
    if is_share(key):
        return lambda v: f"{100 * v:+.2g} %" if v else "0 %"
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


def keys_of(
    sections: Sequence[str], further: Sequence[str], params: Sequence[str], solved: Sequence[str] = ()
) -> list[str]:
    """The keys of the columns after the params.

    ``sections`` of a report are those beyond the plain ones, ``solved`` are params that were solved for.
    """
    residuals = [f"{RESIDUAL}.{param}{end}" for param in solved for end in ("", RELATIVE)]
    every = [*PLAIN, *(key for key in DEEP if key.partition(".")[0] in sections), *residuals, *further]
    return [key for key in dict.fromkeys(every) if key not in params]
