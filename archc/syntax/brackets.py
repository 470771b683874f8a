"""Brackets put in balance before parsing, so that a forgotten one spoils its own statement and no other.

A missing closer is put in where its line or its indentation says that it was forgotten; a closer that closes nothing is
taken out. Each of these is one diagnostic at the bracket. Text whose brackets balance is never touched, so layout
carries no meaning in it.
"""

from __future__ import annotations

from typing import Literal

from lark import Token

from archc.diagnostics import Diagnostic, Related, Sink, Source
from archc.record import dataclass
from archc.syntax.tokens import after, span_of, starts_section, starts_statement

CLOSER = {"LBRACE": "RBRACE", "LSQB": "RSQB", "LPAR": "RPAR"}
OPENERS = frozenset(CLOSER)
CLOSERS = frozenset(CLOSER.values())
_SHOWN = {"LBRACE": "{", "RBRACE": "}", "LSQB": "[", "RSQB": "]", "LPAR": "(", "RPAR": ")"}
_LINE = "_NL"
_Doubt = Literal["unclosed", "stray"] | None


@dataclass(frozen=True, slots=True)
class Balanced:
    """Tokens whose brackets balance, and the offsets of tokens that make the statement around them unusable."""

    tokens: list[Token]
    spoiled: set[int]


def balance(tokens: list[Token], source: Source, sink: Sink) -> Balanced:
    """The tokens with brackets put in and taken out until they balance. Reports E0003."""
    tokens = list(tokens)
    matching = _match(tokens, None)
    if any(tokens[i].type == "LBRACE" for i in matching.unclosed):
        matching = _match(tokens, "unclosed")
    elif any(tokens[i].type == "RBRACE" for i in matching.stray):
        matching = _match(tokens, "stray")
    spoiled: set[int] = set()
    for i in matching.stray:
        sink.add(
            Diagnostic(
                code="E0003",
                message=f"this `{tokens[i]}` closes nothing",
                span=span_of(tokens[i], source),
                help="remove it",
            )
        )
    for i, j in matching.mistyped.items():
        _report_mistyped(tokens[i], tokens[j], source, sink, spoiled)
        tokens[j] = Token.new_borrow_pos(CLOSER[tokens[i].type], _SHOWN[CLOSER[tokens[i].type]], tokens[j])
    put_in = _close(tokens, matching, source, sink, spoiled)
    stray = set(matching.stray)
    balanced: list[Token] = []
    for i, token in enumerate(tokens):
        balanced.extend(put_in.get(i, ()))
        if i not in stray:
            balanced.append(token)
    balanced.extend(put_in.get(len(tokens), ()))
    return Balanced(balanced, spoiled)


@dataclass(slots=True)
class _Matching:
    """Which bracket closes which: indexes of openers to closers, and what is wrong."""

    pairs: dict[int, int]
    unclosed: list[int]
    stray: list[int]
    mistyped: dict[int, int]


def _match(tokens: list[Token], doubt: _Doubt) -> _Matching:
    """Pairs of brackets. ``doubt`` says what is known to be wrong with the braces: then indentation decides where."""
    found = _Matching({}, [], [], {})
    open_ = _Open([], [])
    indents = _indents(tokens)
    for i, token in enumerate(tokens):
        if token.type in OPENERS:
            if token.type == "LBRACE":
                open_.braces.append(len(open_.stack))
            open_.stack.append(i)
        elif token.type in CLOSERS:
            at = (
                _brace_closed(tokens, open_, i, doubt, indents)
                if token.type == "RBRACE"
                else _bracket_closed(tokens, open_, i)
            )
            if at is None:
                found.stray.append(i)
                continue
            opener = open_.stack[at]
            found.unclosed.extend(open_.stack[at + 1 :])
            found.pairs[opener] = i
            if CLOSER[tokens[opener].type] != token.type:
                found.mistyped[opener] = i
            open_.cut(at)
    found.unclosed.extend(open_.stack)
    return found


@dataclass(slots=True)
class _Open:
    """The brackets that are open: the indexes of their tokens, and which places of that stack hold a `{`."""

    stack: list[int]
    braces: list[int]

    @property
    def block(self) -> int:
        """The place of the innermost `{`, -1 when there is none."""
        return self.braces[-1] if self.braces else -1

    def cut(self, at: int) -> None:
        """Closes everything from place ``at`` inward."""
        del self.stack[at:]
        while self.braces and self.braces[-1] >= at:
            self.braces.pop()


def _brace_closed(tokens: list[Token], open_: _Open, i: int, doubt: _Doubt, indents: list[int]) -> int | None:
    """The place in the stack of the bracket that the `}` at ``i`` closes, or None when it closes nothing."""
    stack, block = open_.stack, open_.block
    if block < 0:
        return len(stack) - 1 if stack else None
    if doubt is None:
        return block
    if i == 0 or tokens[i - 1].type == _LINE:
        like = (k for k in reversed(open_.braces) if indents[stack[k]] == tokens[i].column)
        return next(like, None if doubt == "stray" else block)
    following = next((k for k in range(i + 1, len(tokens)) if tokens[k].type not in (_LINE, "RBRACE")), None)
    inside_goes_on = following is not None and indents[following] > indents[stack[block]]
    if doubt == "stray" and tokens[stack[block]].line != tokens[i].line and inside_goes_on:
        return None
    return block


def _bracket_closed(tokens: list[Token], open_: _Open, i: int) -> int | None:
    """The place in the stack of the bracket that the `]` or `)` at ``i`` closes, or None when it closes nothing."""
    stack, block, closer = open_.stack, open_.block, tokens[i]
    for k in reversed(range(block + 1, len(stack))):
        if CLOSER[tokens[stack[k]].type] == closer.type:
            return k
    if len(stack) > block + 1:
        return len(stack) - 1
    if block > 0 and tokens[stack[block]].line == closer.line and CLOSER[tokens[stack[block - 1]].type] == closer.type:
        return block - 1
    return None


def _indents(tokens: list[Token]) -> list[int]:
    """For each token the column at which its line starts."""
    columns, start, fresh = [], 1, True
    for token in tokens:
        if fresh and token.type != _LINE:
            start = token.column or 1
        columns.append(start)
        fresh = token.type == _LINE
    return columns


def _close(
    tokens: list[Token], matching: _Matching, source: Source, sink: Sink, spoiled: set[int]
) -> dict[int, list[Token]]:
    """The closers to put in, by the index of the token they go before."""
    indents = _indents(tokens)
    stray, ends = set(matching.stray), dict(matching.pairs)
    put_in: dict[int, list[Token]] = {}
    closed_at: dict[int, list[int]] = {}
    for opener in sorted(matching.unclosed, reverse=True):
        token = tokens[opener]
        end = opener + 1
        while end < len(tokens):
            here = tokens[end]
            if end in ends:
                end = max(ends[end] + (end in matching.pairs), end + 1)
                continue
            if here.type in CLOSERS and end not in stray:
                break
            if here.type == _LINE and _ends_at_line(tokens, opener, end, indents):
                break
            end += 1
        ends[opener] = end
        closed_at.setdefault(end, []).append(opener)
        closing = Token(CLOSER[token.type], _SHOWN[CLOSER[token.type]])
        put_in.setdefault(end, []).append(after(tokens[end - 1], closing))
    for end, openers in closed_at.items():
        outermost = openers[-1]
        token = tokens[outermost]
        if any(t.type == "UNCLOSED" and t.line == token.line for t in tokens[outermost:end]):
            continue  # the string that is never closed has swallowed the closer, and will be reported
        spoiled.update(tokens[i].start_pos or 0 for i in openers if tokens[i].type != "LBRACE")
        missing = "".join(put_in[end])
        help = f"`{missing}` {'seems' if len(missing) == 1 else 'seem'} to be missing {_place(tokens, end)}"
        sink.add(
            Diagnostic(
                code="E0003", message=f"this `{token}` is never closed", span=span_of(token, source), help=help[:200]
            )
        )
    return put_in


def _ends_at_line(tokens: list[Token], opener: int, line: int, indents: list[int]) -> bool:
    """Whether the line after the newline at ``line`` lies outside an unclosed bracket."""
    following = next((k for k in range(line + 1, len(tokens)) if tokens[k].type != _LINE), None)
    if following is None or tokens[following].type == "RBRACE" or indents[following] < indents[opener]:
        return True
    same = indents[following] == indents[opener]
    if tokens[opener].type == "LBRACE":
        return same
    return starts_statement(tokens, following) or (same and starts_section(tokens, following))


def _place(tokens: list[Token], end: int) -> str:
    if end >= len(tokens):
        return "at the end of the file"
    if tokens[end].type == _LINE:
        return f"at the end of line {tokens[end].line}"
    return f"before the `{tokens[end]}` of line {tokens[end].line}"


def _report_mistyped(opener: Token, closer: Token, source: Source, sink: Sink, spoiled: set[int]) -> None:
    spoiled.add(opener.start_pos or 0)
    sink.add(
        Diagnostic(
            code="E0003",
            message=f"this `{closer}` cannot close the `{opener}`",
            span=span_of(closer, source),
            help=f"write `{_SHOWN[CLOSER[opener.type]]}`",
            related=(Related(span=span_of(opener, source), message="opened here"),),
        )
    )
