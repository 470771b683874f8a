"""Hypothesis strategies for specs: valid ones with odd white space, broken ones, and streams of any tokens."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from archc import resources
from archc.syntax.tokens import KEYWORDS

LIBRARY = sorted(resources.specs().glob("*.arch"))
TEXTS = [path.read_text(encoding="utf-8") for path in LIBRARY] + [
    path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "specs").glob("*.arch"))
]

names = st.sampled_from(["dim", "heads", "csa", "moe", "rope", "x_1", "_y", "Model", "rest", "cost"])
numbers = st.sampled_from(["0", "1", "129_280", "1e-6", "10e3", "4Ki", "1.5", "80GiB", "3.35TB/s", "7B"])
strings = st.sampled_from(['"why"', '""', r'"a \"quoted\" # word"', '"größe 日本"', r'"back\\"'])
constants = st.sampled_from(["true", "false", "none"])
paths = st.lists(names, min_size=1, max_size=3).map(".".join)
# White space inside a line; newlines are added where the language lets them stand.
gap = st.sampled_from([" ", "  ", "\t", " \t "])
optional_gap = st.one_of(st.just(""), gap)
comments = st.sampled_from(
    ["# plain", "## doc", "#", "#tight", "# ünïcode 日本 → ≤", '# "quoted" { [ (', "#\ttab", "### banner"]
)


def _joined(separator: st.SearchStrategy[str], *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The parts in order with drawn white space between them."""

    @st.composite
    def join(draw: st.DrawFn) -> str:
        return "".join(draw(p) + (draw(separator) if i + 1 < len(parts) else "") for i, p in enumerate(parts))

    return join()


def _expressions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "==", "<=", "and", "or"])
    operand = inner.map(lambda e: f"({e})")
    wide = st.sampled_from([" ", "\n ", "\n\t", " # note\n"])
    items = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        _joined(gap, operand, operators, operand),
        items.map(lambda xs: "[" + ", ".join(xs) + "]"),
        st.tuples(items, wide).map(lambda t: "[" + t[1] + f",{t[1]}".join(t[0]) + t[1] + "]"),
        st.lists(inner, min_size=2, max_size=3).map(lambda xs: "(" + ",".join(xs) + ")"),
        operand.map(lambda e: f"- {e}"),
        operand.map(lambda e: f"not {e}"),
        _joined(optional_gap, paths, st.just("("), names, st.just("="), inner, st.just(")")),
        st.tuples(paths, names, inner).map(lambda t: f"{t[0]} {{ {t[1]}={t[2]}, }}"),
        st.tuples(names, st.integers(0, 9), st.integers(10, 20)).map(lambda t: f"{t[0]} at {t[1]} .. {t[2]} by 2"),
    )


expressions = st.recursive(st.one_of(numbers, strings, constants, paths), _expressions, max_leaves=6)


def _statements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    body = st.lists(inner, max_size=3).map("\n".join)
    return st.one_of(
        _joined(optional_gap, paths, st.just("="), expressions),
        _joined(gap, names, names, st.just("="), expressions),
        _joined(gap, st.just("let"), names, st.just("="), expressions),
        _joined(gap, st.just("param"), names, st.just("="), expressions, st.just("in"), expressions),
        _joined(gap, st.just("check"), expressions, st.just("else"), strings),
        _joined(gap, st.just("solve"), names, st.just("for"), expressions, st.just("within"), expressions),
        _joined(gap, st.just("import"), strings, st.just("as"), names),
        st.tuples(paths, body).map(lambda t: f"{t[0]} {{\n{t[1]}\n}}"),
        st.tuples(names, names, paths, body, comments).map(
            lambda t: f"{t[0]} {t[1]} extends {t[2]} {{ {t[4]}\n{t[3]}\n}}"
        ),
        comments,
        st.tuples(names, comments).map(lambda t: f"{t[0]} = 1 {t[1]}"),
        st.just("\n"),
    )


statements = st.recursive(_joined(optional_gap, paths, st.just("="), expressions), _statements, max_leaves=8)


@st.composite
def specs(draw: st.DrawFn) -> str:
    """A spec that parses, with odd white space, any line ending, and perhaps no last newline."""
    lines = draw(st.lists(statements, max_size=6))
    head = draw(st.sampled_from(["", "arch 1\n", "## file doc\narch 1\n"]))
    text = head + "\n".join(draw(optional_gap) + line for line in lines) + draw(st.sampled_from(["", "\n", "\n\n\n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


PUNCTUATION = ("{", "}", "[", "]", "(", ")", "=", "==", ",", ".", "..", "+", "-", "*", "//", "%", "<", "\n", "\n")

tokens = st.one_of(
    names,
    numbers,
    strings,
    constants,
    comments.map(lambda c: c + "\n"),
    st.sampled_from(PUNCTUATION + KEYWORDS),
    st.sampled_from(["@", ":", "'", '"', "3Qi", "1e999", "größe", "\t", "\x00", "\ufeff", "\r", "\\", "`", "\u2028"]),
)
token_streams = st.lists(tokens, max_size=60).map(" ".join)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A spec of the library with a few characters deleted, doubled, swapped or put in."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        end = draw(st.integers(at, min(at + 8, len(text))))
        put = draw(st.one_of(st.just(""), tokens, st.just(text[at:end] * 2), st.just(text[at:end][::-1])))
        text = text[:at] + put + text[end:]
    return text
