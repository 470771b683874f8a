"""How messages name things: suggestions and lists."""

from __future__ import annotations

from collections.abc import Iterable

from archc.diagnostics.suggest import closest


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """The `help:` text for a misspelt name; None when no candidate is near."""
    found = closest(name, [c for c in candidates if c != name])
    return f"did you mean `{found}`?" if found else None


def listed(names: Iterable[str], *, word: str = "and", limit: int = 12) -> str:
    """Names in backquotes as a person lists them: "`a`, `b` and `c`"."""
    quoted = [f"`{n}`" for n in names]
    if len(quoted) > limit:
        return ", ".join(quoted[:limit]) + f", and {len(quoted) - limit} more"
    if len(quoted) < 2:
        return "".join(quoted)
    return ", ".join(quoted[:-1]) + f" {word} {quoted[-1]}"


def article(word: str) -> str:
    """The article that the word wants, `a` or `an`; words without vowels are spelt out (an `mtp`)."""
    spelt = not set(word) & set("aeiouy")
    return "an" if word[:1] in ("aefhilmnorsx" if spelt else "aeiou") else "a"
