"""The formatter: works on tokens and can only change the white space between them, so it cannot lose a comment.

Kept as written: line breaks, single blank lines, line endings (CRLF or LF), comments. Decided here: indentation by two,
spaces around operators, `=` in one column over neighbouring fields of one line, trailing comments in one column, one
newline at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token

from archc.diagnostics import Sink, Source
from archc.record import dataclass
from archc.syntax.brackets import CLOSERS, OPENERS
from archc.syntax.parser import parse, tokenize

_INDENT = "  "
_BEFORE_OPERAND = frozenset({"SIGN", "TIMES", "COMPARE", "EQUAL", "COMMA", "RANGE", *OPENERS})
_KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "AT", "BY", "ELSE", "CHECK", "FOR", "WITHIN"})
_TIGHT_BEFORE = frozenset({"COMMA", "RPAR", "RSQB", "DOT", "RANGE"})
_TIGHT_AFTER = frozenset({"LPAR", "LSQB", "DOT", "RANGE"})


def format_text(text: str, name: str = "<text>") -> str:
    """The text in canonical form; text with syntax errors comes back unchanged."""
    sink = Sink()
    parse(Source(name, text), sink)
    return text if sink.errors else layout(text)


def layout(text: str) -> str:
    """The text with its white space in canonical form, whether it parses or not."""
    first_line = text.partition("\n")[0]
    ending = "\r\n" if first_line.endswith("\r") else "\n"
    rows = _indented(_rows(tokenize(text)))
    lines = [row.text for row in rows]
    _align_fields(rows, lines)
    _align_comments(rows, lines)
    return "".join(line + ending for line in lines)


@dataclass(slots=True)
class _Row:
    """One line: its tokens without the trailing comment. A blank line has neither."""

    tokens: list[Token]
    comment: str = ""
    depth: int = 0
    in_block: bool = True
    """Whether it starts directly in a block or file, not inside a list or call."""

    @property
    def blank(self) -> bool:
        return not self.tokens and not self.comment

    @property
    def text(self) -> str:
        """The line without a trailing comment; a comment on a line of its own is all of it."""
        return "" if self.blank else _INDENT * self.depth + (_joined(self.tokens) if self.tokens else self.comment)

    @property
    def path(self) -> int:
        """How many tokens at its start are a dotted name."""
        end = 1
        while [t.type for t in self.tokens[end : end + 2]] == ["DOT", "NAME"]:
            end += 2
        return end

    @property
    def is_field(self) -> bool:
        """Whether it is one `path = value`, complete on its line."""
        if not self.in_block or len(self.tokens) <= self.path:
            return False
        if self.tokens[0].type != "NAME" or self.tokens[self.path].type != "EQUAL":
            return False
        depth = 0
        for i, token in enumerate(self.tokens):
            depth += (token.type in OPENERS) - (token.type in CLOSERS)
            if depth < 0 or (depth == 0 and token.type == "COMMA" and i + 1 < len(self.tokens)):
                return False
        return depth == 0


def _rows(tokens: list[Token]) -> list[_Row]:
    """The lines of a file, blank ones only where they separate something."""
    rows = [_Row([])]
    for token in tokens:
        if token.type == "_NL":
            rows.append(_Row([]))
        elif token.type == "COMMENT":
            rows[-1].comment = token.rstrip()
        else:
            rows[-1].tokens.append(token)
    kept: list[_Row] = []
    for i, row in enumerate(rows):
        if row.blank:
            following = next((r for r in rows[i:] if not r.blank), None)
            last = kept[-1] if kept else None
            opened = last is None or last.blank or (last.tokens and last.tokens[-1].type in OPENERS)
            if opened or following is None or (following.tokens and following.tokens[0].type in CLOSERS):
                continue
        kept.append(row)
    return kept


def _indented(rows: list[_Row]) -> list[_Row]:
    """The rows with their depths: brackets opened on one line indent by one together."""
    stack: list[tuple[str, int]] = []
    for row in rows:
        leading = 0
        while leading < len(row.tokens) and row.tokens[leading].type in CLOSERS:
            leading += 1
        if leading and stack:
            row.depth = stack[max(len(stack) - leading, 0)][1]
        else:
            row.depth = stack[-1][1] + 1 if stack else 0
        row.in_block = not stack or stack[-1][0] == "LBRACE"
        for token in row.tokens:
            if token.type in OPENERS:
                stack.append((token.type, row.depth))
            elif token.type in CLOSERS and stack:
                stack.pop()
    return rows


def _joined(tokens: Sequence[Token]) -> str:
    """The tokens of a line with the spaces between them."""
    parts: list[str] = []
    for i, token in enumerate(tokens):
        if i and not _tight(tokens, i):
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _tight(tokens: Sequence[Token], i: int) -> bool:
    """Whether token ``i`` stands directly after the one before."""
    before, here = tokens[i - 1].type, tokens[i].type
    if before == "RANGE" and here in _KEYWORDS:
        return False  # an open end: `3.. by 2`
    if here in _TIGHT_BEFORE or before in _TIGHT_AFTER:
        return True
    if here == "LPAR":
        return before == "NAME"
    if before == "LBRACE" and here == "RBRACE":
        return True
    if before == "SIGN":
        earlier = tokens[i - 2].type if i >= 2 else "EQUAL"
        return earlier in _BEFORE_OPERAND or earlier in _KEYWORDS
    return False


def _align_fields(rows: list[_Row], lines: list[str]) -> None:
    """Pads names so that neighbouring one-line fields have their `=` in one column."""
    for run in _runs([row.depth if row.is_field else None for row in rows]):
        paths = ["".join(rows[i].tokens[: rows[i].path]) for i in run]
        width = max(map(len, paths))
        for i, path in zip(run, paths, strict=True):
            lines[i] = f"{_INDENT * rows[i].depth}{path:<{width}} {_joined(rows[i].tokens[rows[i].path :])}"


def _align_comments(rows: list[_Row], lines: list[str]) -> None:
    """Puts trailing comments of neighbouring lines in one column, two spaces after the longest line."""
    for run in _runs([0 if row.tokens and row.comment else None for row in rows]):
        width = max(len(lines[i]) for i in run)
        for i in run:
            lines[i] = f"{lines[i]:<{width}}  {rows[i].comment}"


def _runs(keys: Sequence[int | None]) -> list[list[int]]:
    """Neighbouring indexes whose keys are equal and not None."""
    runs: list[list[int]] = []
    for i, key in enumerate(keys):
        if key is None:
            continue
        if i and keys[i - 1] == key:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs
