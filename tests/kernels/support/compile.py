"""Ahead-of-time compilation of kernels, on any machine: registers, spills, and how wide memory is accessed.

``launches`` records what an operator would launch; each launch is compiled with the specialisation that Triton would
give it on a GPU (divisibility of addresses and numbers by 16, constants), by the compilers that come with Triton. These
are facts about code, not about speed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit as jit_module

if TYPE_CHECKING:
    from collections.abc import Callable

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

    ``spilled`` is zero if no register was kept in memory: instructions that do so, plus bytes of stack.
    """

    kernel: str
    registers: int
    spilled: int
    shared: int
    instructions: int = 0
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)


def launches(operator: Callable[..., Any], *args: Any) -> list[Launch]:
    """The launches that operator(*args) makes, in order; no kernel runs, so results are garbage."""
    made: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        made.append(Launch(kernel, grid, args, kwargs))

    with patch.object(jit_module.JITFunction, "run", record):
        operator(*args)
    return made


def compiled(launch: Launch, target: str) -> Facts:
    """The facts of a launch compiled for a target of ``TARGETS``."""
    gpu = TARGETS[target]
    backend = make_backend(gpu)
    kernel: Any = launch.kernel
    bind = jit_module.create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, _ = bind(*launch.args, **launch.kwargs)
    options, signature, constants, attributes = kernel._pack_args(
        backend, dict(launch.kwargs), bound, specialisation, None
    )
    source = ASTSource(kernel, signature, constants, attributes)
    binary: Any = triton.compile(source, target=gpu, options=options.__dict__)
    name = f"{Path(kernel.fn.__code__.co_filename).stem}.{kernel.fn.__name__}"
    return (_amd if gpu.backend == "hip" else _nvidia)(name, binary)


def _nvidia(name: str, binary: Any) -> Facts:
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
    spilled = stack
    for opcode in opcodes:
        head, *modifiers = opcode.split(".")
        if head in _GLOBAL:
            access[_GLOBAL[head]][_width(modifiers)] += 1
        spilled += head in _LOCAL
    return Facts(name, registers, spilled, binary.metadata.shared, len(opcodes), access["loads"], access["stores"])


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

    spilled = number("vgpr_spill_count") + number("sgpr_spill_count") + number("private_segment_fixed_size")
    words = {"": 32, "x2": 64, "x3": 96, "x4": 128}
    access = {}
    for verb in ("load", "store"):
        found = re.findall(
            rf"(?:global|buffer)_{verb}_(?:dword(x\d)?|(ubyte|sbyte|byte|ushort|sshort|short))", assembly
        )
        access[verb] = Counter(words[many] if not few else (8 if "byte" in few else 16) for many, few in found)
    instructions = len(re.findall(r"^\s+[svgbd][a-z]*_\w+", assembly, re.MULTILINE))
    shared = binary.metadata.shared
    return Facts(name, number("vgpr_count"), spilled, shared, instructions, access["load"], access["store"])


def _tool(tool: str, *args: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *args], capture_output=True, text=True, check=True).stdout
