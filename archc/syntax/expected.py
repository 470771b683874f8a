"""What to say about a token that cannot stand where it stands."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Set as AbstractSet

from lark import Token

from archc.diagnostics import Diagnostic, Source
from archc.syntax.tokens import KEYWORDS, span_of

_VALUE = {"NUMBER", "STRING", "NAME", "LPAR", "LSQB"}
_STATEMENT = {"LET", "PARAM", "CHECK", "IMPORT", "SOLVE"}
_OPERATORS = {"SIGN", "TIMES", "COMPARE", "AND", "OR", "NOT", "AT", "RANGE", "BY", "TRUE", "FALSE", "NONE"}
_SHOWN = {
    "_NL": "a newline",
    "$END": "the end of the file",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string in double quotes",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "DOT": "`.`",
    "RANGE": "`..`",
    "COMPARE": "a comparison",
}

_FOUND_HELP = {
    ":": "fields are set with `=`",
    ";": "statements are separated by a newline or a comma",
    "&": "logic is written `and`",
    "|": "logic is written `or`",
    "!": "negation is written `not`",
    "^": "there is no power operator; write the number out, or use a unit such as 4Ki",
    "$": "a `param` or `let` is used by its bare name",
    "@": "a drawer is placed on layers with `at`: `engram at [1, 14]`",
}


def explain(tokens: list[Token], i: int, start: int, accepted: AbstractSet[str], source: Source) -> Diagnostic:
    """The diagnostic of token ``i`` of the statement that starts at ``start``, where only ``accepted`` can stand."""
    token = tokens[i]
    previous = tokens[i - 1] if i > start else None
    line_end = token.type == "_NL"
    if line_end and previous is not None:
        at = dataclasses.replace(
            span_of(previous, source), line=previous.end_line or 1, column=previous.end_column or 1
        )
    else:
        at = span_of(token, source)
    context = span_of(tokens[start], source).to(at) if i > start else None
    if token.type == "UNCLOSED":
        single = token.startswith("'")
        message = "strings take double quotes" if single else "this string is never closed"
        help = (
            f'write "{token.strip(chr(39))}"'
            if single
            else 'put `"` where it ends, on the same line; a quote inside a string is written \\"'
        )
        return Diagnostic(code="E0008", message=message, span=at, context=context, help=help)
    wanted = _wanted(set(accepted))
    if token.type == "STRAY":
        return Diagnostic(
            code="E0002", message=_stray(token, wanted), span=at, context=context, help=_stray_help(token)
        )
    found = "the line ends" if line_end else f"found `{token}`"
    help = _help(token, previous, accepted)
    return Diagnostic(code="E0001", message=f"expected {wanted}, {found}", span=at, context=context, help=help)


def _wanted(accepted: set[str]) -> str:
    """What could stand here, in words, without the operators that can always go on."""
    if accepted >= _STATEMENT:
        return "a statement" if "RBRACE" not in accepted else "a statement or `}`"
    if accepted >= _VALUE:
        closers = sorted(_SHOWN[t] for t in accepted & {"RSQB", "RPAR"})
        return " or ".join(["a value", *closers])
    if {"EQUAL", "LBRACE"} <= accepted:
        return "`=` or `{`"
    ends = accepted & {"_NL", "COMMA", "RSQB", "RPAR", "RBRACE", "EQUAL"}
    if "_NL" in ends:
        # A block may end here too, but whoever forgot something did not forget that.
        ends -= {"RBRACE"}
    words = ends or accepted - _OPERATORS or accepted
    shown = sorted({_SHOWN.get(t, f"`{t.lower()}`") for t in words})
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _stray(token: Token, wanted: str) -> str:
    if token.isprintable():
        return f"`{token}` means nothing here: expected {wanted}"
    return f"the character U+{ord(token):04X} ({unicodedata.name(token, 'unnamed')}) cannot stand here"


def _stray_help(token: Token) -> str | None:
    if unicodedata.category(token) in ("Zs", "Cf", "Cc"):
        return "it looks like a space or like nothing; replace it by a space"
    plain = unicodedata.normalize("NFKC", token)
    look_alike = {
        "–": "-",
        "—": "-",
        "−": "-",
        "“": '"',
        "”": '"',
        "„": '"',
        "×": "*",
        "·": "*",
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "…": "..",
    }.get(token)
    if look_alike or (plain != token and plain.isascii()):
        return f"write `{look_alike or plain}`"
    return _FOUND_HELP.get(token)


def _help(token: Token, previous: Token | None, accepted: AbstractSet[str]) -> str | None:
    before = previous.type if previous is not None else ""
    text = str(token)
    if text == "==" and "EQUAL" in accepted:
        return "one `=` sets a field, `==` compares"
    if token.type == "EQUAL" and "COMPARE" in accepted:
        return "`==` compares, `=` sets a field"
    if token.type == "ARCH":
        return "`arch 1` is the first line of a file and stands nowhere else"
    if before == "ARCH":
        return "write `arch 1`"
    if text in KEYWORDS and "NAME" in accepted:
        return f"`{token}` is a reserved word and names nothing else"
    if before == "TIMES" and text == "*":
        return _FOUND_HELP["^"]
    if previous is None and token.type == "TIMES":
        return "comments start with `#`" if text == "//" else None
    if previous is not None and before == token.type == "NUMBER":
        return f"digits are grouped with `_`: `{previous}_{token}`"
    if token.type == "DOT" and accepted >= _VALUE:
        return "numbers start with a digit: `0.5`"
    if token.type == "LBRACE" and "EXTENDS" not in accepted and before in ("EQUAL", "RSQB"):
        return "braces follow a kind or a drawer: `rope = yarn { ... }`"
    return None
