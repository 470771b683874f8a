"""The process in which kernels are interpreted, started once, when a test first asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernels.support.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Worker]:
    """Calls a function in a process whose Triton interprets kernels: ``interpreted(function, *args)``."""
    worker = Worker()
    yield worker
    worker.close()
