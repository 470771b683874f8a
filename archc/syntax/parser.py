"""From text to tree: lark's LALR parser, fed token by token, going on after each broken statement."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark import Lark, Token, UnexpectedInput
from lark import Tree as Parsed
from lark.lark import PostLex

from archc import resources
from archc.diagnostics import Diagnostic, Sink, Source
from archc.syntax.build import Builder
from archc.syntax.expected import explain
from archc.syntax.kept import cache_folder
from archc.syntax.layout import LaidOut, lay_out
from archc.syntax.tokens import after, span_of, starts_statement
from archc.syntax.tree import File

_END = "$END"


class _KeepAll(PostLex):
    """Keeps the terminals that no rule names: comments, and what cannot be lexed. `lay_out` works on them."""

    always_accept = ("COMMENT", "UNCLOSED", "STRAY")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


def parse(source: Source, sink: Sink) -> File:
    """The tree of a text, as far as it can be read; never raises.

    Every mistake is one diagnostic in ``sink`` (E00xx). The smallest statement around a mistake is left out of the
    tree.
    """
    grammar = _grammar()
    raw = tokenize(source.text)
    laid = lay_out(raw, source, sink)
    parsed = _Run(grammar, laid, source, sink).parse()
    return Builder(source, sink, laid.docs, laid.spoiled).file(parsed)


def tokenize(text: str) -> list[Token]:
    """The tokens of any text, newlines and comments among them."""
    interactive = _grammar().parse_interactive(text)
    return list(interactive.lexer_thread.lex(interactive.parser_state))


def build_grammar(**options: Any) -> Lark:
    """The grammar's parser, built with further lark options."""
    text = resources.grammar().read_text(encoding="utf-8")
    return Lark(
        text,
        parser="lalr",
        lexer="basic",
        postlex=_KeepAll(),
        keep_all_tokens=True,
        propagate_positions=True,
        maybe_placeholders=False,
        **options,
    )


@cache
def _grammar() -> Lark:
    return load_grammar(cache_folder())


def load_grammar(folder: Path | None) -> Lark:
    """The grammar's parser, from its tables in ``folder`` where that can be used: 2 ms instead of 40.

    The file's name tells the grammar, lark and Python it was made by. A folder that cannot be written, and a broken or
    half written file, cost time and nothing else: lark then builds the tables anew.
    """
    if folder is None:
        return build_grammar()
    made_by = resources.grammar().read_bytes() + repr((lark.__version__, sys.version_info[:2])).encode()
    return build_grammar(cache=str(folder / f"grammar-{hashlib.sha256(made_by).hexdigest()[:16]}.tables"))


class _Run:
    """One parse. ``saved`` holds, for each open block, the parser's state where its current statement starts."""

    def __init__(self, grammar: Lark, laid: LaidOut, source: Source, sink: Sink) -> None:
        self.tokens = list(laid.tokens)
        self.spoiled, self.source, self.sink = laid.spoiled, source, sink
        self.state = grammar.parse_interactive("")
        self.saved = [(self.state.copy(deepcopy_values=False), 0)]

    def parse(self) -> Parsed[Token]:
        """The parse tree, without the statements that are broken."""
        i, failed_at = 0, -1
        while i < len(self.tokens):
            token = self.tokens[i]
            try:
                self.state.feed_token(token)
            except UnexpectedInput:
                # Failing twice at one token would go on for ever: the second time it is dropped.
                again, failed_at = i == failed_at, i
                i = i + 1 if again else self.recover(i)
                continue
            i += 1
            if token.type == "LBRACE":
                self.saved.append((self.state.copy(deepcopy_values=False), i))
            elif token.type == "RBRACE":
                self.saved.pop()
            elif token.type in ("_NL", "COMMA") and "LET" in self.state.choices():
                self.saved[-1] = (self.state.copy(deepcopy_values=False), i)
        end = after(self.tokens[-1], Token(_END, "")) if self.tokens else Token(_END, "", 0, 1, 1, 1, 1, 0)
        return self.state.feed_token(end)

    def recover(self, i: int) -> int:
        """Where to go on after the error at token ``i``, now reported: the next statement of the innermost block."""
        accepted = self.state.accepts()
        if "_NL" in accepted and starts_statement(self.tokens, i):
            self.report_missing_separator(i)
            self.tokens.insert(i, after(self.tokens[i - 1], Token("_NL", "")))
            return i
        state, start = self.saved[-1]
        end = self.end_of_statement(start, i)
        spoiled = self.spoiled.intersection(t.start_pos or 0 for t in self.tokens[start:end])
        self.spoiled -= spoiled
        if not spoiled:
            self.sink.add(explain(self.tokens, i, start, accepted, self.source))
        self.state = state.copy(deepcopy_values=False)
        following = end + 1 if end < len(self.tokens) and self.tokens[end].type != "RBRACE" else end
        self.saved[-1] = (state, following)
        return following

    def end_of_statement(self, start: int, at: int) -> int:
        """The index of the separator or `}` that ends the statement at ``start``, not before ``at``."""
        depth = 0
        for i in range(start, len(self.tokens)):
            type = self.tokens[i].type
            if type in ("LBRACE", "LSQB", "LPAR"):
                depth += 1
            elif type in ("RBRACE", "RSQB", "RPAR"):
                depth -= 1
                if depth < 0:
                    return i
            elif depth == 0 and i >= at and type in ("_NL", "COMMA"):
                return i
        return len(self.tokens)

    def report_missing_separator(self, i: int) -> None:
        token = self.tokens[i]
        message = f"`{token}` starts another statement: statements are separated by a newline or a comma"
        help = f"put a comma before `{token}`, or a newline"
        self.sink.add(Diagnostic(code="E0005", message=message, span=span_of(token, self.source), help=help))
