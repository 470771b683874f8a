"""Measures the machine at hand with PyTorch: what the calls of a reference take, by kind and size.

Nothing here knows a model. Every figure is the median of several batches of runs, with fresh outputs as operations make
them, so that the system's handing out of memory is in it. On one thread the clock is that of the process, which other
processes do not stop; on several it is the wall's.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROWS, DEPTHS, WIDTHS = (1, 2, 4, 8, 16, 64, 256, 1024), (16, 64, 256, 1024, 4096), (16, 64, 256, 1024, 4096)
"""(m, k, n) of products: [m, k] by [k, n]."""
SMALL = (1, 4, 16, 64, 256, 1024)
"""m, k and n of batched products."""
LARGEST = 2.2e9
"""FLOPs of the largest product that is tried."""
QUERIES, KEYS, HEADS = (1, 8, 64, 256, 1024), (64, 256, 1024, 4096), (32, 64, 128, 256)
POOLS, COLD_ROWS = (4 << 20, 16 << 20, 64 << 20, 256 << 20, 512 << 20), (1, 4, 16)
SWEPT = (0, 4 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20)
"""Bytes of weights read before some small calls."""
SIZES = (1 << 8, 1 << 12, 1 << 15, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 3 << 26)
"""Bytes that a call reads and writes."""

LONG = 0.1
"""Seconds from which on one run says enough."""

Steps = Callable[[str], None]


class Clock:
    """Seconds of a function: the median of ``batches`` of as many runs as fill ``least`` seconds."""

    def __init__(self, threads: int, *, least: float = 1.5e-3, batches: int = 3) -> None:
        self.now = time.process_time if threads == 1 else time.perf_counter
        self.name = "cpu" if threads == 1 else "wall"
        self.least, self.batches = least, batches

    def __call__(self, run: Callable[[], Any]) -> float:
        run()
        once = max(self._batch(run, 1), 1e-7)
        if once > LONG:
            return once
        times = max(1, round(self.least / once))
        return statistics.median(self._batch(run, times) for _ in range(self.batches))

    def _batch(self, run: Callable[[], Any], times: int) -> float:
        begun = self.now()
        for _ in range(times):
            run()
        return (self.now() - begun) / times


@torch.no_grad()
def calibrate(threads: int | None = None, tell: Steps = lambda _: None) -> dict[str, Any]:
    """All figures of this machine at a number of threads (PyTorch's own unless told), as plain data."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        clock = Clock(torch.get_num_threads())
        _settle()
        found: dict[str, Any] = {"threads": torch.get_num_threads(), "clock": clock.name}
        for name, part in PARTS.items():
            tell(name)
            found[name] = part(clock)
        return found | {"cpu": _processor(), "torch": torch.__version__, "figures": figures(found)}
    finally:
        torch.set_num_threads(before)


def figures(found: dict[str, Any]) -> dict[str, float]:
    """What hardware is described by: memory, and the best rates of the calibration."""
    best = {name: max(2 * m * k * n / s for m, k, n, s in found["products"][name]) for name in FORMATS}
    fresh = max(moved / s for moved, s in found["moves"]["update"] if moved > 1 << 25)
    read = max(1 / s for pool, m, s in found["cold"]["fp32"] if m == 1 and pool > 1 << 25)
    return {
        "memory": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "bandwidth": max(fresh, read),
        "fp32": best["fp32"],
        "bf16": best["bf16"],
        "launch": found["swept"][0][1],
    }


def _processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _settle() -> None:
    """Brings the allocator to where it is in a process that has run a model: pages touched, freed blocks kept.

    The GNU allocator gives blocks back to the system, and pages have to be made anew, until it has seen a block of
    their size freed; from 32 MiB on it always does.
    """
    for size in (1 << 28, (1 << 23) - (1 << 16)):
        for _ in range(2):
            torch.ones(size)


# --- products ------------------------------------------------------------------------------------
def products(clock: Clock) -> dict[str, list[list[float]]]:
    """Rows (m, k, n, seconds) by format: x [m, k] times the transpose of a weight [n, k]."""
    return {
        name: [[*s, clock(_product(*s, dtype))] for s in _shapes(ROWS, DEPTHS, WIDTHS)]
        for name, dtype in FORMATS.items()
    }


def _shapes(*axes: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    a, b, c = axes
    return ((m, k, n) for m in a for k in b for n in c if 2.0 * m * k * n <= LARGEST)


def _product(m: int, k: int, n: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    return lambda: F.linear(x, weight)


def batched(clock: Clock) -> dict[str, list[list[float]]]:
    """Rows (m, k, n, seconds of one of a batch) by format."""
    found: dict[str, list[list[float]]] = {}
    for name, dtype in FORMATS.items():
        rows = found[name] = []
        for m, k, n in _shapes(SMALL, SMALL[1:], SMALL[1:]):
            if max(m * k, k * n, m * n) > 1 << 18:
                continue
            batch = max(2, min(512, (1 << 20) // max(m * k, k * n, m * n)))
            x, y = torch.randn(batch, m, k).to(dtype), torch.randn(batch, k, n).to(dtype)
            rows.append([m, k, n, clock(lambda x=x, y=y: torch.bmm(x, y)) / batch])
    return found


def cold(clock: Clock) -> dict[str, list[list[float]]]:
    """Rows (bytes of a pool of weights, m, seconds a byte) by format: products of m rows with the weights of a pool in
    turn, so that all others were read since a weight was.
    """
    found: dict[str, list[list[float]]] = {}
    for name, dtype in FORMATS.items():
        rows = found[name] = []
        width = 1024
        one = torch.randn(width, width).to(dtype)
        size = one.numel() * one.element_size()
        weights = [one.clone() for _ in range(POOLS[-1] // size)]
        for pool in POOLS:
            part = weights[: max(1, pool // size)]
            for m in COLD_ROWS:
                x = torch.randn(m, width).to(dtype)

                def run(x: Tensor = x, part: list[Tensor] = part) -> None:
                    for weight in part:
                        F.linear(x, weight)

                rows.append([pool, m, clock(run) / (len(part) * size)])
    return found


def attention(clock: Clock) -> dict[str, list[list[float]]]:
    """Rows (queries, keys, channels, seconds of one head) by format, and of causal attention over as many keys."""
    found: dict[str, list[list[float]]] = {}
    for name, dtype in FORMATS.items():
        rows, causal = [], []
        for width in HEADS:
            for queries in QUERIES:
                for keys in KEYS:
                    if queries * keys * width <= 1 << 27:
                        rows.append([queries, keys, width, _attention(clock, queries, keys, width, dtype)])
            causal += [[n, n, width, _attention(clock, n, n, width, dtype, causal=True)] for n in (16, 64, 256, 1024)]
        found[name], found[f"{name}_causal"] = rows, causal
    return found


def _attention(clock: Clock, queries: int, keys: int, width: int, dtype: torch.dtype, *, causal: bool = False) -> float:
    heads = 8 if queries * keys * width <= 1 << 22 else 2
    q, k, v = (torch.randn(1, heads, n, width).to(dtype) for n in (queries, keys, keys))
    return clock(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)) / heads


# --- everything else -----------------------------------------------------------------------------
def moves(clock: Clock) -> dict[str, list[list[float]]]:
    """Rows (bytes read and written, seconds) by kind of call."""
    found = {kind: dict(_point(clock, make, size) for size in SIZES) for kind, make in KINDS.items()}
    return {kind: [[moved, seconds] for moved, seconds in points.items()] for kind, points in found.items()}


def _point(clock: Clock, make: Callable[[int], tuple[Callable[[], Any], float]], size: int) -> tuple[float, float]:
    run, moved = make(size)
    return moved, clock(run)


def _floats(n: int, width: int = 256) -> Tensor:
    return torch.randn(max(1, n // width), min(width, max(1, n)))


def _map(size: int) -> tuple[Callable[[], Any], float]:
    x, y = _floats(size // 12), _floats(size // 12)
    return lambda: x * y, 12 * x.numel()


def _update(size: int) -> tuple[Callable[[], Any], float]:
    x, y = _floats(size // 12), _floats(size // 12)
    y.fill_(1.0)
    return lambda: x.mul_(y), 12 * x.numel()


def _exp(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 8)
    return lambda: F.silu(x), 8 * x.numel()


def _softmax(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 8)
    return lambda: x.softmax(-1), 8 * x.numel()


def _reduce(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 4)
    return lambda: x.mean(-1, keepdim=True), 4 * x.numel() + 4 * len(x)


def _complex(size: int) -> tuple[Callable[[], Any], float]:
    x = torch.view_as_complex(torch.randn(max(1, size // 512), 1, 32, 2))
    turn = torch.view_as_complex(torch.randn(len(x), 1, 32, 2))
    return lambda: x * turn, 3 * 8 * x.numel()


def _cast(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 6)
    return lambda: x.to(torch.bfloat16), 6 * x.numel()


def _copy(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 8)
    return lambda: torch.cat((x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]), -1), 8 * x.numel()


def _fill(size: int) -> tuple[Callable[[], Any], float]:
    n = max(1, size // 4)
    return lambda: torch.zeros(n), 4 * n


def _rows(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 8)
    ids = torch.randperm(len(x))
    return lambda: x.index_select(0, ids), 8 * x.numel() + 8 * len(x)


def _pick(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 16)
    ids = torch.randint(x.shape[1], x.shape)
    return lambda: x.gather(-1, ids), 16 * x.numel()


def _bag(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(size // 4, 1024)
    if len(x) % 4:
        x = x[:1].expand(4, -1).contiguous()
    places, weights = torch.randperm(len(x)).view(-1, 4), torch.rand(len(x) // 4, 4)
    moved = 4 * x.numel() + 12 * places.numel() + x.numel()
    return lambda: F.embedding_bag(places, x, mode="sum", per_sample_weights=weights), moved


def _sort(size: int) -> tuple[Callable[[], Any], float]:
    x = _floats(min(size, 1 << 20) // 16)
    return lambda: x.sort(dim=-1, descending=True, stable=True), 16 * x.numel()


def _sort_long(size: int) -> tuple[Callable[[], Any], float]:
    x = torch.randint(256, (max(16, min(size, 1 << 22) // 24),))
    return lambda: x.sort(stable=True), 24 * x.numel()


def _topk(size: int) -> tuple[Callable[[], Any], float]:
    size = min(size, 1 << 20)
    x = torch.randint(1 << 60, (max(1, size // 8 // 512), min(512, max(8, size // 8))))
    return lambda: x.topk(x.shape[-1] // 8, -1), 8 * x.numel() + 2 * x.numel()


KINDS: dict[str, Callable[[int], tuple[Callable[[], Any], float]]] = {
    "map": _map,
    "update": _update,
    "exp": _exp,
    "softmax": _softmax,
    "reduce": _reduce,
    "complex": _complex,
    "cast": _cast,
    "copy": _copy,
    "fill": _fill,
    "rows": _rows,
    "pick": _pick,
    "bag": _bag,
    "sort": _sort,
    "sort_long": _sort_long,
    "topk": _topk,
}


class _Norm(nn.Module):
    """Ten small calls in the way modules and functions of a package run them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return _normed(x, self.weight, eps=1e-6)


class _Small(nn.Module):
    """What stands between the products of a layer: a norm, a gate, a rotation of heads."""

    CALLS = 10

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Norm(width)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        heads = self.norm(x).unflatten(-1, (-1, 64))
        return (_gated(heads, gate.unflatten(-1, (-1, 64))) + heads).flatten(-2)


def _normed(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    rstd = _mean_square(x).add_(eps).rsqrt_()
    return (x * rstd).mul_(weight)


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return F.silu(gate) * torch.cat((-right, left), -1)


def swept(clock: Clock) -> list[list[float]]:
    """Rows (bytes of weights read for each call, seconds of a call) of small calls between products.

    A product with weights from memory drives code and data of all else out of the caches; what follows pays for its
    return.
    """
    width = 1024
    weights = [torch.randn(width, width) for _ in range(SWEPT[-1] // (4 * width**2) * 4)]
    x, gate, small = torch.randn(1, 1, width), torch.randn(1, 1, width), _Small(width)
    rows = []
    for pool in SWEPT:
        count = pool // (4 * width**2)
        spent = []
        for i in range(40):
            for weight in (weights[(i * count + j) % len(weights)] for j in range(count)):
                F.linear(x, weight)
            begun = clock.now()
            small(x, gate)
            spent.append(clock.now() - begun)
        rows.append([max(1, pool / small.CALLS), statistics.median(spent) / small.CALLS])
    return rows


PARTS: dict[str, Callable[[Clock], Any]] = {
    "swept": swept,
    "moves": moves,
    "products": products,
    "batched": batched,
    "attention": attention,
    "cold": cold,
}
