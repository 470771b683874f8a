"""Generated C++ of the boundary between two sub-layers of mHC, against PyTorch op by op: ``python -m bench.rows``.

One thread, float32, four streams, 20 rounds of Sinkhorn. Both sides take turns in one process and allocate what they
give, C++ as a package does; times are of the processor, the least of many. The C library is told to keep what is freed
(`MALLOC_...`, set before the process starts): else most of what PyTorch takes at 512 tokens are page faults of fresh
memory. Forward is inference. A step of training is forward, with what the gradient needs, and backward to every input
and parameter.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from archc.emit.kernels import CARRIED, HEADER, cpp, kernels
from archc.rows.kernel import Kernel
from archc.rows.value import Row
from kernels.arrays import Array
from kernels.fused import Fused
from tests.rows.boundary import boundary, reference

KEPT = str(1 << 32)
MEMORY = {"MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT, "MALLOC_TOP_PAD_": str(1 << 28)}
"""How the C library keeps memory that was freed."""

SETTINGS = {**MEMORY, "ARCHC_KERNELS": "cpp"}

STREAMS, ROUNDS = 4, 20
GOALS = {(4096, 1): 8.0, (4096, 64): 3.0, (4096, 512): 3.0, (7168, 1): 5.0, (7168, 64): 2.5, (7168, 512): 2.5}
"""How many times as fast as PyTorch the forward is meant to be, by width and number of tokens."""


def eager(*takes: Tensor) -> list[Tensor]:
    """The boundary op by op."""
    return list(reference(*takes, rounds=ROUNDS).values())


eager.__module__ = "bench.rows"  # Operators are registered under its package; `-m` calls it __main__


def function(kernel: Kernel, folder: Path) -> Fused:
    """The function of a package with this kernel and its gradient, whose C++ is written to a folder."""
    made = kernels(kernel, list(kernel.takes), 1, {})
    assert made.backward is not None
    path = folder / f"{kernel.name}.cpp"
    path.write_text(cpp(made) or "")
    (folder / HEADER).write_text(CARRIED)

    def arrays(some: Mapping[str, Row]) -> dict[str, Array]:
        every = {**kernel.takes, **made.training.gives}
        dims = {n: (*every[n].streams, *[kernel.width] * every[n].row) for n in some}
        return {n: Array(dims[n], kernel.format(n) == "act", once=not every[n].token) for n in some}

    return Fused(
        kernel.name,
        eager,
        lead=1,
        tokens="streams",
        takes=arrays(kernel.takes),
        gives=arrays(kernel.gives),
        saved=arrays(made.saved),
        backward=list(made.backward.takes),
        learns=made.learns,
        alike=made.alike,
        cpp=path,
    )


def least(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The least time of each side, in seconds of the processor; they take turns for about so long."""
    found = dict.fromkeys(sides, float("inf"))
    end, rounds = time.monotonic() + seconds, 0
    while rounds < 4 or time.monotonic() < end:
        for name, run in sides.items():
            begin = time.process_time()
            run()
            found[name] = min(found[name], time.process_time() - begin)
        rounds += 1
    return found


def compare(width: int, tokens: list[int], seconds: float, folder: Path) -> None:
    """Prints the rows of a width."""
    kernel = boundary(STREAMS, width, ROUNDS)._replace(name=f"boundary_{width}")
    ours = function(kernel, folder)
    if ours.runner("cpp", torch.float32) is None:
        sys.exit("no C++ compiler")

    for T in tokens:
        dims = {n: ([T] * v.token, v.streams, [width] * v.row) for n, v in kernel.takes.items()}
        takes = [torch.randn([*chain(*d)]) * (0.02 if n == "fn" else 1) for n, d in dims.items()]
        leaves = [x.clone().requires_grad_() for x in takes]
        upstream = [torch.randn_like(x) for x in eager(*takes)]

        def trains(
            run: Callable[..., Sequence[Tensor]],
            leaves: list[Tensor] = leaves,
            upstream: list[Tensor] = upstream,
        ) -> None:
            torch.autograd.grad(run(*leaves), leaves, upstream)

        sides = {"C++": ours, "PyTorch": eager}
        with torch.no_grad():
            times = least({n: partial(run, *takes) for n, run in sides.items()}, seconds)
        times |= least({f"train {n}": partial(trains, run) for n, run in sides.items()}, seconds)
        ms = "  ".join(f"{t * 1e3:9.3f}" for t in times.values())
        faster, trained_faster = times["PyTorch"] / times["C++"], times["train PyTorch"] / times["train C++"]
        goal = f"{GOALS[width, T]:g}" if (width, T) in GOALS else "-"
        print(f"{width:6} {T:6}  {ms}  {faster:6.1f} {goal:>5} {trained_faster:6.1f}", flush=True)


def main() -> None:
    """Prints a table of milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, nargs="+", default=[4096, 7168])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each pair of sides")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "bench.rows", *sys.argv[1:]],
            {**os.environ, **SETTINGS},
        )
    torch.set_num_threads(1)
    print("              forward, ms           train, ms             PyTorch / C++")
    print(" width tokens        C++    PyTorch        C++    PyTorch  forward goal  train")
    with tempfile.TemporaryDirectory(prefix="archc-bench-") as folder:
        for width in options.width:
            compare(width, options.tokens, options.seconds, Path(folder))


if __name__ == "__main__":
    main()
