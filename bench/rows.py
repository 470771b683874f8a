"""Generated C++ of the boundary between two sub-layers of mHC, against PyTorch op by op: ``python -m bench.rows``.

One thread, float32, four streams, 20 rounds of Sinkhorn. Both sides take turns in one process and allocate what they
give; times are of the processor, the least of many. The C library is told to keep what is freed (`MALLOC_...`, set
before the process starts): else most of what PyTorch takes at 512 tokens are page faults of fresh memory. Forward is
inference. A step of training is forward, with what the gradient needs, and backward to every input and parameter.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from archc.rows.cpp import translation_unit
from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.value import Row
from kernels import native
from tests.rows.boundary import boundary, reference

KEPT = str(1 << 32)
MEMORY = {"MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT, "MALLOC_TOP_PAD_": str(1 << 28)}
"""How the C library keeps memory that was freed."""

STREAMS, ROUNDS = 4, 20
GOALS = {(4096, 1): 8.0, (4096, 64): 3.0, (4096, 512): 3.0, (7168, 1): 5.0, (7168, 64): 2.5, (7168, 512): 2.5}
"""How many times as fast as PyTorch the forward is meant to be, by width and number of tokens."""


class Native:
    """A kernel of a library, called as a package calls it."""

    def __init__(self, library: ctypes.CDLL, kernel: Kernel) -> None:
        self.kernel, self.run = kernel, getattr(library, kernel.name)
        self.run.argtypes = [ctypes.c_void_p] * (len(kernel.takes) + len(kernel.gives)) + [ctypes.c_int64]

    def shape(self, value: Row, tokens: int) -> tuple[int, ...]:
        """The dims of a value in memory."""
        return (*[tokens] * value.token, *value.streams, *[self.kernel.width] * value.row)

    def __call__(self, given: Mapping[str, Tensor], tokens: int) -> dict[str, Tensor]:
        gives = {
            name: (torch.empty if v.token else torch.zeros)(self.shape(v, tokens))
            for name, v in self.kernel.gives.items()
        }
        takes = (given[name] for name in self.kernel.takes)
        self.run(*(x.data_ptr() for x in (*takes, *gives.values())), tokens)
        return gives


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


def compare(width: int, tokens: list[int], seconds: float) -> None:
    """Prints the rows of a width."""
    kernel = boundary(STREAMS, width, ROUNDS)
    forward, backward = trained(kernel, list(kernel.takes), kept=("mixed",))
    some = [optimised(kernel)._replace(name="inference"), forward, backward]
    library = native.load(translation_unit(some), "boundary", "-DACT=float")
    if library is None:
        sys.exit("no C++ compiler")
    infer, fore, back = (Native(library, k) for k in some)
    for T in tokens:
        given = {n: torch.randn(infer.shape(v, T)) * (0.02 if n == "fn" else 1) for n, v in kernel.takes.items()}
        made = fore(given, T)
        upstream = {f"grad_{name}": torch.randn_like(x) for name, x in made.items()}
        have = {**given, **made, **upstream}
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}

        def eager(given: Mapping[str, Tensor] = given) -> dict[str, Tensor]:
            with torch.no_grad():
                return reference(**given, rounds=ROUNDS)

        def trains(have: Mapping[str, Tensor] = have, T: int = T) -> None:
            fore(have, T)
            back(have, T)

        def trains_eager(leaves: Mapping[str, Tensor] = leaves, upstream: Mapping[str, Tensor] = upstream) -> None:
            gives = reference(**leaves, rounds=ROUNDS)
            torch.autograd.grad(
                list(gives.values()), list(leaves.values()), [upstream[f"grad_{name}"] for name in gives]
            )

        times = least({"C++": lambda: infer(given, T), "PyTorch": eager}, seconds)  # noqa: B023
        times |= {f"train {n}": t for n, t in least({"C++": trains, "PyTorch": trains_eager}, seconds).items()}
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
    if any(name not in os.environ for name in MEMORY):
        os.execve(sys.executable, [sys.executable, "-m", "bench.rows", *sys.argv[1:]], {**os.environ, **MEMORY})
    torch.set_num_threads(1)
    print("              forward, ms           train, ms             PyTorch / C++")
    print(" width tokens        C++    PyTorch        C++    PyTorch  forward goal  train")
    for width in options.width:
        compare(width, options.tokens, options.seconds)


if __name__ == "__main__":
    main()
