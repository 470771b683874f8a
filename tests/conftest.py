"""What all tests share: the profiles of hypothesis and the golden files."""

from __future__ import annotations

import difflib
import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"
# Golden files may be Python, some of them tests of a generated package: they are data here
collect_ignore = ["golden"]

settings.register_profile(
    "quick",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("quick"), derandomize=False, max_examples=400)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same numbers whatever ran before it, on this process or on another.

    ``ARCHC_TEST_SEED`` shifts what all of them draw: a test that then fails owed its success to luck.
    """
    seed = zlib.crc32(item.nodeid.encode()) + int(os.environ.get("ARCHC_TEST_SEED", "0"))
    random.seed(seed)
    # A test that does without these goes on doing without
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--update-golden`` only the tests that have golden files run."""
    if config.getoption("--update-golden"):
        chosen = [item for item in items if "golden" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_collection_finish(session: pytest.Session) -> None:
    """The profile that was asked for counts, whatever the folders' own conftests loaded meanwhile."""
    settings.load_profile(session.config.getoption("--hypothesis-profile", None) or "quick")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """A function ``golden(path, text)``: fails with a diff unless ``tests/golden/<path>`` holds exactly the text.

    ``pytest --update-golden`` (`make golden`) writes the file instead.
    """
    update = request.config.getoption("--update-golden")

    def compare(path: str, text: str) -> None:
        file = GOLDEN / path
        if update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        if not file.is_file():
            pytest.fail(f"tests/golden/{path} does not exist; `make golden` writes it", pytrace=False)
        expected = file.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"tests/golden/{path}", "now", lineterm=""
            )
            shown = "\n".join(lines) or "only line endings or the end of the file differ"
            pytest.fail(f"{shown}\n\nIf the change is meant: `make golden`, and review the diff", pytrace=False)

    return compare
