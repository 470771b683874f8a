"""The grammar is free of conflicts, and its tables are cached without ever getting in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archc import resources
from archc.syntax.parser import build_grammar, load_grammar, tokenize
from archc.syntax.tokens import KEYWORDS


def test_no_conflicts():
    pytest.importorskip("interegular")
    build_grammar(strict=True)


def test_strict_would_tell():
    """The check above can fail: one more alternative makes the grammar ambiguous."""
    from lark import Lark
    from lark.exceptions import GrammarError

    pytest.importorskip("interegular")
    with pytest.raises(GrammarError):
        Lark('start: a | b\na: "x"\nb: "x"', parser="lalr", strict=True)


def test_keywords_are_those_of_the_grammar():
    terminals = build_grammar().terminals
    words = {t.pattern.value for t in terminals if t.pattern.type == "str" and t.pattern.value.isalpha()}
    assert words == set(KEYWORDS)


def test_no_slot_or_kind_in_the_grammar():
    text = resources.grammar().read_text(encoding="utf-8")
    code = "\n".join(line.partition("//")[0] for line in text.splitlines())
    for slot in sorted(
        p.name
        for p in (Path(resources.__file__).parent / "drawers").iterdir()
        if p.is_dir() and not p.name.startswith("_")
    ):
        assert slot not in code


def test_tables_are_written_once_and_read_again(tmp_path):
    load_grammar(tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    grammar = load_grammar(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert file.stat().st_mtime_ns == before
    assert grammar.parse_interactive("").accepts() == build_grammar().parse_interactive("").accepts()


@pytest.mark.parametrize("content", [b"", b"not tables", b"\x80\x04garbage" * 50])
def test_a_broken_file_is_built_anew(tmp_path, content):
    load_grammar(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert load_grammar(tmp_path).terminals
    assert file.read_bytes() != content
    rebuilt = file.stat().st_mtime_ns
    load_grammar(tmp_path)
    assert file.stat().st_mtime_ns == rebuilt


@pytest.mark.parametrize("folder", ["missing", "file/below"])
def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, folder):
    (tmp_path / "file").write_text("")
    assert load_grammar(tmp_path / folder).terminals
    assert load_grammar(None).terminals


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    assert load_grammar(tmp_path).terminals


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("0..2", ["NUMBER", "RANGE", "NUMBER"]),
        ("3.35TB/s", ["NUMBER"]),
        ("4/s", ["NUMBER", "TIMES", "NAME"]),
        ("4K/sx", ["NUMBER", "TIMES", "NAME"]),
        ("1e-6", ["NUMBER"]),
        ("inner in", ["NAME", "IN"]),
        ("a.in_", ["NAME", "DOT", "NAME"]),
        ('"a # b" # c', ["STRING", "COMMENT"]),
        ('"a', ["UNCLOSED"]),
        (r'"a\" b" c', ["STRING", "NAME"]),
        ("a\r\nb", ["NAME", "_NL", "NAME"]),
        ("\ufeffa", ["NAME"]),
        ("a // b", ["NAME", "TIMES", "NAME"]),
        ("é\x00", ["NAME", "STRAY"]),
    ],
)
def test_tokens(text, types):
    assert [t.type for t in tokenize(text)] == types
