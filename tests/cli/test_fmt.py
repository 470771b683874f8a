"""`archc fmt`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from archc.cli import main


def run(*args: str, **options):
    return CliRunner().invoke(main, ["fmt", *args], **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "ugly.arch").write_text("a=1\n")
    (tmp_path / "fine.arch").write_text("a = 1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep.arch").write_bytes(b"b=2\r\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "h.arch").write_text("h=1\n")
    (tmp_path / "note.txt").write_text("c=3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_current_folder_by_default(folder):
    result = run()
    assert result.exit_code == 0
    assert result.output == "formatted sub/deep.arch\nformatted ugly.arch\n"
    assert (folder / "ugly.arch").read_bytes() == b"a = 1\n"
    assert (folder / "sub" / "deep.arch").read_bytes() == b"b = 2\r\n"
    assert (folder / "note.txt").read_text() == "c=3\n"
    assert (folder / ".hidden" / "h.arch").read_text() == "h=1\n"
    assert run().output == ""


def test_check_writes_nothing(folder):
    before = (folder / "ugly.arch").stat().st_mtime_ns
    result = run("--check", "ugly.arch", "fine.arch")
    assert (result.exit_code, result.output) == (1, "would format ugly.arch\n")
    assert (folder / "ugly.arch").read_text() == "a=1\n"
    assert (folder / "ugly.arch").stat().st_mtime_ns == before
    assert run("--check", "fine.arch").exit_code == 0


def test_a_file_that_does_not_parse_is_reported_and_left_alone(folder):
    (folder / "bad.arch").write_text("a=\nb=1\n")
    result = run("bad.arch", "ugly.arch")
    assert result.exit_code == 1
    assert "error[E0001]" in result.output
    assert "bad.arch:1:3" in result.output
    assert (folder / "bad.arch").read_text() == "a=\nb=1\n"
    assert (folder / "ugly.arch").read_text() == "a = 1\n"


def test_formats(folder):
    (folder / "bad.arch").write_text("a=\n")
    assert json.loads(run("--format", "json", "bad.arch").output)["diagnostics"][0]["code"] == "E0001"
    assert run("--format", "github", "bad.arch").output.startswith("::error file=bad.arch,line=1,")


def test_standard_input():
    result = run("-", input="a=1 # é\n")
    assert (result.exit_code, result.output) == (0, "a = 1  # é\n")
    assert run("-", "--check", input="a=1\n").exit_code == 1
    assert run("-", "--check", input="a = 1\n").exit_code == 0
    result = run("-", input="a=\n")
    assert result.exit_code == 1
    assert "<stdin>:1:3" in result.output


def test_the_mode_of_a_file_and_a_link_survive(folder):
    target = folder / "ugly.arch"
    target.chmod(0o640)
    (folder / "link.arch").symlink_to(target)
    assert run("link.arch").exit_code == 0
    assert (folder / "link.arch").is_symlink()
    assert target.read_text() == "a = 1\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in folder.iterdir()) == [
        ".hidden",
        "fine.arch",
        "link.arch",
        "note.txt",
        "sub",
        "ugly.arch",
    ]


@pytest.mark.parametrize("args", [["no_such.arch"], ["-", "fine.arch"], ["latin.arch"]])
def test_wrong_usage_is_2(folder, args):
    (folder / "latin.arch").write_bytes(b"a = 1\n# \xe9\n")
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if args == ["latin.arch"]:
        assert "latin.arch:2: not UTF-8" in result.output
