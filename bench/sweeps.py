"""Variants of a sweep a second, by process time on one core: ``python -m bench.sweeps``.

Sweeps of DeepSeek-V3 and V4-Flash over experts x active x hidden x layers (1,000 variants), and over the experts
alone, where every variant plans feed-forwards of its own.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from archc.cost.sweep import variants
from archc.resolve.family import Family
from tests.cost.test_sweep import SWAPS, spec

AIM = 200
SWEPT = {
    "four params": {
        "n_experts": [64, 96, 128, 192, 256, 320, 384, 512],
        "n_active": [4, 6, 8, 12, 16],
        "n_hidden": [512, 1024, 1536, 2048, 3072],
        "n_layers": [10, 15, 20, 25, 30],
    },
    "experts alone": {"n_experts": list(range(64, 4064, 8))},
}


def main() -> None:
    """Prints the table."""
    print(f"{'spec':<20}{'sweep':<16}{'variants':>9}{'a second':>10}{'aim':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for name in SWAPS:
            path = spec(Path(folder), name)
            for what, values in SWEPT.items():
                started = time.process_time()
                done = list(variants(Family(path), values, {}))
                rate = len(done) / (time.process_time() - started)
                print(f"{name:<20}{what:<16}{len(done):>9,}{rate:>10,.0f}{AIM:>6}")


if __name__ == "__main__":
    main()
