"""From lark's parse tree, which keeps every token, to the tree of `archc.syntax.tree`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

from lark import Token
from lark import Tree as Parsed

from archc.diagnostics import Diagnostic, Sink, Source, Span
from archc.diagnostics.suggest import closest
from archc.syntax import tree
from archc.syntax.numbers import UNITS, UnknownUnit, parse_number
from archc.syntax.tokens import span_of

EDITIONS = (1,)
"""The editions of the language that this compiler reads."""

_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class Builder:
    """Builds one file. A statement around a token that was reported is left out, so that nobody reports it again."""

    def __init__(self, source: Source, sink: Sink, docs: dict[int, str], spoiled: set[int]) -> None:
        self.source, self.sink, self.docs = source, sink, docs
        self.spoiled = spoiled

    def file(self, parsed: Parsed[Token]) -> tree.File:
        """The whole file."""
        edition, body = None, None
        for child in parsed.children:
            if isinstance(child, Parsed):
                if child.data == "edition":
                    edition = self.edition(child)
                else:
                    body = child
        lines = self.source.lines
        span = Span(self.source, 1, 1, len(lines), len(lines[-1]) + 1)
        statements = self.statements(body) if body is not None else ()
        return tree.File(
            span=span, source=self.source, edition=edition, body=tree.Body(span=span, statements=statements)
        )

    def edition(self, parsed: Parsed[Token]) -> tree.Number | None:
        """The number of `arch 1`, None if it was reported. Reports E0010."""
        token = cast("Token", parsed.children[1])
        number = self.number_token(token)
        if token.start_pos in self.spoiled:
            return None
        if number.value not in EDITIONS or number.unit or not isinstance(number.value, int):
            known = " and ".join(map(str, EDITIONS))
            self.report(
                "E0010",
                f"this archc knows edition {known} of the language, not {token}",
                number.span,
                help=f"write `arch {EDITIONS[-1]}`",
            )
        return number

    # --- statements ------------------------------------------------------------------------------
    def statements(self, body: Parsed[Token]) -> tuple[tree.Stmt, ...]:
        """The statements of a body that can be used."""
        found = (self.statement(child) for child in body.children if isinstance(child, Parsed))
        return tuple(s for s in found if s is not None)

    def statement(self, parsed: Parsed[Token]) -> tree.Stmt | None:
        """A statement, or None when it holds a token that was reported and no smaller statement does."""
        meta = parsed.meta
        node = cast("tree.Stmt", getattr(self, "on_" + parsed.data)(parsed))
        if self.spoiled:
            here = {offset for offset in self.spoiled if meta.start_pos <= offset < meta.end_pos}
            if here:
                self.spoiled -= here
                return None
        return node

    def on_import(self, parsed: Parsed[Token]) -> tree.Import:
        c = cast("list[Token]", parsed.children)
        return tree.Import(
            **self.head(parsed), path=self.string_token(c[1]), alias=self.name(c[3]) if len(c) > 2 else None
        )

    def on_let(self, parsed: Parsed[Token]) -> tree.Let:
        c = parsed.children
        return tree.Let(**self.head(parsed), name=self.name(c[1]), value=self.expr(c[3]))

    def on_param(self, parsed: Parsed[Token]) -> tree.Param:
        c = parsed.children
        domain = self.expr(c[5]) if len(c) > 4 else None
        return tree.Param(**self.head(parsed), name=self.name(c[1]), value=self.expr(c[3]), domain=domain)

    def on_check(self, parsed: Parsed[Token]) -> tree.Check:
        c = parsed.children
        why = self.string_token(cast("Token", c[3])) if len(c) > 2 else None
        return tree.Check(**self.head(parsed), condition=self.expr(c[1]), why=why)

    def on_solve(self, parsed: Parsed[Token]) -> tree.Solve:
        c = parsed.children
        tolerance = self.expr(c[5]) if len(c) > 4 else None
        return tree.Solve(**self.head(parsed), param=self.name(c[1]), equation=self.expr(c[3]), tolerance=tolerance)

    def on_assign(self, parsed: Parsed[Token]) -> tree.Assign:
        c = parsed.children
        return tree.Assign(**self.head(parsed), path=self.path(c[0]), value=self.expr(c[2]))

    def on_declare(self, parsed: Parsed[Token]) -> tree.Declare:
        c = parsed.children
        return tree.Declare(**self.head(parsed), slot=self.name(c[0]), name=self.name(c[1]), value=self.expr(c[3]))

    def on_section(self, parsed: Parsed[Token]) -> tree.Section:
        c = parsed.children
        labels, extends = [], None
        for child in c[1:-1]:
            child = cast("Parsed[Token]", child)
            if child.data == "extends":
                extends = self.path(child.children[1])
            else:
                labels.append(self.label(cast("Token", child.children[0])))
        body = self.block(cast("Parsed[Token]", c[-1]))
        return tree.Section(**self.head(parsed), head=self.name(c[0]), labels=tuple(labels), extends=extends, body=body)

    def on_amend_path(self, parsed: Parsed[Token]) -> tree.AmendPath:
        c = parsed.children
        return tree.AmendPath(**self.head(parsed), path=self.path(c[0]), body=self.block(cast("Parsed[Token]", c[1])))

    def head(self, parsed: Parsed[Token]) -> dict[str, Any]:
        """The fields all statements have."""
        return {"span": self.span(parsed), "doc": self.docs.get(parsed.meta.start_pos, "")}

    def label(self, token: Token) -> tree.Name | tree.Number | tree.String:
        """A label of a section."""
        if token.type == "NUMBER":
            return self.number_token(token)
        return self.string_token(token) if token.type == "STRING" else self.name(token)

    def block(self, parsed: Parsed[Token]) -> tree.Body:
        """`{ ... }`."""
        return tree.Body(span=self.span(parsed), statements=self.statements(cast("Parsed[Token]", parsed.children[1])))

    # --- expressions -----------------------------------------------------------------------------
    def expr(self, parsed: Any) -> tree.Expr:
        """An expression."""
        return cast("Callable[[Parsed[Token]], tree.Expr]", getattr(self, "on_" + parsed.data))(parsed)

    def on_number(self, parsed: Parsed[Token]) -> tree.Number:
        return self.number_token(cast("Token", parsed.children[0]))

    def on_string(self, parsed: Parsed[Token]) -> tree.String:
        return self.string_token(cast("Token", parsed.children[0]))

    def on_constant(self, parsed: Parsed[Token]) -> tree.Constant:
        return tree.Constant(
            span=self.span(parsed), value={"true": True, "false": False, "none": None}[str(parsed.children[0])]
        )

    def on_ref(self, parsed: Parsed[Token]) -> tree.Ref:
        return self.path(parsed)

    def on_amend(self, parsed: Parsed[Token]) -> tree.Amend:
        base, body = parsed.children
        return tree.Amend(span=self.span(parsed), base=self.path(base), body=self.block(cast("Parsed[Token]", body)))

    def on_call(self, parsed: Parsed[Token]) -> tree.Call:
        args, keywords = [], []
        for child in parsed.children[1:]:
            if not isinstance(child, Parsed):
                continue
            if child.data == "keyword":
                name, _, value = child.children
                keywords.append(tree.Keyword(span=self.span(child), name=self.name(name), value=self.expr(value)))
            else:
                args.append(self.expr(child))
        return tree.Call(
            span=self.span(parsed), ref=self.path(parsed.children[0]), args=tuple(args), keywords=tuple(keywords)
        )

    def on_list(self, parsed: Parsed[Token]) -> tree.List:
        return tree.List(span=self.span(parsed), items=self.items(parsed))

    def on_group(self, parsed: Parsed[Token]) -> tree.Group:
        return tree.Group(span=self.span(parsed), items=self.items(parsed))

    def on_parenthesis(self, parsed: Parsed[Token]) -> tree.Expr:
        return self.expr(parsed.children[1]).replaced(span=self.span(parsed))

    def on_unary(self, parsed: Parsed[Token]) -> tree.Unary:
        op, operand = parsed.children
        return tree.Unary(span=self.span(parsed), op=cast("Any", str(op)), operand=self.expr(operand))

    def on_binary(self, parsed: Parsed[Token]) -> tree.Binary:
        left, op, right = parsed.children
        a, b = self.expr(left), self.expr(right)
        return tree.Binary(span=self.span(parsed), op=cast("Any", str(op)), left=a, right=b)

    def on_interval(self, parsed: Parsed[Token]) -> tree.Range:
        rest = list(parsed.children[2:])
        stop = self.expr(rest.pop(0)) if rest and isinstance(rest[0], Parsed) else None
        step = self.expr(rest[1]) if rest else None
        return tree.Range(span=self.span(parsed), start=self.expr(parsed.children[0]), stop=stop, step=step)

    def on_placement(self, parsed: Parsed[Token]) -> tree.Placed:
        item, _, where = parsed.children
        return tree.Placed(span=self.span(parsed), item=self.expr(item), where=self.expr(where))

    def items(self, parsed: Parsed[Token]) -> tuple[tree.Expr, ...]:
        """What stands between brackets."""
        return tuple(self.expr(c) for c in parsed.children if isinstance(c, Parsed))

    # --- leaves ----------------------------------------------------------------------------------
    def path(self, parsed: Any) -> tree.Ref:
        """A dotted name, from a rule or a single token."""
        tokens = [parsed] if isinstance(parsed, Token) else [t for t in parsed.children if t.type == "NAME"]
        parts = tuple(map(self.name, tokens))
        return tree.Ref(span=parts[0].span.to(parts[-1].span), parts=parts)

    def name(self, token: Any) -> tree.Name:
        """An identifier. Reports E0009."""
        span = span_of(token, self.source)
        if not token.isascii():
            odd = next(c for c in token if not c.isascii())
            self.report(
                "E0009",
                f"`{token}` is no name: names are made of a-z, A-Z, 0-9 and _, and `{odd}` is none of them",
                span,
                token=token,
            )
        return tree.Name(span=span, text=str(token))

    def number_token(self, token: Token) -> tree.Number:
        """A number. Reports E0006 and E0007; its value is then 0, and its statement is left out."""
        span = span_of(token, self.source)
        value, unit = 0, ""
        try:
            value, unit = parse_number(token)
        except UnknownUnit as error:
            near = closest(error.unit, (u for u in UNITS if u))
            help = (
                f"did you mean `{token[: error.start]}{near}`?"
                if near
                else "units are K M B T, Ki Mi Gi Ti, KB MB GB TB and KiB MiB GiB TiB"
            )
            tight = dataclasses.replace(span, column=span.column + error.start)
            self.report("E0006", f"unknown unit `{error.unit}`", tight, token=token, help=help)
        except OverflowError:
            self.report("E0007", "this number is too large", span, token=token)
        except ValueError:
            self.report("E0006", f"`{token}` is no number: `_` stands between two digits", span, token=token)
        return tree.Number(span=span, value=value, unit=unit)

    def string_token(self, token: Token) -> tree.String:
        r"""A string, its `\n`, `\t`, `\"` and `\\` replaced. Reports E0008."""
        span = span_of(token, self.source)

        def unescape(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                start = span.column + 1 + match.start()
                tight = dataclasses.replace(span, column=start, end_column=start + 2)
                help = r"the escapes are \n, \t, \" and \\; write a backslash as \\"
                self.report("E0008", f"unknown escape `{match[0]}`", tight, token=token, help=help)
            return _ESCAPES.get(match[1], match[1])

        return tree.String(span=span, value=re.sub(r"\\(.)", unescape, token[1:-1]))

    def span(self, parsed: Parsed[Token]) -> Span:
        """The span of a rule."""
        m = parsed.meta
        return Span(self.source, m.line, m.column, m.end_line, m.end_column)

    def report(
        self, code: str, message: str, span: Span, *, token: Token | None = None, help: str | None = None
    ) -> None:
        """Adds an error; with ``token`` the statement around it is left out."""
        self.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
        if token is not None:
            self.spoiled.add(token.start_pos or 0)
