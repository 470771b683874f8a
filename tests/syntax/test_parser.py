"""From text to tree: shapes, spans, docs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from archc.diagnostics import Sink, Source
from archc.syntax import tree
from archc.syntax.parser import parse
from tests.syntax.specs import LIBRARY, TEXTS, specs
from tests.syntax.walk import nodes, parsed, shape


def value(text: str) -> tree.Expr:
    """The expression of `x = text`."""
    file, diagnostics = parsed(f"x = {text}")
    assert diagnostics == ()
    (statement,) = file.body.statements
    assert isinstance(statement, tree.Assign)
    return statement.value


def written(node: tree.Expr) -> str:
    """An expression with all its brackets, to show how it was read."""
    match node:
        case tree.Number(value=v) | tree.Constant(value=v):
            return str(v)
        case tree.String(value=v):
            return repr(v)
        case tree.Ref():
            return node.text
        case tree.Unary(op=op, operand=x):
            return f"({op} {written(x)})"
        case tree.Binary(op=op, left=a, right=b):
            return f"({written(a)} {op} {written(b)})"
        case tree.Range(start=a, stop=b, step=c):
            return f"<{written(a)}..{written(b) if b else ''}{' by ' + written(c) if c else ''}>"
        case tree.Placed(item=a, where=b):
            return f"{{{written(a)} at {written(b)}}}"
        case tree.List(items=items):
            return f"[{', '.join(map(written, items))}]"
        case tree.Group(items=items):
            return f"({', '.join(map(written, items))})"
        case tree.Call(ref=ref, args=args, keywords=keywords):
            given = [*map(written, args), *(f"{k.name.text}={written(k.value)}" for k in keywords)]
            return f"{ref.text}({', '.join(given)})"
        case tree.Amend(base=base, body=body):
            return f"{base.text}{{{len(body.statements)}}}"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1 + 2 * 3 - 4", "((1 + (2 * 3)) - 4)"),
        ("8 // 2 % 3", "((8 // 2) % 3)"),
        ("(1 + 2) * 3", "((1 + 2) * 3)"),
        ("-x * 2", "((- x) * 2)"),
        ("- - 1", "(- (- 1))"),
        ("not a == b and c or d", "(((not (a == b)) and c) or d)"),
        ("a <= b + 1", "(a <= (b + 1))"),
        ("2..42 by 2", "<2..42 by 2>"),
        ("3..", "<3..>"),
        ("3.. by 2", "<3.. by 2>"),
        ("a + 1..b - 1", "<(a + 1)..(b - 1)>"),
        ("engram at [1, 14]", "{engram at [1, 14]}"),
        ("dense at 0..2", "{dense at <0..2>}"),
        ("[swa * 2, (csa, hca) * 20, csa]", "[(swa * 2), ((csa, hca) * 20), csa]"),
        ("((delta * 3, full) * 12)", "(((delta * 3), full) * 12)"),
        ("[moe * rest,]", "[(moe * rest)]"),
        ("[]", "[]"),
        ("(csa) * 2", "(csa * 2)"),
        ("cost.kv(context = 1Mi, 2, mode = decode,)", "cost.kv(2, context=1048576, mode=decode)"),
        ("f()", "f()"),
        ("mla { heads = 1, rope = none }", "mla{2}"),
        ("o.v3 {}", "o.v3{0}"),
        (r'"a \"b\" \\ \n\t é"', repr('a "b" \\ \n\t é')),
        ("true", "True"),
        ("none", "None"),
        ("1 +\n 2", "(1 + 2)"),
        ("[\n1,\n\n2\n]", "[1, 2]"),
        ("f(\n  a = 1,\n  b = 2\n)", "f(a=1, b=2)"),
    ],
)
def test_expressions(text, read):
    assert written(value(text)) == read


def test_every_statement():
    file, diagnostics = parsed(TEXTS[-1])
    assert diagnostics == ()
    assert file.edition is not None
    assert file.edition.value == 1
    assert [type(s).__name__ for s in file.body.statements] == [
        "Import",
        "Let",
        "Param",
        "Section",
        "Section",
        "Section",
        "Declare",
    ]
    found = {type(n).__name__ for n in nodes(file)}
    concrete = {c.__name__ for c in tree.Node.__subclasses__() + tree.Statement.__subclasses__()} - {"Statement"}
    assert found == concrete


def test_sections():
    file, _ = parsed('model v4 7 "x" extends o.v3 { a = 1 }\ncsa { b = 2 }\na.b.c { }')
    model, amend, path = file.body.statements
    assert isinstance(model, tree.Section)
    assert model.head.text == "model"
    assert [type(label).__name__ for label in model.labels] == ["Name", "Number", "String"]
    assert model.extends is not None
    assert model.extends.text == "o.v3"
    assert isinstance(amend, tree.Section)
    assert (amend.labels, amend.extends, len(amend.body.statements)) == ((), None, 1)
    assert isinstance(path, tree.AmendPath)
    assert path.path.text == "a.b.c"


def test_solve():
    file, diagnostics = parsed(
        "sweep s { n = [1, 2], solve m for a + 1 == -b\n## doc\nsolve k for c == 2 within 1 / 8 }"
    )
    assert diagnostics == ()
    (section,) = file.body.statements
    assert isinstance(section, tree.Section)
    _, plain, close = section.body.statements
    assert isinstance(plain, tree.Solve)
    assert isinstance(close, tree.Solve)
    assert (plain.param.text, plain.doc, plain.tolerance) == ("m", "", None)
    assert written(plain.equation) == "((a + 1) == (- b))"
    assert (close.param.text, close.doc) == ("k", "doc")
    assert close.tolerance is not None
    assert written(close.tolerance) == "(1 / 8)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("solve for a == b", "expected a name, found `for`"),
        ("solve n a == b", "expected `for`, found `a`"),
        ("solve n for\nm = [1]", "expected a value, the line ends"),
        ("solve n for a == b within", "expected a value, found `}`"),
        ("within = 1", "found `within`"),
    ],
)
def test_what_is_wrong_with_a_solve(text, message):
    file, (problem,) = parsed(f"sweep s {{\n{text}\n}}\nlet after = 1")
    assert problem.code == "E0001"
    assert message in problem.message
    assert isinstance(file.body.statements[-1], tree.Let)


def test_import_param_check():
    file, _ = parsed(
        'import "a.arch"\nimport "b.arch" as b\nparam n = 1\nparam m = 1 in 1..8\ncheck a\ncheck b else "why"'
    )
    plain, named, free, bound, bare, told = file.body.statements
    assert isinstance(plain, tree.Import)
    assert isinstance(named, tree.Import)
    assert (plain.path.value, plain.alias) == ("a.arch", None)
    assert named.alias is not None
    assert named.alias.text == "b"
    assert isinstance(free, tree.Param)
    assert isinstance(bound, tree.Param)
    assert free.domain is None
    assert isinstance(bound.domain, tree.Range)
    assert isinstance(bare, tree.Check)
    assert isinstance(told, tree.Check)
    assert bare.why is None
    assert told.why is not None
    assert told.why.value == "why"


def test_docs_go_to_the_next_statement():
    head = "## file\narch 1\n## one\n##   two\n# plain\n\n"
    body = "  ## of a\n  a = 1  ## not a doc\n  b = 2\n  ### a banner\n  c = [\n  ## lost\n  1]\n"
    (model,) = parsed(f"{head}model m {{\n{body}}}\n## dangling\n")[0].body.statements
    assert isinstance(model, tree.Section)
    assert model.doc == "one\ntwo"
    assert [s.doc for s in model.body.statements] == ["of a", "", ""]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_the_library_parses(path):
    sink = Sink()
    file = parse(Source(str(path), path.read_text(encoding="utf-8")), sink)
    assert sink.items == []
    assert file.body.statements


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("x = (a + b) * c", ["x = (a + b) * c", "x", "x", "(a + b) * c", "(a + b)", "a", "a", "b", "b", "c", "c"]),
        (
            "s n = k { a = 1 }",
            ["s n = k { a = 1 }", "s", "n", "k { a = 1 }", "k", "k", "{ a = 1 }", "a = 1", "a", "a", "1"],
        ),
        (
            'check f(k = 2..) else "é" # no',
            ['check f(k = 2..) else "é"', "f(k = 2..)", "f", "f", "k = 2..", "k", "2..", "2", '"é"'],
        ),
        ("a.b {\n  c = 1\n}", ["a.b {\n  c = 1\n}", "a.b", "a", "b", "{\n  c = 1\n}", "c = 1", "c", "c", "1"]),
    ],
)
def test_spans_cover_exactly_their_text(text, spans):
    (statement,) = parsed(text)[0].body.statements
    assert [n.span.text for n in nodes(statement)] == spans


def test_crlf_does_not_shift_spans():
    text = "arch 1\nx = 1\ny = foo { a = 2 }\n"
    unix, dos = parsed(text)[0], parsed(text.replace("\n", "\r\n"))[0]
    assert shape(unix) == shape(dos)
    for a, b in zip(nodes(unix.body.statements), nodes(dos.body.statements), strict=True):
        assert (a.span.line, a.span.column, a.span.end_line, a.span.end_column) == (
            b.span.line,
            b.span.column,
            b.span.end_line,
            b.span.end_column,
        )


@settings(max_examples=150, deadline=None)
@given(specs())
def test_generated_specs_parse_and_spans_nest(text):
    file, diagnostics = parsed(text)
    assert diagnostics == ()

    def inside(node: tree.Node) -> None:
        for child in nodes(node):
            assert (node.span.line, node.span.column) <= (child.span.line, child.span.column)
            assert (child.span.end_line, child.span.end_column) <= (node.span.end_line, node.span.end_column)
            assert child.span.text.strip()

    for statement in file.body.statements:
        inside(statement)
    starts = [(s.span.line, s.span.column) for s in file.body.statements]
    assert starts == sorted(starts)


@settings(max_examples=100, deadline=None)
@given(specs())
def test_statements_stand_alone(text):
    """A statement's own text parses to the same statement."""
    file, _ = parsed(text)
    for statement in file.body.statements:
        again, diagnostics = parsed(statement.span.text)
        assert diagnostics == ()
        assert [shape(s)[1:] for s in again.body.statements] == [_without_doc(shape(statement))]


def _without_doc(shaped):
    return tuple((name, "" if name == "doc" else value) for name, value in shaped[1:])
