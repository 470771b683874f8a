"""Trees that are kept are those that parsing gives, and a file that is not one never gets in the way."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.diagnostics import Sink, Source
from archc.syntax import kept
from archc.syntax.kept import parsed
from archc.syntax.parser import parse
from archc.syntax.tree import File, Node
from tests.syntax.specs import TEXTS

TEXT = "arch 1\n\n## a doc\nlet a = 4Ki\n"


def nodes(value: object) -> list[Node]:
    """A node and all below it."""
    if isinstance(value, tuple):
        return [n for item in value for n in nodes(item)]
    return [value, *nodes(tuple(value.__dict__.values()))] if isinstance(value, Node) else []


def never(*_: object) -> File:
    raise AssertionError("parsed, where the tree is kept")


@given(
    text=st.sampled_from(TEXTS), at=st.integers(0, 10**6), extra=st.sampled_from(["", "\n", " ", "}", "x", "0", "("])
)
def test_a_kept_tree_is_the_parsed_one(tmp_path_factory, text, at, extra):
    """Also of texts that are broken: these are parsed each time, so that each time they are reported."""
    folder = tmp_path_factory.mktemp("trees")
    at %= len(text) + 1
    source = Source("x.arch", text[:at] + extra + text[at:])
    sink = Sink()
    expected = parse(source, sink)
    for _ in range(2):
        found = Sink()
        tree = parsed(source, found, folder)
        assert tree == expected
        assert found.items == sink.items
        assert all(n.span.source is source for n in nodes(tree))
    assert len(list(folder.iterdir())) == (not sink.items)


def test_it_is_read_and_not_parsed(tmp_path, monkeypatch):
    first = parsed(Source("x.arch", TEXT), Sink(), tmp_path)
    monkeypatch.setattr("archc.syntax.parser.parse", never)
    # of the text, whatever the file is called
    again = parsed(Source("y.arch", TEXT), Sink(), tmp_path)
    assert again.source.name == "y.arch"
    assert [type(n) for n in nodes(again)] == [type(n) for n in nodes(first)]
    with pytest.raises(AssertionError, match="parsed"):
        parsed(Source("x.arch", TEXT + "\n"), Sink(), tmp_path)


def test_other_code_has_other_trees(tmp_path, monkeypatch):
    parsed(Source("x.arch", TEXT), Sink(), tmp_path)
    monkeypatch.setattr(kept, "_made_by", lambda: b"another version")
    monkeypatch.setattr("archc.syntax.parser.parse", never)
    with pytest.raises(AssertionError, match="parsed"):
        parsed(Source("x.arch", TEXT), Sink(), tmp_path)


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("trap"),))


@pytest.mark.parametrize(
    "content",
    [b"", b"no tree", pickle.dumps([1]), pickle.dumps(Trap()), pickle.dumps(Sink), b"\x80\x05garbage" * 9],
    ids=["empty", "text", "a list", "code", "a class", "garbage"],
)
def test_a_file_that_is_no_tree_is_written_anew(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    source = Source("x.arch", TEXT)
    tree = parsed(source, Sink(), tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    assert parsed(source, Sink(), tmp_path) == tree
    assert file.read_bytes() == good
    assert list(tmp_path.iterdir()) == [file], "no code of the file has run"


@pytest.mark.parametrize("folder", ["missing", "file/below"])
def test_a_folder_that_cannot_be_used_costs_only_time(tmp_path, folder):
    (tmp_path / "file").write_text("")
    assert parsed(Source("x.arch", TEXT), Sink(), tmp_path / folder).body.statements


def test_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    for i in range(5):
        parsed(Source("x.arch", f"{TEXT}let b = {i}\n"), Sink(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_deep_tree_is_not_kept(tmp_path):
    """A tree deeper than pickle goes is parsed each time."""
    deep = Source("x.arch", f"arch 1\nlet a = {'-' * 3000}1\n")
    sink = Sink()
    try:
        expected = parse(deep, sink)
    except RecursionError:
        pytest.skip("the parser gives up first")
    found = Sink()
    parsed(deep, found, tmp_path)
    assert len(found.items) == len(sink.items)
    assert expected.source is deep
