"""What the stages before the parser need to know about tokens."""

from __future__ import annotations

from lark import Token

from archc.diagnostics import Source, Span

KEYWORDS = (
    "arch",
    "import",
    "as",
    "let",
    "param",
    "in",
    "check",
    "else",
    "solve",
    "for",
    "within",
    "extends",
    "at",
    "by",
    "and",
    "or",
    "not",
    "true",
    "false",
    "none",
)
"""Reserved words: none of them can name a field or a drawer."""

_OPENING = frozenset({"IMPORT", "LET", "PARAM", "CHECK", "SOLVE"})


def span_of(token: Token, source: Source) -> Span:
    """The span of a token."""
    return Span(source, token.line or 1, token.column or 1, token.end_line or 1, token.end_column or 1)


def after(previous: Token, token: Token) -> Token:
    """``token``, without width, placed at the end of ``previous``."""
    return Token(
        token.type,
        str(token),
        previous.end_pos,
        previous.end_line,
        previous.end_column,
        previous.end_line,
        previous.end_column,
        previous.end_pos,
    )


def starts_statement(tokens: list[Token], i: int) -> bool:
    """Whether what starts at ``i`` can only be a statement: `name =`, `a.b =`, `slot name =` or a keyword."""
    if tokens[i].type in _OPENING:
        return True
    if tokens[i].type != "NAME":
        return False
    types = [t.type for t in tokens[i : i + 3]]
    if types == ["NAME", "NAME", "EQUAL"]:
        return True
    while types[:2] == ["NAME", "DOT"]:
        i += 2
        types = [t.type for t in tokens[i : i + 3]]
    return types[:2] == ["NAME", "EQUAL"]


def starts_section(tokens: list[Token], i: int) -> bool:
    """Whether what starts at ``i`` reads like `name label {` or `a.b {`."""
    while tokens[i].type in ("NAME", "NUMBER", "STRING", "DOT") and i + 1 < len(tokens):
        i += 1
    return tokens[i].type == "LBRACE" and tokens[i - 1].type != "LBRACE"
