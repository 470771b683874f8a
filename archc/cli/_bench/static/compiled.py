"""Ahead-of-time compilation of kernels, on any machine: registers, spills, how wide memory is accessed, and how often
products of matrices stand in the code.

``launches`` records what an operator would launch; each launch is compiled with the specialisation that Triton would
give it on a GPU (divisibility of addresses and numbers by 16, constants), by the compilers that come with Triton. These
are facts about code, not about speed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit as jit_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_SASS = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_GLOBAL = {"LDG": "loads", "LDGSTS": "loads", "STG": "stores"}
_LOCAL = frozenset(("LDL", "STL"))
_MATRIX = re.compile(r"[A-Z]*G?MMA$")
# In PTX: where assembly of Triton's own stands (whose lines are no lines of the source), a line of source (of what
# was inlined, and the line that called it), an access by threads, and a copy to shared memory past the registers.
_PTX = re.compile(
    r"// (?P<inside>begin|end) inline asm|\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)\s+(?P<column>\d+)"
    r"(?:[^\n]*inlined_at\s+(?P<called>\d+)\s+(?P<from>\d+)\s+(?P<at>\d+))?"
    r"|(?:ld|st)\.(?:\w+\.)*?global(?:\.[\w:]+)*?(?:\.v(?P<many>\d+))?\.[bfsu](?P<bits>\d+)\b"
    r"|cp\.async\.c[ag]\.shared\.global[^,]*,[^,]*,\s*(?P<bytes>\w+)"
)


_CALLS = ("tl.load", "tl.store", "tl.atomic", "load_numbers", "store_numbers", "add_to_shares")
"""What a kernel accesses memory by, the address first."""

_PLACES = (("line", "column"), ("from", "at"))

_FACTS: dict[tuple[Any, ...], Facts] = {}


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel: its arguments as given, options included."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a kernel compiles to; loads and stores count instructions on global memory by their width in bits.

    ``spilled`` is zero if no register was kept in memory: instructions that do so, plus bytes of stack; ``spills`` is
    how many bytes those instructions move. ``arrays`` counts accesses by the argument that they start from.
    ``seconds`` of processor time went into compiling it.
    """

    kernel: str
    registers: int
    spilled: int
    shared: int
    instructions: int = 0
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)
    spills: int = 0
    arrays: dict[str, Counter[int]] = field(default_factory=dict)
    matrix: Counter[str] = field(default_factory=Counter)
    """Instructions that multiply matrices, by name."""
    seconds: float = 0.0


def launches(operator: Callable[..., Any], *args: Any) -> list[Launch]:
    """The launches that operator(*args) makes, in order; no kernel runs, so results are garbage."""
    with recording() as made:
        operator(*args)
    return made


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Lists the launches made inside, none of which runs."""
    made: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:  # noqa: ARG001
        made.append(Launch(kernel, grid, args, kwargs))

    with patch.object(jit_module.JITFunction, "run", record):
        yield made


def compiled(launch: Launch, target: str) -> Facts:
    """The facts of a launch compiled for a target of ``TARGETS``; launches with equal code share them."""
    gpu = TARGETS[target]
    backend = make_backend(gpu)
    kernel: Any = launch.kernel
    bind = jit_module.create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, _ = bind(*launch.args, **launch.kwargs)
    options, signature, constants, attributes = kernel._pack_args(
        backend, dict(launch.kwargs), bound, specialisation, None
    )
    key = (kernel, target, repr((options, signature, constants, attributes)))
    if key not in _FACTS:
        source = ASTSource(kernel, signature, constants, attributes)
        begun = _processor_time()
        binary: Any = triton.compile(source, target=gpu, options=options.__dict__)
        seconds = _processor_time() - begun
        name = f"{Path(kernel.fn.__code__.co_filename).stem}.{kernel.fn.__name__}"
        facts = _amd(name, binary) if gpu.backend == "hip" else _nvidia(name, kernel, binary)
        _FACTS[key] = replace(facts, seconds=seconds)
    return _FACTS[key]


def _processor_time() -> float:
    """Seconds of this process and of those it waited for: assemblers are processes of their own."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _nvidia(name: str, kernel: Any, binary: Any) -> Facts:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert match is not None, usage
    registers, stack = map(int, match.groups())
    opcodes = _SASS.findall(sass)
    access: dict[str, Counter[int]] = {"loads": Counter(), "stores": Counter()}
    matrix: Counter[str] = Counter()
    spilled, spills = stack, 0
    for opcode in opcodes:
        head, *modifiers = opcode.split(".")
        if head in _GLOBAL:
            access[_GLOBAL[head]][_width(modifiers)] += 1
        if head in _LOCAL:
            spilled, spills = spilled + 1, spills + _width(modifiers) // 8
        matrix[head] += bool(_MATRIX.match(head))
    return Facts(
        name,
        registers,
        spilled,
        binary.metadata.shared,
        len(opcodes),
        access["loads"],
        access["stores"],
        spills,
        _arrays(kernel, binary.asm["ptx"]),
        +matrix,
    )


def _arrays(kernel: Any, ptx: str) -> dict[str, Counter[int]]:
    """Accesses of global memory by the array that the line of source names, and their width in bits."""
    accesses = _accesses(kernel.fn.__code__.co_filename)
    found: dict[str, Counter[int]] = {}
    at, inside = (0, 0), False
    for match in _PTX.finditer(ptx):
        if match["inside"]:
            inside = match["inside"] == "begin"
            continue
        if match["line"]:
            own, caller = ((int(match[line]), int(match[at] or 0)) if match[line] else (0, 0) for line, at in _PLACES)
            if inside:
                continue
            if match["file"] == "1" and own in accesses:  # also in a function of the file that a kernel calls
                at = own
            elif match["called"] == "1":
                at = caller
            elif match["file"] == "1":
                at = own
            continue
        bits = 8 * int(match["bytes"], 0) if match["bytes"] else int(match["many"] or 1) * int(match["bits"])
        name = accesses.get(at) or next((array for (line, _), array in accesses.items() if line == at[0]), "?")
        found.setdefault(name, Counter())[bits] += 1
    return found


@lru_cache
def _accesses(path: str) -> dict[tuple[int, int], str]:
    """The array of each load and store in a file by line and column (from 1) of the call.

    Arrays of a function that another calls for itself, as a statement, have the names that they have there.
    """
    functions = {f.name: f for f in ast.walk(ast.parse(Path(path).read_text())) if isinstance(f, ast.FunctionDef)}
    arguments = {n: [a.arg for a in (*f.args.args, *f.args.kwonlyargs)] for n, f in functions.items()}
    made = {
        name: {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for name, function in functions.items()
    }
    callers: dict[str, tuple[str, list[ast.expr]]] = {}
    for name, function in functions.items():
        for node in ast.walk(function):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                callers[ast.unparse(node.value.func)] = name, node.value.args

    def array(function: str, address: ast.expr) -> str:
        name = _pointer(address, arguments[function], made[function])
        if name not in arguments[function] or function not in callers:
            return name
        caller, passed = callers[function]
        place = arguments[function].index(name)
        return array(caller, passed[place]) if place < len(passed) else name

    return {
        (node.lineno, node.col_offset + 1): array(name, node.args[0])
        for name, function in functions.items()
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(_CALLS)
    }


def _pointer(address: ast.expr, arguments: list[str], made: dict[str, ast.expr]) -> str:
    """The argument that an address starts from: the leftmost name of the sum, followed through assignments."""
    seen: set[str] = set()
    while True:
        if isinstance(address, ast.BinOp):
            address = address.left
        elif isinstance(address, ast.Name) and address.id in made and address.id not in {*arguments, *seen}:
            seen.add(address.id)
            address = made[address.id]
        else:
            return ast.unparse(address)


def _width(modifiers: list[str]) -> int:
    """The bits one thread accesses at once, from the modifiers of a SASS opcode; 32 is not written out."""
    for modifier in modifiers:
        if modifier in ("64", "128", "256"):
            return int(modifier)
        if modifier in ("U8", "S8", "U16", "S16"):
            return int(modifier[1:])
    return 32


def _amd(name: str, binary: Any) -> Facts:
    assembly = binary.asm["amdgcn"]

    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s+(\d+)", assembly)
        assert match is not None, key
        return int(match[1])

    spills = number("private_segment_fixed_size")
    spilled = number("vgpr_spill_count") + number("sgpr_spill_count") + spills
    words = {"": 32, "x2": 64, "x3": 96, "x4": 128}
    access = {}
    for verb in ("load", "store"):
        found = re.findall(
            rf"(?:global|buffer)_{verb}_(?:dword(x\d)?|(ubyte|sbyte|byte|ushort|sshort|short))", assembly
        )
        access[verb] = Counter(words[many] if not few else (8 if "byte" in few else 16) for many, few in found)
    instructions = len(re.findall(r"^\s+[svgbd][a-z]*_\w+", assembly, re.MULTILINE))
    matrix = Counter(re.findall(r"\bv_s?mfmac?_\w+", assembly))
    return Facts(
        name,
        number("vgpr_count"),
        spilled,
        binary.metadata.shared,
        instructions,
        access["load"],
        access["store"],
        spills,
        matrix=matrix,
    )


def _tool(tool: str, *args: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *args], capture_output=True, text=True, check=True).stdout
