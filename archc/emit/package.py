"""Writes a package: model, kernels, run time, plan, README and tests; atomically, same bytes for same input."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from archc import resources
from archc.emit.fused import functions
from archc.emit.module import has_tables, known_names, merges, print_model
from archc.emit.readme import figures
from archc.emit.training import losses, router_biases
from archc.graph import Graph, Parameter, Value
from archc.graph.gradient import learned
from archc.ops.sparse import IndexTopk
from archc.schema import Model
from archc.version import VERSION

FUSED = '"""Functions of the model whose ops run as one kernel, each in a file with its kernels and its reference."""\n'
"""The text of the package of functions."""

PLAN = "plan.json"
"""The file that says what a package is, and which files archc wrote."""

MTP_TESTS = "tests/test_mtp.py"
"""The laws of models that predict further tokens, which other packages do not carry."""

IMPORT = re.compile(r"^ *from (\.+)([\w.]*) import (.*)$", re.MULTILINE)
"""A relative import; parsing the files would take half the time of a build."""

INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
"""A file beside a text of C++ that is part of it."""

INDEX_TESTS = "tests/test_indexers.py"
"""The laws of models whose indexers learn, likewise."""

TABLE_TESTS = "tests/test_tables.py"
"""The laws of models with large tables, likewise."""

RUNTIME_ENTRY = ("runtime.model", "runtime.weights")
"""Runtime modules that every package exports from."""

TABLE_ENTRY = ("runtime.optimizers",)
"""The same of packages with large tables."""

MERGE_TESTS = "tests/test_merging.py"
"""The laws of models whose memories merge tokens, likewise."""

MERGE_ENTRY = ("runtime.merging",)
"""The same of packages whose memories merge tokens."""


def files(
    model: Model,
    graph: Graph,
    tiny: Model,
    tiny_graph: Graph,
    cost: dict[str, Any],
    tiny_cost: dict[str, Any],
    *,
    fuse: str = "none",
) -> dict[str, str]:
    """Every file of a package by its relative path.

    ``cost`` and ``tiny_cost`` hold cost reports by mode, as plain data; ``fuse`` says how the graphs were fused.
    """
    text, modules = print_model(model, graph)
    tiny_text, tiny_modules = print_model(tiny, tiny_graph, above="..")
    fused, tiny_fused = functions(graph, known_names()), functions(tiny_graph, known_names(), above="...")
    modules = (*modules, *(module for function in (*fused, *tiny_fused) for module in function.modules))
    tables = has_tables(graph)
    merging = " and ".join(f"{ids:,}" for ids in sorted({ids for ids, _ in merges(graph).values()}))
    entry = (*RUNTIME_ENTRY, *(TABLE_ENTRY if tables else ()), *(MERGE_ENTRY if merging else ()))
    carried = _closure({*modules, *tiny_modules, *entry})
    out = {f"{module.replace('.', '/')}.py": _source(module).read_text() for module in carried}
    for native in (_source(module).with_suffix(".cpp") for module in carried):
        if native.is_file():  # what a kernel runs in C++
            out[f"kernels/{native.name}"] = source = native.read_text()
            headers = (native.with_name(name) for name in INCLUDE.findall(source))
            out |= {f"kernels/{header.name}": header.read_text() for header in headers}
    for folder in ("kernels", "runtime"):
        out[f"{folder}/__init__.py"] = _source(f"{folder}.__init__").read_text()
    facts = plan_facts(model, graph, cost, carried)
    for folder, found in (("fused", fused), ("tests/fused", tiny_fused)):
        if found:
            out[f"{folder}/__init__.py"] = FUSED
        out |= {f"{folder}/{name}": printed for function in found for name, printed in function.files.items()}
    out["model.py"] = text
    out["tests/__init__.py"] = ""
    out["tests/tiny_model.py"] = tiny_text
    tiny_facts = plan_facts(tiny, tiny_graph, tiny_cost, carried)
    out["tests/tiny_plan.json"] = json.dumps(tiny_facts, indent=1) + "\n"
    facts["fuse"] = fuse
    if fused:
        facts["functions"] = {f.name: dict(zip(("bytes_per_token", "bytes"), f.bound, strict=True)) for f in fused}
    shown = {
        "fused": bool(fused),
        "layers_leave": fuse == "layers",
        "tables": tables,
        "merging": merging,
        "model": model,
        "plan": facts,
        "tiny": model is tiny,
        "readme": figures(model, graph, facts, tiny_facts),
    }
    left_out = {
        MTP_TESTS: model.mtp is None,
        INDEX_TESTS: not any(isinstance(node.op, IndexTopk) for node, _ in graph.walk()),
        TABLE_TESTS: not tables,
        MERGE_TESTS: not merging,
    }
    for path in sorted((resources.templates() / "package").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = str(path.relative_to(resources.templates() / "package"))
            if left_out.get(name, False):
                continue
            if name.endswith(".j2"):
                out[name.removesuffix(".j2")] = _render(path, **shown)
            else:
                out[name] = path.read_text()
    facts["files"] = sorted({*out, PLAN})
    out[PLAN] = json.dumps(facts, indent=1) + "\n"
    return dict(sorted(out.items()))


def plan_facts(model: Model, graph: Graph, cost: dict[str, Any], carried: list[str]) -> dict[str, Any]:
    """What `plan.json` says."""
    trained, late = learned(graph), _learned_by_one_pick(graph)
    return {
        "archc": VERSION,
        "format_version": 1,
        "model": model.name,
        "spec_hash": model.spec_hash,
        "vocab": model.vocab,
        "dim": model.dim,
        "layers": model.layers,
        "context": model.context,
        "cache_layout": model.cache.kind,
        "kernels": _kernels(carried),
        "parameters": [
            {
                "name": p.name,
                "shape": list(p.spec.shape),
                "role": p.spec.role,
                "component": p.component,
                "init": _init(p),
                "buffer": p.spec.buffer,
                "trained": p.value in trained,
                **({"stage": "dense"} if p.value in late else {}),
            }
            for p in graph.parameters()
        ],
        "losses": losses(model, graph),
        "router_biases": router_biases(graph),
        "cost": cost,
    }


def _learned_by_one_pick(graph: Graph) -> set[Value]:
    """Parameters of indexers that pick one entry: over that their loss is 0 whatever the scores, so that they learn in
    its dense stage alone.
    """
    single = (node.scope for node, _ in graph.walk() if isinstance(node.op, IndexTopk) and node.op.k == 1)
    return {value for scope in single for inside in scope.scopes() for value in inside.params}


def _init(p: Parameter) -> str | float | dict[str, float]:
    """How a parameter starts: a word, the number that fills it, or a word and its number."""
    spec = p.spec
    if spec.init == "turn":
        return {"one at": p.layer % spec.shape[0]}
    if spec.init == "choices":
        return {"choices": spec.below}
    if spec.init == "wrapped":
        return {"wrapped at": spec.below}
    return spec.init if spec.std is None else {"normal": spec.std}


def _kernels(carried: list[str]) -> list[str]:
    return [m.removeprefix("kernels.") for m in carried if m.startswith("kernels.")]


def _source(module: str) -> Path:
    """The file of a module that packages carry."""
    folder, _, name = module.partition(".")
    root = resources.kernels() if folder == "kernels" else resources.templates() / "runtime"
    return root / f"{name}.py"


def _closure(modules: set[str]) -> list[str]:
    """The modules and everything they import from the package."""
    found: set[str] = set()
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module in found:
            continue
        found.add(module)
        queue += _imports(module.partition(".")[0], _source(module).read_text())
    return sorted(found)


@cache
def _imports(folder: str, text: str) -> tuple[str, ...]:
    """The modules of the package that a file in one of its folders imports."""
    found: list[str] = []
    for dots, module, names in IMPORT.findall(text):
        base = folder if dots == "." else ""
        named = [module] if module else re.findall(r"\w+", names)
        found += [f"{base}.{n}" if base else n for n in named]
    return tuple(found)


def _render(path: Path, **context: Any) -> str:
    import jinja2

    env = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    env.filters["thousands"] = lambda n: f"{n:,}"
    return env.from_string(path.read_text()).render(**context)


# --- writing -------------------------------------------------------------------------------------
def write(content: dict[str, str], folder: Path) -> Path:
    """The folder, replaced by the files, or left as it was if anything fails.

    Raises FileExistsError for a folder with anything but a package that archc wrote.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        _refuse_strangers(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, text in content.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        fresh.chmod(0o755)
        if not folder.exists():
            fresh.replace(folder)
            return folder
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        kept = folder.replace(old / "package")
        _or_undo(lambda: fresh.replace(folder), lambda: kept.replace(folder))
        shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def _refuse_strangers(folder: Path) -> None:
    """Raises FileExistsError if replacing the folder would lose something that archc did not write."""
    try:
        facts = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        known = set(facts["files"]) if "archc" in facts else None
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known is None:
        raise FileExistsError(f"{folder} exists and is not a package that archc wrote")
    strangers = sorted(_there(folder) - known)
    if strangers:
        shown = ", ".join(strangers[:5]) + (" ..." if len(strangers) > 5 else "")
        raise FileExistsError(f"{folder} holds files that archc did not write ({shown}): move them, or build elsewhere")


def _there(folder: Path) -> set[str]:
    """Files of a folder by relative path, caches and hidden files left out."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in found if "__pycache__" not in p.parts and not any(x.startswith(".") for x in p.parts)}


def _or_undo(act: Callable[[], object], undo: Callable[[], object]) -> None:
    try:
        act()
    except BaseException:
        undo()
        raise


def stale(content: dict[str, str], folder: Path) -> list[str]:
    """Files of a written package that differ from what a build would write now, missing and surplus ones included."""
    there = {name: (folder / name).read_bytes() for name in _there(folder)}
    want = {name: text.encode() for name, text in content.items()}
    return sorted(name for name in want.keys() | there.keys() if want.get(name) != there.get(name))
