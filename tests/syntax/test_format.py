"""The formatter changes white space and nothing else, and once is enough."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from archc.syntax.format import format_text, layout
from archc.syntax.parser import tokenize
from tests.syntax.specs import LIBRARY, TEXTS, mutants, specs, token_streams
from tests.syntax.walk import parsed, shape


def comments(text: str) -> list[str]:
    """The comments of a text, in order."""
    return [t.rstrip() for t in tokenize(text) if t.type == "COMMENT"]


def squeezed(text: str) -> str:
    """A text without any white space."""
    return re.sub(r"[\s\ufeff]", "", text)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_the_library_is_formatted(path):
    text = path.read_text(encoding="utf-8")
    assert format_text(text) == text


def check_laws(text: str) -> None:
    """What holds for any text that parses."""
    once = format_text(text)
    assert format_text(once) == once
    assert shape(parsed(once)[0]) == shape(parsed(text)[0])
    assert parsed(once)[1] == ()
    assert comments(once) == comments(text)
    assert squeezed(once) == squeezed(text)
    ending = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    assert once == "" or once.endswith(ending)
    body = once.replace("\r\n", "\n") if ending == "\r\n" else once
    assert "\r" not in body
    assert "\n\n\n" not in body
    assert not re.search(r"[ \t]\n", body)


@settings(max_examples=200, deadline=None)
@given(specs())
def test_laws_on_generated_specs(text):
    assert parsed(text)[1] == ()
    check_laws(text)


@settings(max_examples=200, deadline=None)
@given(mutants())
def test_laws_on_mutated_specs(text):
    if parsed(text)[1]:
        assert format_text(text) == text
    else:
        check_laws(text)


@settings(max_examples=200, deadline=None)
@given(token_streams)
def test_text_that_does_not_parse_is_left_alone(text):
    if parsed(text)[1]:
        assert format_text(text) == text


@settings(max_examples=200, deadline=None)
@given(token_streams)
def test_layout_never_loses_a_character(text):
    """Even where it is not meant to be used."""
    assert squeezed(layout(text)) == squeezed(text)


@pytest.mark.parametrize("text", TEXTS, ids=lambda t: t.split("model ")[-1][:16])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_library_with_odd_white_space(text, ending):
    parts = [line.partition("#") for line in text.splitlines()]  # comments are kept as they are
    lines = [code.replace("  ", "\t").replace(" = ", "   =\t") + mark + comment for code, mark, comment in parts]
    odd = "\ufeff" + "\n".join(lines).replace("\n\n", "\n\n\n").rstrip().replace("\n", "\t" + ending)
    assert odd != text
    assert format_text(odd) == text.replace("\n", ending)
    check_laws(odd)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("\n\n", ""),
        ("# only", "# only\n"),
        ("a=1", "a = 1\n"),
        ("a=1\nlong=2", "a    = 1\nlong = 2\n"),
        ("a=1\n\nlong=2", "a = 1\n\nlong = 2\n"),
        ("a=1\nk{b=2}\nlong=3", "a = 1\nk { b = 2 }\nlong = 3\n"),
        ("a.b=1\nlong=2\nx=r{\nc=1\n}", "a.b  = 1\nlong = 2\nx = r {\n  c = 1\n}\n"),
        ("ffn moe=m{}\na=1", "ffn moe = m {}\na = 1\n"),
        ("heads=1,dim=2\na=1", "heads = 1, dim = 2\na = 1\n"),
        ("a=1,\nlong=2", "a    = 1,\nlong = 2\n"),
        ("x=[ swa*2 ,( csa,hca )*20 ]", "x = [swa * 2, (csa, hca) * 20]\n"),
        ("x=2 .. 42 by 2", "x = 2..42 by 2\n"),
        ("x=3..by 2", "x = 3.. by 2\n"),
        ("x=[dense at 0 .. 2,moe at 3 ..]", "x = [dense at 0..2, moe at 3..]\n"),
        ("x=-1+ - 2*-y", "x = -1 + -2 * -y\n"),
        ("x=(-1)", "x = (-1)\n"),
        ('check not-a<=cost . kv ( context=1Mi )else"w"', 'check not -a <= cost.kv(context = 1Mi) else "w"\n'),
        (
            "sweep s{n=[1,2] ,solve  m for-a==f . b(c=1) within(0.5) # why\n}",
            "sweep s { n = [1, 2], solve m for -a == f.b(c = 1) within (0.5)  # why\n}\n",
        ),
        ("x=f (1)", "x = f(1)\n"),
        ("check a and(b)", "check a and (b)\n"),
        ("k{\n\n\na=1\n\n\n\nb=1\n\n}\n\n\nc=1", "k {\n  a = 1\n\n  b = 1\n}\n\nc = 1\n"),
        ("k{a=[\n1,\n2\n],b=3}", "k { a = [\n  1,\n  2\n], b = 3 }\n"),
        ("x=[(\n1\n)]", "x = [(\n  1\n)]\n"),
        ("k{\n# in\n}\n# out", "k {\n  # in\n}\n# out\n"),
        ("a=1 # x\nlong=2    # y\n\nb=3 # z", "a    = 1  # x\nlong = 2  # y\n\nb = 3  # z\n"),
        ("k{ # x\na=1 # y\n}", "k {      # x\n  a = 1  # y\n}\n"),
        ("a=1   \t\n", "a = 1\n"),
        ("a=1\r\nk{\r\nb=2\r\n}", "a = 1\r\nk {\r\n  b = 2\r\n}\r\n"),
        ("## doc\na=1", "## doc\na = 1\n"),
    ],
)
def test_forms(before, after):
    assert format_text(before) == after
    assert format_text(after) == after
