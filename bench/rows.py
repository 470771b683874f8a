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
import time
from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import Tensor

from archc.emit.kernels import CARRIED, HEADER, cpp, kernels
from archc.rows.kernel import Kernel
from archc.rows.value import Row
from kernels import native
from kernels.arrays import Array, Layout
from kernels.runners import Native
from tests.rows.boundary import boundary, reference

KEPT = str(1 << 32)
MEMORY = {"MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT, "MALLOC_TOP_PAD_": str(1 << 28)}
"""How the C library keeps memory that was freed."""

STREAMS, ROUNDS = 4, 20
GOALS = {(4096, 1): 8.0, (4096, 64): 3.0, (4096, 512): 3.0, (7168, 1): 5.0, (7168, 64): 2.5, (7168, 512): 2.5}
"""How many times as fast as PyTorch the forward is meant to be, by width and number of tokens."""


def runner(kernel: Kernel) -> Native | None:
    """What runs a kernel and its gradient in a package, in float32; None without a compiler."""
    made = kernels(kernel, list(kernel.takes), 1, {})
    text = cpp(made)
    assert text is not None
    assert made.backward is not None
    library = native.load(text.replace(f'#include "{HEADER}"\n', CARRIED), kernel.name, "-DACT=float")

    def arrays(some: Mapping[str, Row]) -> dict[str, Array]:
        every = {**kernel.takes, **made.training.gives}
        dims = {n: (*every[n].streams, *[kernel.width] * every[n].row) for n in some}
        return {n: Array(dims[n], kernel.format(n) == "act", once=not every[n].token) for n in some}

    layout = Layout(
        1,
        "streams",
        arrays(kernel.takes),
        arrays(kernel.gives),
        arrays(made.saved),
        list(made.backward.takes),
        made.learns,
        made.alike,
    )
    return None if library is None else Native(kernel.name, layout, torch.float32, library)


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
    ours = runner(kernel)
    if ours is None:
        sys.exit("no C++ compiler")
    layout = ours.layout
    for T in tokens:
        dims = {n: ([T] * v.token, v.streams, [width] * v.row) for n, v in kernel.takes.items()}
        given = {n: torch.randn([*chain(*d)]) * (0.02 if n == "fn" else 1) for n, d in dims.items()}
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
        takes = list(given.values())
        upstream = [torch.randn_like(x) for x in ours.forward(takes)]

        def eager(given: Mapping[str, Tensor] = given) -> None:
            with torch.no_grad():
                reference(**given, rounds=ROUNDS)

        def trains(takes: list[Tensor] = takes, upstream: list[Tensor] = upstream) -> None:
            every = [*takes, *ours.training(takes)]
            ours.backward([*(every[i] for i in layout.kept), *(upstream[i] for i in layout.upstream)])

        def trains_eager(leaves: Mapping[str, Tensor] = leaves, upstream: list[Tensor] = upstream) -> None:
            torch.autograd.grad(list(reference(**leaves, rounds=ROUNDS).values()), list(leaves.values()), upstream)

        times = least({"C++": lambda: ours.forward(takes), "PyTorch": eager}, seconds)  # noqa: B023
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
