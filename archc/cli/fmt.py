"""`archc fmt`: specs in canonical form."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from archc.cli.options import failed, format_option, show
from archc.diagnostics import Diagnostic, Sink, Source
from archc.diagnostics.render import Format


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file is not in canonical form.")
@format_option()
@click.argument("paths", nargs=-1, metavar="[PATHS | -]", type=click.Path(exists=True, allow_dash=True))
def command(paths: tuple[str, ...], check: bool, format: Format) -> None:
    """Format specs in place.

    PATHS are files, or folders searched for .arch files; by default the current folder. `-` reads standard input and
    writes standard output. Files with syntax errors are reported and left as they are.
    """
    if "-" in paths:
        if len(paths) > 1:
            raise click.UsageError("`-` stands alone")
        _standard_input(check, format)
        return
    found: list[Diagnostic] = []
    changed = []
    for path in _files(paths or (".",)):
        before = _read(path)
        after = _formatted(before, str(path), found)
        if after != before:
            changed.append(path)
            if not check:
                _write(path, after)
    if found or format != "text":
        show(found, format)
    for path in changed:
        click.echo(f"{'would format' if check else 'formatted'} {path}", err=format != "text")
    if failed(found) or (check and changed):
        raise SystemExit(1)


def _standard_input(check: bool, format: Format) -> None:
    before = _decoded(sys.stdin.buffer.read(), "<stdin>")
    found: list[Diagnostic] = []
    after = _formatted(before, "<stdin>", found)
    if failed(found):
        show(found, format)
        raise SystemExit(1)
    if check:
        raise SystemExit(after != before)
    sys.stdout.flush()
    sys.stdout.buffer.write(after.encode())
    sys.stdout.buffer.flush()


def _formatted(text: str, name: str, found: list[Diagnostic]) -> str:
    """The text in canonical form; as it is when it has syntax errors, which go to ``found``."""
    from archc.syntax.format import layout
    from archc.syntax.parser import parse

    sink = Sink()
    parse(Source(name, text), sink)
    found.extend(sink.in_order())
    return text if sink.errors else layout(text)


def _files(paths: tuple[str, ...]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(
                p
                for p in path.rglob("*.arch")
                if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
        else:
            yield path


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise click.UsageError(f"{name}:{line}: not UTF-8 text") from error


def _write(path: Path, text: str) -> None:
    """Replaces a file in one step, so that a crash never leaves half of it."""
    target = path.resolve()
    try:
        with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            file.write(text.encode())
        written = Path(file.name)
        written.chmod(target.stat().st_mode)
        written.replace(target)
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
