"""The registry: drawers from folders, and files that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from archc import drawers
from archc.drawers import DrawerError, drawer_class, kinds
from archc.drawers.catalog import default_text, entries, json_schema, model_entry, slots
from archc.resolve import check_text, load
from archc.schema import Attention
from archc.schema.describe import describe
from tests.resolve.support import FFN, GQA, TOYS, spec

TOY = '''
from archc.schema import Attention, field


class Toy(Attention):
    """A toy."""

    dim: int = field("width", inherit="dim")
    size: int = field("a size", default=3, gt=0)
'''


def write(path: Path, text: str) -> Path:
    """A drawer file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_built_in_kinds_are_the_files_of_their_folders() -> None:
    home = Path(drawers.__file__).parent
    for slot in slots():
        # A name that starts with an underscore is what kinds share.
        files = (p.stem for p in (home / slot).glob("*.py"))
        assert kinds(slot) == tuple(sorted(name for name in files if not name.startswith("_")))
    assert "gqa" in kinds("attention")
    assert kinds("no_such_slot") == ()


def test_every_built_in_drawer_is_usable_and_documented() -> None:
    found = entries()
    assert len(found) >= 10
    for entry in (*found, model_entry()):
        assert entry.doc, entry.name
        for info in entry.fields:
            assert info.doc or entry.slot == "model", f"{entry.name}.{info.name}"
            assert not info.doc.endswith("."), f"{entry.name}.{info.name}"


def test_a_class_knows_its_slot_and_kind() -> None:
    cls = drawer_class("attention", "gqa")
    assert (cls.slot, cls.kind, issubclass(cls, Attention)) == ("attention", "gqa", True)
    assert drawer_class("rope", "llama3").kind == "llama3"
    with pytest.raises(KeyError):
        drawer_class("attention", "nope")


@pytest.mark.parametrize("place", ["attention/toy.py", "toy.py"])
def test_a_drawer_of_a_folder_resolves(tmp_path: Path, place: str) -> None:
    write(tmp_path / "more" / place, TOY)
    file = tmp_path / "m.arch"
    file.write_text(spec("attention = toy { size = 5 }\n" + FFN))
    attention = load(file, drawers=[tmp_path / "more"]).schedule[0].attention
    assert (attention.kind, attention.slot, attention.dim, attention.size) == ("toy", "attention", 64, 5)
    assert kinds("attention", (tmp_path / "more",)) == tuple(sorted((*kinds("attention"), "toy")))
    assert [d.code for d in check_text(file.read_text())] == ["E0114"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    import os

    path = write(tmp_path / "attention" / "toy.py", TOY)
    assert "size" in describe(drawer_class("attention", "toy", (tmp_path,)))
    path.write_text(TOY.replace("size:", "height:"))
    os.utime(path, ns=(1, 1))
    assert "height" in describe(drawer_class("attention", "toy", (tmp_path,)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("raise ValueError('at import')", "ValueError: at import"),
        ("x = 3", "exactly one public drawer class, this one defines 0 (none)"),
        (
            TOY + TOY.replace("class Toy", "class Other"),
            "exactly one public drawer class, this one defines 2 (Toy, Other)",
        ),
        (
            TOY.replace("Attention", "FeedForward"),
            "Toy is a drawer of slot `ffn`, but stands where `attention` drawers are",
        ),
        (TOY.replace("size: int", "size: dict[str, int]"), "the language has no values of type dict[str, int]"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_diagnostic(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path / "attention" / "toy.py", text)
    with pytest.raises(DrawerError):
        drawer_class("attention", "toy", (tmp_path,))
    (problem,) = check_text(spec("attention = toy\n" + FFN), drawers=[tmp_path])
    assert (problem.code, problem.span.text) == ("E0116", "toy")
    assert str(path) in problem.message
    assert reason in problem.message
    assert check_text(spec(GQA + FFN), drawers=[tmp_path]) == ()


@pytest.mark.parametrize("text", ["def broken(:", "class A:\n  pass\nraise SystemExit(3)"])
def test_a_single_file_that_cannot_be_read_is_reported_once(tmp_path: Path, text: str) -> None:
    """It is read to learn its slot, at whatever name comes first; the other names of the spec say nothing new."""
    path = write(tmp_path / "toy.py", text)
    for attention in ("attention = toy\n", "attention = gqa { heads = 4, rope = rope }\n"):
        (problem,) = check_text(spec(attention + FFN + "norm = rms\n"), drawers=[tmp_path])
        assert problem.code == "E0116"
        assert str(path) in problem.message
        assert problem.message.count("line 1") == text.startswith("def")


def test_helpers_and_private_files_are_no_drawers(tmp_path: Path) -> None:
    write(tmp_path / "attention" / "_shared.py", "raise ValueError")
    write(tmp_path / "helper.py", "SIZE = 3")
    write(tmp_path / "not-a-name.py", "raise ValueError")
    assert kinds("attention", (tmp_path,)) == kinds("attention")


def test_an_installed_package_offers_drawers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lent_drawers" / "attention" / "lent.py", TOY)
    write(tmp_path / "lent_drawers" / "__init__.py", "")
    write(tmp_path / "lent-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: lent\nVersion: 1.0\n")
    write(tmp_path / "lent-1.0.dist-info" / "entry_points.txt", "[archc.drawers]\nlent = lent_drawers\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    drawers._entry_folders.cache_clear()
    try:
        assert "lent" not in kinds("attention")
        assert "lent" in kinds("attention", installed=True)
        assert check_text(spec("attention = lent\n" + FFN)) == ()
    finally:
        drawers._entry_folders.cache_clear()


def test_entry_points_are_looked_up_for_unknown_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(drawers, "_entry_folders", lambda: asked.append(1) or ())
    load("llama_3_1_8b")
    assert asked == []
    check_text(spec("attention = gpa\n" + FFN))
    assert asked


def test_resolving_imports_neither_torch_nor_networkx() -> None:
    import subprocess

    code = (
        "import sys; from archc.resolve import load; load('llama_3_1_70b');"
        "heavy = ('torch', 'triton', 'transformers', 'networkx', 'jinja2', 'rich', 'numpy');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


def test_defaults_as_text() -> None:
    yarn, gqa = describe(drawer_class("rope", "yarn")), describe(drawer_class("attention", "gqa"))
    assert [default_text(yarn[n]) for n in ("beta_slow", "theta", "truncate", "mscale", "factor", "pairs")] == [
        "1",
        "10000",
        "true",
        "none",
        "",
        "half",
    ]
    assert [default_text(gqa[n]) for n in ("dim", "kv_heads", "bias")] == ["= dim", "computed", "false"]


def test_the_json_schema_closes_over_its_references() -> None:
    schema = json_schema((TOYS,))
    definitions = schema["$defs"]

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            return [v for k, v in node.items() if k == "$ref"] + [r for v in node.values() for r in references(v)]
        return [r for v in node for r in references(v)] if isinstance(node, list) else []

    names = {r.removeprefix("#/$defs/").replace("~1", "/") for r in references(schema)}
    assert names <= definitions.keys()
    assert {"attention", "attention/gqa", "compress/pool"} <= names
    gqa = definitions["attention/gqa"]
    assert gqa["required"] == ["kind", "heads"]
    assert gqa["properties"]["heads"] == {"description": "query heads", "type": "integer", "exclusiveMinimum": 0}
    assert gqa["properties"]["window"]["anyOf"] == [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]
    assert schema["required"] == ["vocab", "dim", "layers", "context", "attention", "ffn"]
