"""Imports: files, aliases, the project folder, cycles."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.diagnostics import ArchError, Diagnostic
from archc.resolve import load
from tests.resolve.support import FFN, FIELDS, GQA, only


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a base, shared names, and a folder of its own."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "base.arch").write_text(
        f'arch 1\nimport "parts/shared.arch" as s\nmodel base {{ {FIELDS} attention = s.local\n {FFN} }}\n'
    )
    (tmp_path / "parts" / "shared.arch").write_text(
        "arch 1\nlet width = 4\nattention local = gqa { heads = width, rope = far }\nlet far = rope { theta = 7 }\n"
    )
    return tmp_path


def write(folder: Path, text: str, name: str = "main.arch") -> Path:
    """A further file of the project."""
    (folder / name).write_text(f"arch 1\n{text}\n")
    return folder / name


def errors(path: Path) -> tuple[Diagnostic, ...]:
    """The diagnostics of a load that fails."""
    with pytest.raises(ArchError) as caught:
        load(path)
    return caught.value.diagnostics


def test_names_of_another_file_keep_their_own_scope(folder: Path) -> None:
    path = write(folder, 'import "base.arch" as b\nlet width = 100\nmodel m extends b.base { dim = 128, norm.eps = 1 }')
    attention = load(path).schedule[0].attention
    assert (attention.heads, attention.rope.theta, attention.dim) == (4, 7.0, 128)
    assert attention.label == "local"


def test_lets_of_another_file_are_values(folder: Path) -> None:
    path = write(
        folder,
        f'import "parts/shared.arch" as s\nmodel m {{ {FIELDS} {FFN}'
        "attention = gqa { heads = s.width * 2, rope = s.far { dim = 4 } } }",
    )
    attention = load(path).schedule[0].attention
    assert (attention.heads, attention.rope.theta, attention.rope.dim) == (8, 7.0, 4)


def test_an_import_without_as_is_called_like_its_file(folder: Path) -> None:
    assert load(write(folder, 'import "base.arch"\nmodel m extends base.base { layers = 2 }')).layers == 2


def test_the_library_can_be_imported_from_anywhere(folder: Path) -> None:
    assert (
        load(write(folder, 'import "llama_3_1_8b.arch" as l\nmodel m extends l.llama_3_1_8b { layers = 2 }')).dim
        == 4096
    )


def test_a_file_imported_twice_is_read_once(folder: Path) -> None:
    path = write(folder, 'import "base.arch" as a\nimport "base.arch" as b\nmodel m extends a.base { layers = 2 }')
    assert load(path).layers == 2


@pytest.mark.parametrize(
    ("line", "message", "help"),
    [
        ('import "bse.arch" as b', "there is no file `bse.arch`", "did you mean `base.arch`?"),
        (
            'import "../outside.arch" as b',
            "`../outside.arch` leaves the project folder",
            "imports stay inside the folder of the spec that is compiled",
        ),
        (
            'import "/etc/passwd" as b',
            "an import is a relative path",
            "so that the spec means the same on every machine",
        ),
        ('import "parts" as b', "there is no file `parts`", None),
        ('import "" as b', "an import needs the path of a file", None),
        ('import "a-b.arch"', "`a-b` cannot be a name", 'write `import "a-b.arch" as NAME`'),
        ('import "latin.arch" as b', "cannot read `latin.arch`: it is not UTF-8 text", None),
    ],
)
def test_imports_that_cannot_be_followed(folder: Path, line: str, message: str, help: str | None) -> None:
    (folder / "latin.arch").write_bytes(b"\xff\xfe")
    project = folder / "project"
    project.mkdir()
    for path in (folder / "base.arch", folder / "latin.arch"):
        (project / path.name).write_bytes(
            path.read_bytes().replace(b'import "parts/shared.arch" as s', b"").replace(b"s.local", b"none")
        )
    (folder / "outside.arch").write_text("arch 1\n")
    (problem,) = errors(write(project, f"{line}\nmodel m {{ {FIELDS} {GQA} {FFN} }}"))
    assert (problem.code, problem.message, problem.help) == ("E0102", message, help)


def test_a_link_out_of_the_project_is_outside(folder: Path) -> None:
    project = folder / "project"
    project.mkdir()
    (project / "link.arch").symlink_to(folder / "base.arch")
    assert errors(write(project, f'import "link.arch" as b\nmodel m {{ {FIELDS} {GQA} {FFN} }}'))[0].code == "E0102"


def test_files_that_import_each_other(folder: Path) -> None:
    write(folder, 'import "two.arch" as t', "one.arch")
    write(folder, 'import "one.arch" as o', "two.arch")
    (problem,) = errors(write(folder, f'import "one.arch" as o\nmodel m {{ {FIELDS} {GQA} {FFN} }}'))
    assert (problem.code, problem.message) == (
        "E0102",
        "the imports form a cycle: `one.arch` -> `two.arch` -> `one.arch`",
    )
    assert problem.span.source.name.endswith("two.arch")


def test_a_file_that_imports_itself(folder: Path) -> None:
    (problem,) = errors(write(folder, f'import "main.arch" as o\nmodel m {{ {FIELDS} {GQA} {FFN} }}'))
    assert problem.message == "the imports form a cycle: `main.arch` -> `main.arch`"


def test_models_and_names_that_are_not_there(folder: Path) -> None:
    (problem,) = errors(write(folder, 'import "base.arch" as b\nmodel m extends b.bas { }'))
    assert (problem.code, problem.help) == ("E0106", "did you mean `base`?")
    (problem,) = errors(write(folder, 'import "base.arch" as b\nmodel m extends c.base { }'))
    assert (problem.code, problem.span.text) == ("E0106", "c")
    (problem,) = errors(
        write(folder, f'import "parts/shared.arch" as s\nmodel m {{ {FIELDS} attention = s.lokal\n {FFN} }}')
    )
    assert (problem.code, problem.help) == ("E0118", "did you mean `local`?")


def test_a_missing_import_is_not_echoed_by_what_uses_it(folder: Path) -> None:
    (problem,) = errors(
        write(folder, 'import "nope.arch" as b\nmodel m extends b.base { layers = b.width, attention = b.local }')
    )
    assert problem.code == "E0102"


def test_extending_a_library_model_without_its_import_says_how() -> None:
    problem = only("arch 1\nmodel m extends llama_3_1_8b { layers = 2 }")
    assert problem.help == '`import "llama_3_1_8b.arch" as base` above, then `extends base.llama_3_1_8b`'


def test_errors_of_an_imported_file_are_shown_there(folder: Path) -> None:
    write(folder, f"model base {{ {FIELDS} attention = gqa {{ heds = 4 }}\n {FFN} }}", "bad.arch")
    (problem,) = errors(write(folder, 'import "bad.arch" as b\nmodel m extends b.base { layers = 2 }'))
    assert (problem.span.source.name.rsplit("/", 1)[1], problem.span.text, problem.help) == (
        "bad.arch",
        "heds",
        "did you mean `heads`?",
    )
