"""A `config.json` as text: its values, and where each key stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Source, Span
from archc.record import dataclass
from archc.resolve.project import read

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A parsed config. ``spans`` maps keys, and keys of objects inside (`rope_scaling.factor`), to their places."""

    name: str
    """How messages call it: the path as the user wrote it."""
    values: dict[str, Any]
    spans: dict[str, Span] = field(default_factory=dict)


def open_config(path: Path, shown: str, sink: Sink) -> ConfigFile | None:
    """The config in a file; None, and an E0601 in ``sink``, where the file holds no JSON object."""
    try:
        text = read(path)
    except ValueError as error:
        sink.add(Diagnostic(code="E0601", message=f"cannot read `{shown}`: {error}"))
        return None
    return parse_config(text, shown, sink)


def parse_config(text: str, shown: str, sink: Sink) -> ConfigFile | None:
    """The config in a text; None, and an E0601 in ``sink``, where it is no JSON object."""
    source = Source(shown, text)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        span = _span(source, error.pos, min(error.pos + 1, len(text)))
        sink.add(Diagnostic(code="E0601", message=f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}", span=span))
        return None
    except RecursionError:
        sink.add(Diagnostic(code="E0601", message=f"`{shown}` is nested too deeply"))
        return None
    except ValueError as error:
        sink.add(Diagnostic(code="E0601", message=f"not JSON: {error}"))
        return None
    if not isinstance(values, dict):
        sink.add(
            Diagnostic(
                code="E0601", message="a config is a JSON object, `{ ... }`", span=_span(source, 0, min(1, len(text)))
            )
        )
        return None
    spans = {key: _span(source, start, end) for key, start, end in _keys(text, _skip(text, 0), "", depth=2)}
    return ConfigFile(name=shown, values=values, spans=spans)


def _keys(text: str, at: int, prefix: str, depth: int) -> Iterator[tuple[str, int, int]]:
    """The keys of the object at ``at``, dotted, with the offsets of their first character and one past the last.

    The text has been parsed before, so it is known to be well formed.
    """
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, end = _DECODER.raw_decode(text, at)
        yield prefix + key, at, end
        value = _skip(text, _skip(text, end) + 1)
        if text[value] == "{" and depth > 1:
            yield from _keys(text, value, f"{prefix}{key}.", depth - 1)
        at = _skip(text, _DECODER.raw_decode(text, value)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    """The offset of the first character from ``at`` on that is no white space."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _span(source: Source, start: int, end: int) -> Span:
    def place(offset: int) -> tuple[int, int]:
        return source.text.count("\n", 0, offset) + 1, offset - source.text.rfind("\n", 0, offset)

    return Span(source, *place(start), *place(end))
