"""The files of a spec: reading, parsing, imports."""

from __future__ import annotations

import os
import re
from dataclasses import field
from pathlib import Path

from archc import resources
from archc.diagnostics import Diagnostic, Related, Sink, Source, Span
from archc.record import dataclass
from archc.resolve.suggest import did_you_mean, listed
from archc.schema.slots import slot_names
from archc.syntax.kept import parsed
from archc.syntax.tree import Assign, Check, Declare, File, Import, Let, Param, Section, Solve, Statement

MAX_BYTES = 4 << 20


@dataclass(slots=True, eq=False)
class Unit:
    """One file with the names it declares. ``models`` keep their order."""

    file: File
    path: Path | None
    models: dict[str, Section] = field(default_factory=dict)
    names: dict[str, Let | Param | Declare] = field(default_factory=dict)
    imports: dict[str, Unit | None] = field(default_factory=dict)
    sweeps: list[Section] = field(default_factory=list)
    errors: tuple[Span, ...] = ()
    """Where it does not parse."""

    @property
    def source(self) -> Source:
        """The text."""
        return self.file.source

    def broken_in(self, span: Span) -> bool:
        """Whether something inside ``span`` did not parse."""
        return any(span.line <= e.line <= span.end_line for e in self.errors) if span.source is self.source else False

    def lost(self, name: str) -> bool:
        """Whether a statement that did not parse seems to have defined ``name``: then its absence is an echo."""
        return bool(self.errors) and bool(
            re.search(rf"\b{re.escape(name)}\s*(=|\{{|\bextends\b|$)", self.source.text, re.MULTILINE)
        )


@dataclass(slots=True, eq=False)
class Project:
    """Reads files once each. ``root`` is the folder that imports may not leave (besides the library of specs)."""

    sink: Sink
    root: Path | None
    _units: dict[Path, Unit] = field(default_factory=dict)
    _active: list[Path] = field(default_factory=list)

    def open(self, path: Path, shown: str) -> Unit | None:
        """The unit of the root file; None (and a diagnostic without a place) when it cannot be read."""
        try:
            text = read(path)
        except ValueError as error:
            self.sink.add(Diagnostic(code="E0106", message=f"cannot read `{shown}`: {error}"))
            return None
        return self._unit(path.resolve(), Source(shown, text))

    def text(self, name: str, text: str) -> Unit:
        """The unit of a text that is not in a file."""
        return self._read(Source(name, text), None)

    def _unit(self, path: Path, source: Source) -> Unit:
        self._active.append(path)
        unit = self._units[path] = self._read(source, path)
        self._active.pop()
        return unit

    def _read(self, source: Source, path: Path | None) -> Unit:
        known = len(self.sink.items)
        file = parsed(source, self.sink)
        unit = Unit(file, path)
        unit.errors = tuple(
            d.span for d in self.sink.items[known:] if d.severity == "error" and d.span and d.span.source is source
        )
        for statement in file.body.statements:
            self._declare(unit, statement)
        return unit

    def _declare(self, unit: Unit, statement: Statement) -> None:
        match statement:
            case Import():
                self._import(unit, statement)
            case Declare(slot=slot) if slot.text == "model":
                help = f"write `model {statement.name.text} extends BASE {{ ... }}`"
                self._error("E0109", "a model is not set with `=`", statement.slot.span.to(statement.name.span), help)
            case Declare(slot=slot) if slot.text not in slot_names():
                near = did_you_mean(slot.text, slot_names()) or f"slots: {listed(slot_names())}"
                self._error("E0113", f"there is no slot `{slot.text}`", slot.span, near)
            case Let() | Param() | Declare():
                if self._free(unit, statement.name.text, statement.name.span):
                    unit.names[statement.name.text] = statement
            case Section(head=head, labels=(label, *_)) if head.text == "model":
                text = getattr(label, "text", None)
                if text is None or len(statement.labels) > 1:
                    self._error("E0109", "a model has one name", label.span, "write `model NAME { ... }`")
                elif self._free(unit, text, label.span):
                    unit.models[text] = statement
            case Section(head=head) if head.text == "model":
                self._error("E0109", "this model has no name", head.span, "write `model NAME { ... }`")
            case Section(head=head) if head.text == "sweep":
                unit.sweeps.append(statement)
            case Section(head=head, labels=labels) if labels and head.text != "model":
                self._error(
                    "E0109",
                    f"`{head.text}` cannot stand here",
                    head.span,
                    did_you_mean(head.text, ("model", "sweep")) or _INSIDE,
                )
            case Check():
                self._error("E0109", "a `check` stands inside a model", statement.span)
            case Solve():
                self._error("E0109", "a `solve` stands inside a sweep", statement.span)
            case Assign(path=path):
                self._error("E0109", f"`{path.text}` is set outside a model", path.span, _INSIDE)
            case Section(head=head):
                self._error("E0109", f"`{head.text} {{ }}` stands inside a model", head.span)
            case _:
                self._error("E0109", "this stands inside a model", statement.span)

    def _free(self, unit: Unit, name: str, span: Span) -> bool:
        """Whether a file does not use the name yet; an error otherwise."""
        first: Span | None = None
        if name in unit.models:
            first = unit.models[name].labels[0].span
        elif name in unit.names:
            first = unit.names[name].name.span
        if first is None:
            return True
        self.sink.add(
            Diagnostic(
                code="E0108",
                message=f"`{name}` is defined twice",
                span=span,
                related=(Related(span=first, message="first defined here"),),
            )
        )
        return False

    def _import(self, unit: Unit, statement: Import) -> None:
        written = statement.path.value
        alias = statement.alias.text if statement.alias else Path(written).stem
        span = statement.alias.span if statement.alias else statement.path.span
        if not alias.isidentifier():
            self._error("E0102", f"`{alias}` cannot be a name", span, f'write `import "{written}" as NAME`')
            return
        if alias in unit.imports:
            self._error("E0108", f"`{alias}` is defined twice", span, "give one of the imports another name: `as NAME`")
            return
        unit.imports[alias] = self._imported(unit, statement, written)

    def _imported(self, unit: Unit, statement: Import, written: str) -> Unit | None:
        span = statement.path.span
        if not written or "\0" in written:
            return self._error("E0102", "an import needs the path of a file", span)
        if Path(written).is_absolute():
            return self._error(
                "E0102", "an import is a relative path", span, "so that the spec means the same on every machine"
            )
        library = resources.specs().resolve()
        homes = [p for p in (unit.path.parent if unit.path else None, library) if p is not None]
        for home in homes:
            try:
                path = (home / written).resolve()
                present = path.is_file()
            except (OSError, ValueError, RuntimeError):
                present = False
                path = home
            if not present:
                continue
            if not any(root is not None and path.is_relative_to(root) for root in (self.root, library)):
                return self._error(
                    "E0102",
                    f"`{written}` leaves the project folder",
                    span,
                    "imports stay inside the folder of the spec that is compiled",
                )
            return self._found(unit, path, span, written)
        near = did_you_mean(Path(written).name, [p.name for home in homes for p in home.glob("*.arch")])
        return self._error("E0102", f"there is no file `{written}`", span, near)

    def _found(self, unit: Unit, path: Path, span: Span, written: str) -> Unit | None:
        if path in self._active:
            chain = " -> ".join(f"`{p.name}`" for p in (*self._active[self._active.index(path) :], path))
            return self._error("E0102", f"the imports form a cycle: {chain}", span)
        if path in self._units:
            return self._units[path]
        if len(self._active) > 60:
            return self._error("E0102", "the imports are nested too deeply", span)
        try:
            text = read(path)
        except ValueError as error:
            return self._error("E0102", f"cannot read `{written}`: {error}", span)
        return self._unit(path, Source(os.path.normpath(Path(unit.source.name).parent / written), text))

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.sink.add(Diagnostic(code=code, message=message, span=span, help=help))


_INSIDE = "fields, drawers and schedules stand inside `model NAME { ... }`"


def read(path: Path) -> str:
    """The text of a spec file. Raises ValueError with a short reason when it cannot be read."""
    try:
        if path.is_dir():
            raise ValueError("it is a folder")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be opened") from None


def locate(spec: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """The path of a spec and how messages call it: a path, else the name of a spec in the library; None when there is
    neither.
    """
    path = Path(spec)
    try:
        if path.exists():
            return path, str(spec)
        if path.suffix in ("", ".arch") and len(path.parts) == 1:
            library = resources.specs() / f"{path.stem if path.suffix else path.name}.arch"
            if library.is_file():
                return library, os.path.relpath(library) if _near(library) else str(library)
    except (OSError, ValueError):
        return None
    return None


def _near(path: Path) -> bool:
    try:
        return path.is_relative_to(Path.cwd())
    except OSError:
        return False


def library() -> tuple[str, ...]:
    """The names of the specs in the library."""
    return tuple(sorted(p.stem for p in resources.specs().glob("*.arch")))
