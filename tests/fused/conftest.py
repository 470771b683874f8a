"""Compiled C++ is kept between runs of the tests."""

from __future__ import annotations

import os

import pytest

from tests.fused.handmade import cache_folder


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHC_CACHE", os.environ.get("ARCHC_CACHE", cache_folder()))
    monkeypatch.setenv("ARCHC_KERNELS", "cpp")
