"""Packages whose own tests are tested here."""

from __future__ import annotations

from pathlib import Path

import pytest

import archc

SPECS = Path(__file__).parent / "specs"


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a model with windows, sinks, biases, query norms, scaled rotation and odd widths."""
    return archc.build(archc.load(SPECS / "mixed.arch"), tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a model with experts, losses that level them, biases that training moves, and MTP."""
    return archc.build(archc.load(SPECS / "routed.arch"), tmp_path_factory.mktemp("routed"))
