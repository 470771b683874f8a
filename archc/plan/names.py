"""Python names from spec names."""

from __future__ import annotations


def camel(name: str) -> str:
    """``hash_moe`` -> ``HashMoe``"""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
