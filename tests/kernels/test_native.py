"""C++ compiled when it is first called: the cache, what goes wrong, and what it leaves alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels import native

ROOT = Path(__file__).resolve().parents[2]
TWICE = """
#include <cstdint>
extern "C" void twice(const void* x, void* y, int64_t tokens) {
    for (int64_t t = 0; t < tokens; ++t) ((float*)y)[t] = 2 * ((const float*)x)[t];
}
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of the test alone, and warnings that no other test has had."""
    monkeypatch.setenv("ARCHC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    native._warn_once.cache_clear()
    yield
    native._warn_once.cache_clear()


def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes a line for each file it compiles."""
    log, script = tmp_path / "log", tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) echo compiled >> {log};; esac\nexec g++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log


def doubled(library: ctypes.CDLL | None) -> torch.Tensor:
    """What `twice` makes of 1, 2, 3."""
    assert library is not None
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    native.function(library, "twice", 2)(x.data_ptr(), y.data_ptr(), 3)
    return y


def test_a_text_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(tmp_path, monkeypatch)
    for _ in range(2):
        assert doubled(native.load(TWICE, "twice")).tolist() == [2, 4, 6]
    assert log.read_text().count("compiled") == 1
    native.load(TWICE, "twice", "-DOTHER")
    native.load(f"{TWICE}\n", "twice")
    assert log.read_text().count("compiled") == 3
    assert sorted(p.suffix for p in native.cache_folder().iterdir()) == [".so"] * 3


def test_two_processes_compile_a_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(tmp_path, monkeypatch)
    code = f"from kernels import native; assert native.load({TWICE!r}, 'twice') is not None"
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [p.wait(60) for p in running] == [0, 0, 0]
    assert log.read_text().count("compiled") == 1


def test_a_file_that_was_cut_off_is_made_again() -> None:
    native.load(TWICE, "twice")
    (path,) = native.cache_folder().iterdir()
    path.unlink()
    path.write_bytes(b"\x7fELF")
    assert doubled(native.load(TWICE, "twice")).tolist() == [2, 4, 6]


def test_where_the_cache_cannot_be_written_a_process_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARCHC_CACHE", str(tmp_path / "file"))
    assert doubled(native.load(TWICE, "twice")).tolist() == [2, 4, 6]


def test_a_folder_of_the_process_goes_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    code = f"from kernels import native; native.load({TWICE!r}, 'twice'); print(native._own_folder())"
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("text", "compiler", "why"),
    [
        (TWICE, "/nowhere/g++", r"CXX=/nowhere/g\+\+ cannot be run: all functions run in PyTorch"),
        ("int x = ;", "", r"broken runs in PyTorch: g\+\+ fails: broken.cpp:1:9: error: expected primary-expression"),
        (TWICE, "false", "false fails: exit status 1: all functions run in PyTorch"),
    ],
)
def test_what_cannot_be_compiled_is_told_once(
    monkeypatch: pytest.MonkeyPatch, text: str, compiler: str, why: str
) -> None:
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    with pytest.warns(RuntimeWarning, match=why):
        assert native.load(text, "broken") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load(text, "broken") is None


def test_a_compiler_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] || exec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(native, "TIMEOUT", 0.3)
    with pytest.warns(RuntimeWarning, match="took longer than"):
        assert native.load(TWICE, "twice") is None


def test_flags_that_a_compiler_lacks_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\ncase "$*" in *-march*|*-fopenmp*) exit 1;; esac\nexec g++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert doubled(native.load(TWICE, "twice")).tolist() == [2, 4, 6]


def test_denormal_numbers_stay_what_they_are() -> None:
    assert native.load(TWICE, "twice", "-ffast-math") is not None
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_threads_are_those_of_pytorch() -> None:
    text = """
    #include <omp.h>
    #include <cstdint>
    extern "C" void most(void* y, int64_t) { *(float*)y = omp_get_max_threads(); }
    """
    library, found, before = native.load(text, "most"), torch.zeros(1), torch.get_num_threads()
    assert library is not None
    for threads in (1, 3):
        torch.set_num_threads(threads)
        native.function(library, "most", 1)(found.data_ptr(), 0)
        assert found.item() == threads
    torch.set_num_threads(before)


def test_the_cache_is_where_the_system_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.cache_folder() == Path(os.environ["ARCHC_CACHE"]) / "native"
    monkeypatch.delenv("ARCHC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert native.cache_folder() == Path("/var/cache/archc/native")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    assert native.cache_folder() == Path("/somebody/.cache/archc/native")


def test_what_a_text_includes_stands_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "shared.h").write_text("// shared\n")
    (tmp_path / "some.cpp").write_text('#include "shared.h"\n#include <cmath>\n')
    assert native.text(tmp_path / "some.cpp") == "// shared\n\n#include <cmath>\n"
