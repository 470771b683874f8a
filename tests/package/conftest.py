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
