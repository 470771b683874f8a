"""A package with two large tables, and models of it that differ only in where these lie."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from threading import active_count
from time import sleep
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

import archc
from tests.built import built, randomise

SPEC = Path(__file__).parent / "tabled.arch"
PLACEMENTS = ("device", "host", "disk")

torch.set_num_threads(1)
settings.register_profile(
    "tables", deadline=None, max_examples=15, phases=[p for p in Phase if p.name in ("explicit", "generate")]
)
settings.load_profile("tables")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package, imported."""
    return built(archc.load(SPEC), tmp_path_factory.mktemp("tabled"))


@pytest.fixture(scope="session")
def runtime(package: ModuleType) -> Any:
    """Modules of its run time by name, as ``runtime("tables")``."""
    return lambda name: import_module(f"{package.__name__}.runtime.{name}")


@pytest.fixture(scope="session")
def held(package: ModuleType) -> dict[str, Any]:
    """The same `models` for tests that leave their weights as they are."""
    return _models(package)


@pytest.fixture
def models(package: ModuleType) -> dict[str, Any]:
    """Models of equal weights by the placement of their tables."""
    return _models(package)


def _models(package: ModuleType) -> dict[str, Any]:
    found = {}
    for placement in PLACEMENTS:
        model = package.Model(memory=placement, dtype=torch.float64)
        randomise(model)
        found[placement] = model
    return found


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Threads that read ahead end by themselves."""
    before = active_count()
    yield
    for _ in range(200):
        if active_count() <= before:
            return
        sleep(0.01)
    raise AssertionError(f"{active_count() - before} threads are left")
