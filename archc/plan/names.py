"""Python names from spec names."""

from __future__ import annotations

import keyword


def camel(name: str) -> str:
    """``hash_moe`` -> ``HashMoe``; always a name that Python takes for a class."""
    joined = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return joined if joined.isidentifier() and not keyword.iskeyword(joined) else f"Drawer{joined}"
