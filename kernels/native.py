"""C++ of a package, compiled when it is first called, with the compiler of the machine.

A compiled file lies in a cache under the hash of all it depends on: its text, the flags, the compiler and the
processor. ``ARCHC_CACHE`` names the folder of the cache, else it is ``archc`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
``CXX`` names the compiler, else the first of g++, clang++ and c++ that is there. Where there is none, or where it
fails, a warning says so once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # no such locks on Windows: there two processes may compile the same at once
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-Wno-psabi")
"""How everything is compiled. A product and a sum may be one operation, and nothing reads errno or the flags of
exceptions; NaN and infinities stay what they are, and sums keep their order but where the text allows vectors of them.
"""

WIDE = ("-mprefer-vector-width=512",) if platform.machine() in {"x86_64", "AMD64"} else ()


def _tuned() -> tuple[str, ...]:
    """GCC 12 takes processors of AMD that have such vectors for older ones, and orders instructions for these: for 64
    tokens a boundary of mHC takes up to an eighth longer.
    """
    with contextlib.suppress(OSError):
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return ("-mtune=generic",) if "AuthenticAMD" in known and "avx512f" in known else ()
    return ()


MACHINE = ("-march=native", *WIDE, *_tuned())
"""Flags for just this processor: compilers would take half of its widest vectors, at which a boundary of mHC takes a
fifth longer for one token."""

ATTEMPTS = (((*MACHINE, "-fopenmp"), ("-fopenmp",)), (MACHINE, ()), ((), ()))
"""More flags to compile and to link with, tried in turn: not every compiler has all of them, nor an OpenMP that fits
beside the one that PyTorch has loaded.
"""

INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)

TIMEOUT = 300.0
"""Seconds after which a compiler is given up."""


class Unbuilt(Exception):
    """C++ that could not be compiled or loaded; the message says why."""


class Hung(Unbuilt):
    """A compiler that does not end."""


def text(path: Path) -> str:
    """The C++ of a file, with the files beside it that it includes."""
    found = path.read_text(encoding="utf-8")
    return INCLUDE.sub(lambda match: (path.parent / match[1]).read_text(encoding="utf-8"), found)


def load(source: str, name: str, *more: str) -> ctypes.CDLL | None:
    """The library of C++ text, compiled with ``more`` flags if it is not in the cache; None where that fails.

    ``name`` is what its file and a warning call it.
    """
    try:
        command = compiler()
        _version(command)
    except Unbuilt as error:
        _warn_once(f"{error}: all functions run in PyTorch")
        return None
    try:
        return _loaded(source, name, command, more)
    except (Unbuilt, OSError) as error:
        _warn_once(f"{name} runs in PyTorch: {error}")
        return None


@functools.lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def compiler() -> tuple[str, ...]:
    """The command of the C++ compiler. Raises Unbuilt where there is none."""
    given = shlex.split(os.environ.get("CXX", ""))
    for command in [given] if given else [["g++"], ["clang++"], ["c++"]]:
        path = shutil.which(command[0])
        if path is not None:
            return (path, *command[1:])
    raise Unbuilt(f"CXX={given[0]} cannot be run" if given else "there is no C++ compiler (g++, clang++, c++, or CXX)")


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    return _run([*command, "--version"])


@functools.cache
def processor() -> str:
    """What tells processors apart that run different instructions."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told = ("model name", "flags", "CPU implementer", "CPU part", "Features", "isa")
        found = dict.fromkeys(line for line in lines if line.startswith(told))
        if found:
            return "\n".join(found)
    return f"{platform.machine()} {platform.processor()}"


def cache_folder() -> Path:
    """The folder of compiled files."""
    given = os.environ.get("ARCHC_CACHE")
    if given:
        return Path(given) / "native"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "archc" / "native"


@functools.cache
def _own_folder() -> Path:
    """A folder of this process alone, where the cache cannot be written; it goes when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="archc-native-")
    atexit.register(made.cleanup)
    return Path(made.name)


def _loaded(source: str, name: str, command: tuple[str, ...], more: Sequence[str]) -> ctypes.CDLL:
    """The library, from the cache or compiled: as fast as the compiler can make it."""
    failures: list[str] = []
    for flags, links in ATTEMPTS:
        try:
            path = _kept(source, name, command, (*FLAGS, *flags, *more), links)
        except Hung:
            raise
        except Unbuilt as error:
            failures.append(str(error))
            continue
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:  # cut off by a crash of the machine, or against another OpenMP
            failures.append(str(error))
            with contextlib.suppress(OSError):
                path.unlink()
    raise Unbuilt(failures[0])


def module(source: str, name: str, flags: Sequence[str], links: Sequence[str]) -> ModuleType | None:
    """The module of Python of C++ text, compiled as `load` does; None, and no warning, where that fails."""
    with contextlib.suppress(Unbuilt, OSError, ImportError):
        path = str(_kept(source, name, compiler(), ("-fPIC", *flags), links))
        spec = importlib.util.spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))
        if spec is not None and spec.loader is not None:
            found = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found)
            return found
    return None


def _kept(source: str, name: str, command: tuple[str, ...], flags: Sequence[str], links: Sequence[str]) -> Path:
    """The file that text is compiled to, in the cache if that can be written."""
    told = "\0".join((source, *command, *flags, *links, _version(command), processor(), platform.platform()))
    file = f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:32]}.so"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _built(source, folder / file, command, flags, links)
    except Unbuilt:
        raise
    except (OSError, RuntimeError):  # read-only, full, or no home
        return _built(source, _own_folder() / file, command, flags, links)


def _built(source: str, path: Path, command: Sequence[str], flags: Sequence[str], links: Sequence[str]) -> Path:
    """The path of a library, where it now is."""
    if path.exists():
        return path
    with _locked(path.with_suffix(".lock")):
        if path.exists():  # another process was faster
            return path
        with tempfile.TemporaryDirectory(prefix=f"{path.stem}-", dir=path.parent) as work:
            text = f"{path.stem.rpartition('-')[0]}.cpp"
            (Path(work) / text).write_text(source, encoding="utf-8")
            # In two steps: linked with -ffast-math, which a text may be compiled with, a library flushes denormals
            # to zero in all of the process
            _run([*command, *flags, "-c", "-o", "made.o", text], work)
            _run([*command, "-shared", "-o", path.name, "made.o", *links, "-lm"], work)
            (Path(work) / path.name).replace(path)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock between processes; its file goes away with it, so that a third process may compile the same, no worse."""
    if fcntl is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _run(command: Sequence[str], folder: str | None = None) -> str:
    """What a command prints, run in a folder. Raises Unbuilt where it fails, hangs or cannot run."""
    try:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as running:
            try:
                printed, wrong = running.communicate(timeout=TIMEOUT)
            except BaseException:  # a compiler starts others: they stop with it
                with contextlib.suppress(OSError, AttributeError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.kill()
                raise
    except subprocess.TimeoutExpired:
        raise Hung(f"{command[0]} took longer than {TIMEOUT:.0f} s") from None
    except OSError as error:
        raise Unbuilt(f"{command[0]} cannot be run: {error.strerror}") from None
    if running.returncode:
        lines = [line for line in wrong.splitlines() if "error" in line] or wrong.splitlines()
        why = lines[0].strip() if lines else f"exit status {running.returncode}"
        raise Unbuilt(f"{Path(command[0]).name} fails: {why}")
    return printed


def function(library: ctypes.CDLL, name: str, pointers: int) -> Any:
    """A function of a library that takes so many pointers and a number of tokens, and returns nothing."""
    found = library[name]
    found.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64]
    found.restype = None
    return found


def address(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library begins."""
    return ctypes.cast(library[name], ctypes.c_void_p).value or 0
