"""The typed vocabulary follows the ops."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from archc.graph import builder
from archc.graph.describe import usages, vocabulary
from archc.ops import OPS


def test_stub_is_up_to_date(golden, request: pytest.FixtureRequest) -> None:
    """`make golden` writes it."""
    file = Path(builder.__file__).with_name("vocabulary.pyi")
    if request.config.getoption("--update-golden"):
        file.write_text(vocabulary())
    assert file.read_text() == vocabulary()


def test_stub_has_every_op_and_parses() -> None:
    (cls,) = (n for n in ast.parse(vocabulary()).body if isinstance(n, ast.ClassDef))
    assert {f.name for f in cls.body if isinstance(f, ast.FunctionDef)} == set(OPS)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("linear", "g.linear(name, x, out=..., bias=False, role='matrix')"),
        ("attend", "g.attend(q, keys, values, time, sinks?, scale=..., window=None)"),
        ("cat", "g.cat(*xs)"),
        ("rms_norm", "g.rms_norm(name, x, eps=...)"),
        ("split", "g.split(x, sizes=...)"),
    ],
)
def test_usage_reads_as_a_call(kind: str, call: str) -> None:
    assert next(u for u in usages() if u.kind == kind).call == call
