"""Packages built once for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import archc


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the full-size Llama 3.1 8B."""
    return archc.build(archc.load("llama_3_1_8b"), tmp_path_factory.mktemp("packages"))


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], ModuleType]]:
    """A function that imports a package folder, forgotten after the test."""
    names: set[str] = set()

    def load(folder: Path) -> ModuleType:
        monkeypatch.syspath_prepend(str(folder.parent))
        names.add(folder.name)
        return import_module(folder.name)

    yield load
    for name in [n for n in sys.modules if n.partition(".")[0] in names]:
        del sys.modules[name]
