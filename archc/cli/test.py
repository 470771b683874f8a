"""`archc test`: the laws that every package carries, run on a built one or on a fresh build of a spec."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._needs import require
from archc.cli.options import format_option, fuse_option, spec_options
from archc.record import dataclass

if TYPE_CHECKING:
    from archc.api import Fuse

NEEDS = ("torch", "safetensors", "pytest", "hypothesis")
"""What the tests of a package import."""


@dataclass(slots=True)
class Law:
    """One test function and what became of its cases."""

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """`failed` if any case failed, `skipped` if none ran."""
        return "failed" if self.failed else "passed" if self.passed else "skipped"


@click.command()
@click.argument("spec", metavar="SPEC|DIR")
@spec_options
@click.option("--slow", is_flag=True, help="Also compile the twin to machine code (about a minute more).")
@fuse_option()
@click.option("-k", "select", metavar="EXPRESSION", help="Only tests whose name matches, as pytest has it.")
@format_option("text", "json")
def command(
    spec: str,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    slow: bool,
    fuse: Fuse,
    select: str | None,
    format: str,
) -> None:
    """Run the property tests of a package.

    DIR is a package that `archc build` wrote; of a SPEC the package is built in a temporary folder. They run on the
    tiny twin, which has every component and kind of layer of the model, and check the full model on the meta device.
    """
    require(NEEDS)
    with tempfile.TemporaryDirectory(prefix="archc-test-", ignore_cleanup_errors=True) as scratch:
        package = Path(spec)
        if not package.is_dir():
            from archc.api import build
            from archc.importers import load

            resolved = load(spec, model=model, params=params, set=sets, drawers=drawers)
            package = build(resolved, Path(scratch) / "build", fuse=fuse)
        elif not (package / "plan.json").is_file() or not (package / "tests").is_dir():
            raise click.UsageError(f"{package} is not a package that archc wrote")
        elif model or params or sets or drawers or _given("fuse"):
            raise click.UsageError(f"{package} is already built: options that change a spec do nothing")
        package = package.resolve()
        code, laws, output = _run(package, Path(scratch), slow=slow, select=select, quiet=format != "text")
    _json(package.name, laws) if format == "json" else _table(package.name, laws, output if code else "")
    if code not in (0, 1):
        reason = "no test matches" if code == 5 else f"pytest ended with {code}"
        raise click.UsageError(f"{reason}:\n{output.strip()}" if format == "json" or code != 5 else reason)
    raise SystemExit(code)


def _given(option: str) -> bool:
    """Whether an option stands on the command line."""
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _run(package: Path, scratch: Path, *, slow: bool, select: str | None, quiet: bool) -> tuple[int, list[Law], str]:
    """Pytest's exit code, the laws and pytest's output.

    Pytest gets a configuration of its own: that of a project around the package is not meant for it.
    """
    config, report = scratch / "pytest.ini", scratch / "report.xml"
    config.write_text("[pytest]\n", encoding="utf-8")
    arguments = ["-c", str(config), "--rootdir", str(package.parent), "--confcutdir", str(package)]
    arguments += ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    arguments += [] if slow else ["-m", "not slow"]
    arguments += ["-k", select] if select else []
    with nullcontext() if quiet else _waiting(f"testing {package.name}"):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, str(package / "tests")],
            cwd=package.parent,
            env={"OMP_NUM_THREADS": "1", **os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    return done.returncode, _laws(report), done.stdout


def _waiting(text: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(text)


def _laws(report: Path) -> list[Law]:
    """What pytest's JUnit report says, by test function in the order they ran."""
    from xml.etree import ElementTree as ET

    if not report.is_file():
        return []
    laws: dict[tuple[str, str], Law] = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        function, _, parameters = case.get("name", "").partition("[")
        key = (case.get("classname", ""), function)
        law = laws.setdefault(key, Law(function.removeprefix("test_").replace("_", " ")))
        law.seconds += float(case.get("time", 0))
        problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        skip = case.find("skipped")
        if problem is not None:
            law.failed += 1
            law.messages.append(f"[{parameters}: " * bool(parameters) + problem.get("message", ""))
        elif skip is not None:
            law.skipped += 1
            law.messages.append(skip.get("message", ""))
        else:
            law.passed += 1
    return list(laws.values())


def _table(name: str, laws: list[Law], output: str) -> None:
    """Prints one line for each law, and pytest's own words about those that failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("law")
    table.add_column("cases", justify="right")
    table.add_column("time", justify="right")
    shown = {"passed": ("ok", "green"), "failed": ("FAILED", "bold red"), "skipped": ("skipped", "dim")}
    for law in laws:
        word, style = shown[law.outcome]
        what = Text(law.name + (f" ({law.messages[0]})" if law.outcome == "skipped" else ""))
        table.add_row(Text(word, style), what, str(law.passed + law.failed), f"{law.seconds:.1f} s")
    if laws:
        console.print(table)
        console.print()
    if output and any(law.failed for law in laws):
        console.print(Text(output.strip()))
        console.print()
    failed, passed, skipped = (sum(law.outcome == o for law in laws) for o in ("failed", "passed", "skipped"))
    parts = [f"{passed} of {passed + failed} laws hold", *([f"{skipped} skipped"] if skipped else [])]
    total = sum(law.seconds for law in laws)
    console.print(Text(f"{name}: {', '.join(parts)} ({total:.0f} s)", "bold red" if failed else "bold"))


def _json(name: str, laws: list[Law]) -> None:
    """Prints the same for programs."""
    import json

    count = {outcome: sum(law.outcome == outcome for law in laws) for outcome in ("passed", "failed", "skipped")}
    click.echo(
        json.dumps(
            {"package": name, **count, "laws": [asdict(law) | {"outcome": law.outcome} for law in laws]}, indent=2
        )
    )
