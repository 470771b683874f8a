"""Broken text: one diagnostic per mistake, at the mistake, and everything else read as if it were not there."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings

from archc.syntax import tree
from tests.syntax.specs import mutants, token_streams
from tests.syntax.walk import nodes, parsed


def names(file: tree.File) -> list[str]:
    """What the statements of a file, and of its sections, set."""
    found = []
    for node in nodes(file):
        match node:
            case tree.Assign(path=path):
                found.append(path.text)
            case tree.Let(name=name) | tree.Param(name=name) | tree.Declare(name=name):
                found.append(name.text)
            case tree.Section(head=head):
                found.append(head.text + "{}")
    return found


CASES = [
    # values and statements
    ("a =\nb = 1", ["E0001 1:4"], ["b"]),
    ("a = 1 2\nb = 1", ["E0001 1:7"], ["b"]),
    ("head == untied\nb = 1", ["E0001 1:6"], ["b"]),
    ("check a = 1\nb = 1", ["E0001 1:9"], ["b"]),
    ("at = 1\nb = 1", ["E0001 1:1"], ["b"]),
    ("a = 2 ** 3\nb = 1", ["E0001 1:8"], ["b"]),
    ("a = .5\nb = 1", ["E0001 1:5"], ["b"]),
    ("// note\nb = 1", ["E0001 1:1"], ["b"]),
    ("b = 1\narch 1", ["E0001 2:1"], ["b"]),
    ("arch\nb = 1", ["E0001 1:5"], ["b"]),
    ("a = 3 +\nb = 1", ["E0001 1:8"], ["b"]),
    ("model m extends { a = 1 }\nb = 1", ["E0001 1:17"], ["b"]),
    ("k { x = , y = 2 }\nb = 1", ["E0001 1:9"], ["k{}", "y", "b"]),
    ("a = 1,, b = 1", ["E0001 1:7"], ["a", "b"]),
    ("k { a = 1, , b = 1 }", ["E0001 1:12"], ["k{}", "a", "b"]),
    # statements run together
    ("a = 1 b = 2", ["E0005 1:7"], ["a", "b"]),
    ("k { a = 1 ffn b = 2 let c = 3 }", ["E0005 1:11", "E0005 1:21"], ["k{}", "a", "b", "c"]),
    ("arch 1 b = 2", ["E0005 1:8"], ["b"]),
    # characters
    ("a: 1\nb = 1", ["E0002 1:2"], ["b"]),
    ("a = 1;\nb = 1", ["E0002 1:6"], ["b"]),
    ("a = 4 @ 3\nb = 1", ["E0002 1:7"], ["b"]),
    ("a = 1\u00a0+ 2\nb = 1", ["E0002 1:6"], ["b"]),
    ("a = “x”\nb = 1", ["E0002 1:5"], ["b"]),
    # brackets
    ("a = [1, 2\nb = 1", ["E0003 1:5"], ["b"]),
    ("k {\n  a = [1,\n  2\n  b = 1\n}", ["E0003 2:7"], ["k{}", "b"]),
    ("k { a = [1, 2 }\nb = 1", ["E0003 1:9"], ["k{}", "b"]),
    ("a = f((1 + 2\nb = 1", ["E0003 1:6"], ["b"]),
    ("a = [1, 2}\nb = 1", ["E0003 1:10"], ["b"]),
    ("a = (1, 2]\nb = 1", ["E0003 1:10"], ["b"]),
    ("a = [(1, 2]\nb = 1", ["E0003 1:6"], ["b"]),
    ("a = 1 ]\nb = 1", ["E0003 1:7"], ["a", "b"]),
    ("a = [k { c = 1 ]\nb = 1", ["E0003 1:8"], ["a", "c", "b"]),
    ("k {\n  a = 1\nm {\n  b = 1\n}", ["E0003 1:3"], ["k{}", "a", "m{}", "b"]),
    ("k {\n  a = r { c = 1\n  b = 1\n}\nm { d = 1 }", ["E0003 2:9"], ["k{}", "a", "c", "b", "m{}", "d"]),
    ("k {\n  a = r { c = 1 }}\n  b = 1\n}\nd = 1", ["E0003 2:18"], ["k{}", "a", "c", "b", "d"]),
    ("k {\n  a = 1\n  }\n  b = 1\n}\nd = 1", ["E0003 3:3"], ["k{}", "a", "b", "d"]),
    ("k {\n  a = 1\n", ["E0003 1:3"], ["k{}", "a"]),
    # numbers, strings, names
    ("a = 3Qi\nb = 1", ["E0006 1:6"], ["b"]),
    ("a = 1__0\nb = 1", ["E0006 1:5"], ["b"]),
    ("a = k { c = 3Qi, d = 1 }\nb = 1", ["E0006 1:14"], ["a", "d", "b"]),
    ("a = 1e999\nb = 1", ["E0007 1:5"], ["b"]),
    ('a = "x\nb = 1', ["E0008 1:5"], ["b"]),
    ("a = 'x'\nb = 1", ["E0008 1:5"], ["b"]),
    (r'a = "x\q y"' + "\nb = 1", ["E0008 1:7"], ["b"]),
    ('k { import "x }\nb = 1', ["E0008 1:12"], ["k{}", "b"]),
    ("größe = 1\nb = 1", ["E0009 1:1"], ["b"]),
    ("arch 2\nb = 1", ["E0010 1:6"], ["b"]),
    ("arch 1.0\nb = 1", ["E0010 1:6"], ["b"]),
    ("arch 1Qi\nb = 1", ["E0006 1:7"], ["b"]),
    ('a = ["x\nb = 1', ["E0008 1:6"], ["b"]),
    # several in one file, several in one block
    (
        "k {\n  a =\n  c = 3Qi\n  d = (1\n  b = 1\n}\n}",
        ["E0001 2:6", "E0006 3:8", "E0003 4:7", "E0003 7:1"],
        ["k{}", "b"],
    ),
]


@pytest.mark.parametrize(("text", "errors", "kept"), CASES, ids=[c[0][:30] for c in CASES])
def test_one_diagnostic_per_mistake(text, errors, kept):
    file, diagnostics = parsed(text)
    assert [f"{d.code} {d.span.line}:{d.span.column}" for d in diagnostics if d.span] == errors
    assert names(file) == kept


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("head == untied", "one `=` sets a field, `==` compares"),
        ("check a = 1", "`==` compares, `=` sets a field"),
        ("a: 1", "fields are set with `=`"),
        ("a = 129 280", "digits are grouped with `_`: `129_280`"),
        ("a = .5", "numbers start with a digit: `0.5`"),
        ("at = 1", "`at` is a reserved word and names nothing else"),
        ("// note", "comments start with `#`"),
        ("a = 'x'", 'write "x"'),
        ("a = “x”", 'write `"`'),
        ("a = 1 – 2", "write `-`"),
        ("a = 4Kb", "did you mean `4KB`?"),
        ("a = 4ki", "did you mean `4Ki`?"),
        ("arch 2", "write `arch 1`"),
        ("k {\n  a = [1, 2\n}", "`]` seems to be missing at the end of line 2"),
        ("a = f((1", "`))` seem to be missing at the end of the file"),
    ],
)
def test_help(text, help):
    (diagnostic,) = parsed(text)[1]
    assert diagnostic.help == help


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "(" * 5000 + "1" + ")" * 5000,
        "a { " * 5000 + "}" * 5000,
        "a = " + "k { a = " * 5000 + "1" + "}" * 5000,
        "a = 1" + " + 1" * 5000,
        "a = " + "- " * 5000 + "1",
        "a = " + "not " * 5000 + "b",
        "a = 1" + " + (1" * 60 + ")" * 60,
    ],
    ids=["lists", "parentheses", "blocks", "amendments", "sum", "signs", "nots", "mixed"],
)
def test_too_deep_is_one_diagnostic(text):
    file, diagnostics = parsed(text + "\nb = 1")
    assert [d.code for d in diagnostics] == ["E0004"]
    assert names(file)[-1] == "b"


def test_a_hundred_deep_is_fine():
    for text in ("a = " + "[" * 100 + "]" * 100, "a = 1" + " + 1" * 100, "a = " + "f(1 + " * 50 + "1" + ")" * 50):
        assert parsed(text)[1] == ()


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "(" * 20_000,
        "{" * 20_000,
        "}" * 20_000,
        "a {\n" * 5000 + "}\n" * 4999,
        "x" * 200_000,
        "a = 1\n" * 5000 + "b =",
        "@ " * 5000,
        "a = [\n" * 3000,
        "\n" * 100_000,
        "a = b c d " * 5000,
        ("a " * 30 + "\n") * 500,
    ],
    ids=lambda t: repr(t[:10]),
)
def test_large_garbage_takes_little_time(text):
    start = time.process_time()
    parsed(text)
    assert time.process_time() - start < 8


@settings(max_examples=300, deadline=None)
@given(token_streams)
def test_any_tokens(text):
    check_partial(text)


@settings(max_examples=300, deadline=None)
@given(mutants())
def test_mutated_specs(text):
    check_partial(text)


def check_partial(text: str) -> None:
    """A text gives a tree and diagnostics that lie in it; a clean text gives a whole tree."""
    file, diagnostics = parsed(text)
    lines = text.split("\n")
    for d in diagnostics:
        assert d.span is not None
        assert 1 <= d.span.line <= d.span.end_line <= len(lines)
        assert 1 <= d.span.column <= len(lines[d.span.line - 1]) + 1
        assert d.message
        assert d.code.startswith("E00")
    for node in nodes(file.body.statements):
        assert 1 <= node.span.line <= node.span.end_line <= len(lines)
    if not diagnostics:
        # Nothing that is not white space or a comment may be missing from the tree.
        covered = set()
        for statement in (*file.body.statements, *([file.edition] if file.edition else [])):
            covered.update(range(statement.span.line, statement.span.end_line + 1))
        for number, line in enumerate(lines, 1):
            bare = line.replace("\ufeff", "").strip(" \t\f\r,")
            assert number in covered or not bare or bare.startswith("#")
