"""What every drawer, op, kernel and diagnostic code owes its readers."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from archc import drawers, resources
from archc.diagnostics.registry import codes
from archc.drawers.catalog import slots
from archc.ops import OPS, Op
from archc.schema.describe import describe
from archc.schema.slots import slot_names

ROOT = Path(__file__).resolve().parents[2]
DRAWERS = [(slot, kind) for slot in sorted(slot_names()) for kind in drawers.kinds(slot)]
# Storage, starting values and a plain linear map have no paper
NOTHING_TO_CITE = {"cache", "init", "head", "precision"}
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|https?://")
KERNELS = sorted(resources.kernels().glob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_listings_are_not_empty() -> None:
    assert ("attention", "gqa") in DRAWERS
    assert "linear" in OPS
    assert len(KERNELS) > 5


# --- drawers -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("slot", "kind"), DRAWERS)
def test_a_drawer_says_what_it_is_and_where_it_comes_from(slot: str, kind: str) -> None:
    cls = drawers.drawer_class(slot, kind)
    first = (cls.__doc__ or "").strip().partition("\n")[0]
    assert first.endswith("."), f"{cls.__name__} needs a docstring of one sentence"
    assert slot in NOTHING_TO_CITE or SOURCE.search(cls.__doc__ or ""), f"{cls.__name__} cites no source"


def test_a_slot_says_what_it_is_for_in_one_line() -> None:
    assert all(line.endswith(".") for line in slots().values()), slots()


@pytest.mark.parametrize(("slot", "kind"), DRAWERS)
def test_a_field_is_described_in_one_line(slot: str, kind: str) -> None:
    for field in describe(drawers.drawer_class(slot, kind)).values():
        assert field.doc, f"{kind}.{field.name} has no description"
        assert "\n" not in field.doc, f"{kind}.{field.name}: one line"
        assert not field.doc.endswith("."), f"{kind}.{field.name}: no full stop"


# --- ops -----------------------------------------------------------------------------------------
def called(*folders: str) -> set[str]:
    """Names of the ops that files under the folders build: ``g.<op>(...)``, or the name as a string."""
    names: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    if isinstance(node.func.value, ast.Name) and node.func.value.id == "g":
                        names.add(node.func.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    # The builder and passes may make an op of its class
                    names.add(re.sub(r"(?<!^)(?=[A-Z])", "_", node.func.id).lower())
    return names


@pytest.mark.parametrize("kind", sorted(OPS))
def test_an_op_is_documented_and_prints(kind: str) -> None:
    op = OPS[kind]
    assert (op.__dict__.get("__doc__") or "").strip(), f"{op.__name__} has no docstring of its own"
    assert op.code is not Op.code, f"{op.__name__} has no printed form"


def test_every_op_is_built_by_a_drawer_or_a_test() -> None:
    unused = set(OPS) - called(
        "archc/drawers", "archc/graph", "archc/plan", "tests/hard_cases", "tests/ops", "tests/graph"
    )
    assert not unused, "ops that nothing builds: their shape and cost rules are never run"


def defined(path: Path) -> set[str]:
    """Public names at the top level of a file: functions, classes, assignments, imports."""
    names: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("kind", sorted(OPS))
def test_what_an_op_prints_exists(kind: str) -> None:
    for name, module in OPS[kind].needs.items():
        part, _, file = module.partition(".")
        if part == "kernels":
            assert name in defined(resources.kernels() / f"{file}.py"), f"{module} has no {name}"
        elif part == "runtime":
            assert name in defined(resources.templates() / "runtime" / f"{file}.py"), f"{module} has no {name}"
        else:
            assert part == "torch", f"{kind} needs {module}: packages are plain torch"


# --- kernels -------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_a_kernel_file_stands_on_its_own(path: Path) -> None:
    """A package copies only the files it needs: torch, triton, the standard library, and files beside it."""
    allowed = {"torch", "triton", *sys.stdlib_module_names}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"line {node.lineno}: only files beside it"
            module = (node.module or "").partition(".")[0]
            beside = [module] if module else [alias.name for alias in node.names]
            assert all((path.parent / f"{name}.py").is_file() for name in beside), f"line {node.lineno}: {beside}"
            continue
        else:
            continue
        assert found <= allowed, f"line {node.lineno}: {found - allowed}"


# --- codes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", codes())
def test_a_code_explains_itself(code: str) -> None:
    entry = codes()[code]
    assert re.fullmatch(r"[EW]\d{4}", code)
    assert entry.area
    assert entry.title[0].islower() or not entry.title[0].isalpha()
    assert not entry.title.endswith(".")
    assert entry.explanation.strip().rstrip(".") != entry.title
    assert entry.explanation.strip().endswith((".", "`", ")"))
    assert entry.failing != entry.fixed
