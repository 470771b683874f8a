"""From raw tokens to those the grammar speaks of: comments set aside, brackets balanced, only the newlines that end statements."""

from __future__ import annotations

from dataclasses import dataclass, field

from lark import Token

from archc.diagnostics import Diagnostic, Sink, Source
from archc.syntax.brackets import CLOSERS, OPENERS, balance
from archc.syntax.tokens import after, span_of, starts_statement

MAX_DEPTH = 100
"""How deep brackets and operators may nest: more than any spec needs, and little enough to walk the tree by recursion."""

_OPERATORS = frozenset({"SIGN", "TIMES", "COMPARE", "AND", "OR", "NOT"})
_LINE = "_NL"


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Tokens for the parser, and what the tree needs besides them."""

    tokens: list[Token]
    docs: dict[int, str]
    """The `##` lines above a token, by the offset of the token."""
    spoiled: frozenset[int]
    """Offsets of tokens that were already reported: the statement around each is left out of the tree."""


def lay_out(raw: list[Token], source: Source, sink: Sink) -> LaidOut:
    """The tokens of a file in the shape the grammar expects. Reports E0003 and E0004."""
    tokens, docs = _set_comments_aside(raw)
    balanced = balance(tokens, source, sink)
    spoiled = set(balanced.spoiled)
    tokens = _cut_deep(_drop_newlines(balanced.tokens), source, sink, spoiled)
    return LaidOut(tokens, docs, frozenset(spoiled))


def _set_comments_aside(raw: list[Token]) -> tuple[list[Token], dict[int, str]]:
    """The tokens that are not comments, and the doc comments that stand on lines of their own above them."""
    tokens: list[Token] = []
    docs: dict[int, str] = {}
    pending: list[str] = []
    for token in raw:
        if token.type == "COMMENT":
            alone = not tokens or tokens[-1].type == _LINE
            if alone and token.startswith("##") and not token.startswith("###"):
                pending.append(str(token)[2:].strip())
            continue
        if pending and token.type != _LINE:
            docs[token.start_pos or 0] = "\n".join(pending)
            pending = []
        tokens.append(token)
    return tokens, docs


def _drop_newlines(tokens: list[Token]) -> list[Token]:
    """The tokens without newlines that end no statement: in `[ ]` and `( )`, in runs, after an opener, a comma or an operator.

    A line that can only be a new statement is never a continuation, so an operator left hanging is an error of its own line.
    """
    kept: list[Token] = []
    stack: list[str] = []
    pending: Token | None = None
    for i, token in enumerate(tokens):
        if token.type == _LINE:
            if not kept or pending is not None or (stack and stack[-1] != "LBRACE"):
                continue
            last = kept[-1].type
            if last not in OPENERS and last != "COMMA" and not (last in _OPERATORS and _continues(tokens, i)):
                pending = token
            continue
        if pending is not None and token.type not in CLOSERS:
            kept.append(pending)
        pending = None
        if token.type in OPENERS:
            stack.append(token.type)
        elif token.type in CLOSERS:
            stack.pop()
        kept.append(token)
    if kept and kept[-1].type != "COMMA":
        kept.append(pending or after(kept[-1], Token(_LINE, "")))
    return kept


def _continues(tokens: list[Token], line: int) -> bool:
    """Whether what follows the newline at ``line`` can go on with an expression."""
    following = next((k for k in range(line + 1, len(tokens)) if tokens[k].type != _LINE), None)
    return following is not None and not starts_statement(tokens, following)


@dataclass(slots=True)
class _Level:
    """Depths inside one open bracket: of the current item (operators, deepest bracket), and of the deepest item so far."""

    operators: int = 0
    brackets: int = 0
    longest: int = 0
    reported: bool = field(default=False)

    @property
    def depth(self) -> int:
        return self.operators + self.brackets

    def next_item(self) -> None:
        self.longest = max(self.longest, self.depth)
        self.operators = self.brackets = 0
        self.reported = False


def _cut_deep(tokens: list[Token], source: Source, sink: Sink, spoiled: set[int]) -> list[Token]:
    """The tokens, brackets beyond `MAX_DEPTH` emptied. Chained operators count too: `a + b + c` is a tree two deep."""

    def report(token: Token) -> None:
        message = f"nested too deeply: more than {MAX_DEPTH} brackets and operators within each other"
        spoiled.add(token.start_pos or 0)
        sink.add(Diagnostic(code="E0004", message=message, span=span_of(token, source), help="give the inner parts names with `let`"))

    kept: list[Token] = []
    levels = [_Level()]
    skipping = 0
    for token in tokens:
        if token.type in OPENERS:
            if skipping or len(levels) > MAX_DEPTH:
                if not skipping:
                    report(token)
                    kept.append(token)
                skipping += 1
                continue
            levels.append(_Level())
        elif skipping:
            skipping -= token.type in CLOSERS
            if skipping:
                continue
        elif token.type in CLOSERS:
            inner = levels.pop()
            inner.next_item()
            levels[-1].brackets = max(levels[-1].brackets, inner.longest + 1)
        elif token.type in (_LINE, "COMMA"):
            levels[-1].next_item()
        elif token.type in _OPERATORS:
            levels[-1].operators += 1
        if levels[-1].depth > MAX_DEPTH and not levels[-1].reported:
            levels[-1].reported = True
            report(token)
        kept.append(token)
    return kept
