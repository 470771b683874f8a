"""From raw tokens to those of the grammar: no comments, balanced brackets, only the newlines that end statements."""

from __future__ import annotations

from lark import Token

from archc.diagnostics import Diagnostic, Sink, Source
from archc.record import dataclass
from archc.syntax.brackets import CLOSERS, OPENERS, balance
from archc.syntax.tokens import after, span_of, starts_statement

MAX_DEPTH = 100
"""How deep brackets and operators may nest: more than any spec needs, little enough to walk the tree by recursion."""

_OPERATORS = frozenset({"SIGN", "TIMES", "COMPARE", "AND", "OR", "NOT"})
_LINE = "_NL"


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Tokens for the parser, and what the tree needs besides them."""

    tokens: list[Token]
    docs: dict[int, str]
    """The `##` lines above a token, by the offset of the token."""
    spoiled: set[int]
    """Offsets of tokens that were already reported: the smallest statement around each is left out of the tree."""


def lay_out(raw: list[Token], source: Source, sink: Sink) -> LaidOut:
    """The tokens of a file in the shape the grammar expects. Reports E0003 and E0004."""
    tokens, docs = _set_comments_aside(raw)
    balanced = balance(tokens, source, sink)
    spoiled = set(balanced.spoiled)
    tokens = _cut_deep(_drop_newlines(balanced.tokens), source, sink, spoiled)
    return LaidOut(tokens, docs, spoiled)


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
    """The tokens without newlines that end no statement.

    Those are the ones in `[ ]` and `( )`, in runs, and after an opener, a comma or an operator. A line that can only be
    a new statement is never a continuation, so an operator left hanging is an error of its own line.
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
    """Depths inside one open bracket: of the current item (operators, deepest bracket) and of the deepest so far."""

    opener: Token | None = None
    start: int = 0
    """Where in the kept tokens its content starts."""
    item: int = 0
    """Where its current item starts."""
    operators: int = 0
    brackets: int = 0
    longest: int = 0
    cut: bool = False
    """Whether the rest of the current item is left out."""

    def next_item(self, start: int) -> None:
        """Ends the current item; the next one starts at ``start`` of the kept tokens."""
        self.longest = max(self.longest, self.operators + self.brackets)
        self.operators = self.brackets = 0
        self.item, self.cut = start, False


def _cut_deep(tokens: list[Token], source: Source, sink: Sink, spoiled: set[int]) -> list[Token]:
    """The tokens without what lies more than `MAX_DEPTH` deep. Chained operators count: `a + b + c` is two deep."""

    def report(token: Token) -> None:
        message = f"nested too deeply: more than {MAX_DEPTH} brackets and operators within each other"
        spoiled.add(token.start_pos or 0)
        sink.add(
            Diagnostic(
                code="E0004", message=message, span=span_of(token, source), help="give the inner parts names with `let`"
            )
        )

    kept: list[Token] = []
    levels = [_Level()]
    skipped = 0
    for token in tokens:
        here = levels[-1]
        if skipped:
            skipped += (token.type in OPENERS) - (token.type in CLOSERS)
            if skipped or here.cut:
                continue
        elif token.type in OPENERS:
            if here.cut:
                skipped = 1
                continue
            if len(levels) > MAX_DEPTH:
                skipped = 1
                report(token)
            else:
                levels.append(_Level(opener=token, start=len(kept) + 1, item=len(kept) + 1))
        elif token.type in CLOSERS:
            here.next_item(0)
            levels.pop()
            outer = levels[-1]
            if outer.operators + here.longest >= MAX_DEPTH and here.opener is not None:
                report(here.opener)
                del kept[here.start :]
                here.longest = 0
            outer.brackets = max(outer.brackets, here.longest + 1)
        elif token.type in (_LINE, "COMMA"):
            here.next_item(len(kept) + 1)
        elif token.type in _OPERATORS and not here.cut:
            here.operators += 1
            if here.operators + here.brackets > MAX_DEPTH:
                report(token)
                # Of the whole item only this operator stays, so that the parser sees which statement is spoiled.
                kept[here.item :] = [token]
                here.operators = here.brackets = 0
                here.cut = True
        if not here.cut or token.type in CLOSERS:
            kept.append(token)
    return kept
