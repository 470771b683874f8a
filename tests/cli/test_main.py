"""The command line as a whole: commands found by listing, exit codes, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import archc.cli
from archc import __version__
from archc.cli import main
from archc.diagnostics import ArchError, Diagnostic

COMMANDS = main.list_commands(click.Context(main))


def run(*args: str, **options):
    return CliRunner().invoke(main, list(args), **options)


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag):
    result = run(flag)
    assert (result.exit_code, result.output) == (0, f"archc {__version__}\n")


def test_every_file_is_a_command():
    folder = Path(archc.cli.__file__).parent
    files = {p.stem.rstrip("_") for p in folder.glob("*.py") if not p.stem.startswith("_")} - {"options"}
    assert set(COMMANDS) == files
    assert {"check", "explain", "fmt"} <= files


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_all_commands():
    output = run("--help").output
    assert all(name in output for name in COMMANDS)


def test_unknown_command():
    result = run("chek")
    assert result.exit_code == 2
    assert "did you mean `check`?" in result.output
    result = run("zzzzzz")
    assert result.exit_code == 2
    assert "zzzzzz" in result.output


def _failing(monkeypatch, error: Exception) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: command if name == "boom" else None)


def test_an_internal_error_is_one_line(monkeypatch):
    _failing(monkeypatch, RuntimeError("first\nsecond"))
    result = run("boom")
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "RuntimeError: first" in result.output
    assert "please report" in result.output


def test_an_internal_error_in_full_with_archc_debug(monkeypatch):
    _failing(monkeypatch, RuntimeError("first"))
    monkeypatch.setenv("ARCHC_DEBUG", "1")
    assert isinstance(run("boom").exception, RuntimeError)


def test_arch_errors_are_shown_with_exit_code_1(monkeypatch):
    _failing(monkeypatch, ArchError((Diagnostic(code="E0106", message="there is no spec `x`"),)))
    result = run("boom")
    assert (result.exit_code, result.output) == (1, "error[E0106]: there is no spec `x`\n")


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "archc", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == f"archc {__version__}\n"


def test_heavy_libraries_stay_out():
    """What `archc fmt` and `archc explain` import: neither torch nor the drawers' libraries."""
    program = """
import sys
from click.testing import CliRunner
from archc.cli import main
assert CliRunner().invoke(main, ["fmt", "--check", "specs"]).exit_code == 0
assert CliRunner().invoke(main, ["explain", "E0001"]).exit_code == 0
heavy = {"torch", "triton", "transformers", "numpy", "networkx", "jinja2", "rich", "pydantic"} & sys.modules.keys()
assert not heavy, heavy
assert CliRunner().invoke(main, ["check", "llama_3_1_8b"]).exit_code == 0
heavy = {"torch", "triton", "transformers", "jinja2", "rich"} & sys.modules.keys()
assert not heavy, heavy
"""
    root = Path(archc.cli.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
