"""Diagnostics for people: the message, the place, the line with a mark under it, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from archc.diagnostics.columns import window
from archc.diagnostics.diagnostic import Diagnostic
from archc.diagnostics.span import Span
from archc.record import dataclass

_STYLES = {"error": "1;31", "warning": "1;33", "note": "1;36", "bold": "1", "gutter": "1;34", "help": "1;36"}
WIDTH = 120


@dataclass(frozen=True, slots=True)
class _Paint:
    """Puts text in colour, or leaves it alone."""

    colour: bool

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and text else text


def render_text(diagnostics: Sequence[Diagnostic], *, colour: bool = False, width: int = WIDTH) -> str:
    """All diagnostics with their lines of source, a blank line between them; "" when there are none."""
    paint = _Paint(colour)
    return "\n".join(_one(d, paint, width) for d in diagnostics)


def _one(d: Diagnostic, paint: _Paint, width: int) -> str:
    places = [s for s in (d.span, d.context, *(r.span for r in d.related)) if s is not None]
    gutter = max((len(str(s.end_line)) for s in places), default=1)
    lines = [f"{paint(d.severity, f'{d.severity}[{d.code}]')}{paint('bold', f': {d.message}')}"]
    if d.span is not None:
        lines += _snippet(d.span, d.context, d.severity, gutter, paint, width)
    if d.help is not None:
        lines += _labelled("help", d.help, gutter, paint)
    for related in d.related:
        lines += _labelled("note", related.message, gutter, paint)
        lines += _snippet(related.span, None, "note", gutter, paint, width)
    return "\n".join(lines) + "\n"


def _labelled(label: str, text: str, gutter: int, paint: _Paint) -> list[str]:
    """`= help: text`, its further lines set in."""
    first, *rest = text.split("\n")
    bar = paint("gutter", " " * gutter + " =")
    return [f"{bar} {paint('help', label)}: {first}", *(" " * (gutter + 5 + len(label)) + line for line in rest)]


def _snippet(span: Span, context: Span | None, style: str, gutter: int, paint: _Paint, width: int) -> list[str]:
    """Where it is, and the lines it covers with a mark under them."""
    room = max(width - gutter - 3, 20)
    bar = paint("gutter", " " * gutter + " |")
    lines = [f"{paint('gutter', ' ' * gutter + '-->')} {span}", bar]
    if context is not None and context.source is span.source and context.line < span.line:
        lines.append(_source_line(context, context.line, gutter, paint, room))
        if context.line + 1 < span.line:
            lines.append(paint("gutter", "..."))
    for number in sorted({span.line, span.end_line}):
        if number == span.end_line > span.line + 1:
            lines.append(paint("gutter", "..."))
        text = _line(span, number)
        start = span.column - 1 if number == span.line else len(text) - len(text.lstrip())
        end = span.end_column - 1 if number == span.end_line else len(text.rstrip())
        shown = window(text, start, end, room)
        lines.append(f"{paint('gutter', f'{number:>{gutter}} |')} {shown.text}".rstrip())
        lines.append(f"{bar} {' ' * shown.start}{paint(style, '^' * shown.length)}")
    return lines


def _source_line(span: Span, number: int, gutter: int, paint: _Paint, room: int) -> str:
    text = _line(span, number)
    return f"{paint('gutter', f'{number:>{gutter}} |')} {window(text, 0, 0, room).text}".rstrip()


def _line(span: Span, number: int) -> str:
    lines = span.source.lines
    return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""
