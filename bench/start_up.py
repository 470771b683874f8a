"""Cold process times of the commands against bare Python, and the slowest imports: ``python -m bench.start_up``.

Every figure is the median of so many fresh processes; caches (bytecode, trees of specs) are warm, as they are after the
first run on a machine. Wall times of a loaded machine say little: the line of bare Python tells how loaded it is. What
is held to an aim is processor time against that of importing the packages that every command needs, taken in turns.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = "llama_3_1_8b"
# Wall seconds a command may take in all, where an aim was set
AIMS = {"cost": 0.3, "build": 0.8}
LARGE = ["-m", "archc", "cost", "deepseek_v4_pro"]
NEEDED = ["-c", "import click, lark, pydantic"]
# What a cost may take: processor time over that of the imports, and MB resident
RATIO, RESIDENT = 2.5, 120
COMMANDS = {
    "bare python": ["-c", "pass"],
    "--version": ["-m", "archc", "--version"],
    "check": ["-m", "archc", "check", SPEC],
    "cost": ["-m", "archc", "cost", SPEC],
    "build": ["-m", "archc", "build", SPEC],
}


def seconds(argv: list[str], folder: str) -> float:
    """Wall time of one process. Raises CalledProcessError when it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *argv], cwd=folder, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - started


def used(argv: list[str], folder: str) -> tuple[float, float]:
    """Processor seconds (user and system) and MB resident at most of one process (Linux and macOS).

    Linux hands the size of this process on: call it from a small one. Raises RuntimeError when it fails.
    """
    process = subprocess.Popen([sys.executable, *argv], cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def against_imports(runs: int, folder: str) -> dict[str, float]:
    """Medians of ``runs`` pairs: processor seconds of a cost and of the imports, their ratio; and MB resident."""
    used(LARGE, folder), used(NEEDED, folder)  # fills caches
    pairs = [(used(LARGE, folder), used(NEEDED, folder)[0]) for _ in range(runs)]
    return {
        "cost": statistics.median(spent for (spent, _), _ in pairs),
        "imports": statistics.median(base for _, base in pairs),
        "ratio": statistics.median(spent / base for (spent, _), base in pairs),
        "resident": max(size for (_, size), _ in pairs),
    }


def environment() -> dict[str, str]:
    """The process environment with this checkout first on the path, and bytecode kept as it is for users."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def slowest_imports(argv: list[str], folder: str, count: int) -> list[tuple[float, str]]:
    """(milliseconds of its own, top-level package) of the packages that a command spends most on importing."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *argv],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    spent: dict[str, float] = {}
    for line in done.stderr.splitlines():
        found = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$", line)
        if found:
            top = found[2].partition(".")[0]
            spent[top] = spent.get(top, 0.0) + int(found[1]) / 1000
    return sorted(((ms, name) for name, ms in spent.items()), reverse=True)[:count]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description="Cold process times of the commands against bare Python.")
    parser.add_argument("--runs", type=int, default=7, help="processes per command")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        for argv in COMMANDS.values():
            seconds(argv, folder)
        print(f"median of {runs} processes, {SPEC}\n")
        print(f"{'command':<14}{'seconds':>9}{'over bare':>11}{'aim':>8}")
        bare = 0.0
        for name, argv in COMMANDS.items():
            median = statistics.median(seconds(argv, folder) for _ in range(runs))
            bare = bare or median
            aim = f"{AIMS[name]:.1f}" if name in AIMS else "-"
            print(f"{name:<14}{median:>9.3f}{median - bare:>11.3f}{aim:>8}")
        found = against_imports(runs, folder)
        print(
            f"\n{' '.join(LARGE[2:])}: {found['cost']:.3f} s of processor time, {found['imports']:.3f} s the imports:"
            f" {found['ratio']:.2f}x (aim {RATIO}x); {found['resident']:.0f} MB resident (aim {RESIDENT})"
        )
        for name in ("cost", "build"):
            shown = ", ".join(f"{package} {ms:.0f}" for ms, package in slowest_imports(COMMANDS[name], folder, 8))
            print(f"\nimports of {name}, ms (traced, so slower than they are): {shown}")


if __name__ == "__main__":
    main()
