"""Figures with their units."""

from __future__ import annotations


def flops_text(n: float) -> str:
    """``28.5 GFLOP``"""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:,.2f} {unit}FLOP"
    return f"{n:,.0f} FLOP"


def seconds_text(n: float) -> str:
    """``19.9 ms``"""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n * 1e6:,.2f} us" if n else "0 s"


def count_text(n: float) -> str:
    """``2.66 M``"""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n:,.3g}"


def bytes_text(n: float) -> str:
    """``16.0 GiB``"""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n:,.0f} B"


def share_text(part: float) -> str:
    """``97.4 %``; what is there is never 0.0 %."""
    return f"{100 * part:.1f} %" if part >= 0.0005 else "< 0.1 %"
