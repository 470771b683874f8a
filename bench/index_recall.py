"""What a search in two stages finds of what a flat index finds: ``python -m bench.index_recall`` prints the tables of
docs/attention.md.

One token after 32,767 others, with 64 heads of 128 channels, picks 2,048 (the sizes of DeepSeek-V3.2). Keys are made
up: independent of each other; correlated along the row; or independent but for 24 stretches of 32 to 192 tokens that
share a direction with all index heads, about as many tokens as are picked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from archc.graph.torch_package import torch_package
from kernels.block_means import block_means
from kernels.index_topk import index_topk
from kernels.state import Clock
from kernels.two_stage_topk import two_stage_topk

TOKENS, CHANNELS, HEADS, PICKS, DRAWS = 1 << 15, 128, 64, 2048, 16
BUDGETS = ((128, (16, 32, 64, 128)), (32, (64, 128, 256, 512)), (8, (256, 512, 1024, 2048)))
"""Entries of a block, and blocks that are kept: 2,048, 4,096, 8,192 and 16,384 entries."""

Drawn = tuple[Tensor, Tensor, Tensor]
"""Queries [1, 1, H, D], keys [1, T, D], weights [1, 1, H]."""


def independent(r: torch.Generator) -> Drawn:
    """Nothing to find: the best keys are anywhere."""
    keys = torch.randn(1, TOKENS, CHANNELS, generator=r)
    return torch.randn(1, 1, HEADS, CHANNELS, generator=r), keys, torch.randn(1, 1, HEADS, generator=r)


def correlated(r: torch.Generator) -> Drawn:
    """A key resembles those before it: correlation 1 / e after 64 tokens."""
    q, noise, weights = independent(r)
    rho = math.exp(-1 / 64)
    keys = noise.clone()
    for t in range(1, TOKENS):
        keys[:, t] = rho * keys[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return q, keys, weights


def stretches(r: torch.Generator) -> Drawn:
    """What is looked for stands together, at some places of the row."""
    q, keys, weights = independent(r)
    way = torch.randn(CHANNELS, generator=r)
    way /= way.norm()
    for _ in range(24):
        count = int(torch.randint(32, 193, (), generator=r))
        start = int(torch.randint(0, TOKENS - count, (), generator=r))
        keys[0, start : start + count] += 4 * way
    return q / 2 + 2 * way, keys, weights.abs()


def clock(past: int, new: int) -> Clock:
    """New tokens of one row after old ones."""
    first = torch.tensor([past])
    return import_module(f"{torch_package().__name__}.runtime.time").Time(
        first=first,
        count=torch.tensor([new]),
        positions=first[:, None] + torch.arange(new),
        past=past,
        new=new,
        cached=past > 0,
        aligned=True,
        full=True,
    )


def recall(make: Callable[[torch.Generator], Drawn]) -> list[list[float]]:
    """The share of the flat index's picks that are found, by size of a block and budget; the mean over draws."""
    last, whole = clock(TOKENS - 1, 1), clock(0, TOKENS)
    found = [[0.0] * len(keeps) for _, keeps in BUDGETS]
    for seed in range(DRAWS):
        q, keys, weights = make(torch.Generator().manual_seed(seed))
        flat = set(index_topk(q, keys, weights, last, k=PICKS).flatten().tolist())
        for row, (block, keeps) in zip(found, BUDGETS, strict=True):
            means = block_means(keys, whole, block=block)
            for i, keep in enumerate(keeps):
                picks = two_stage_topk(q, keys, means, weights, last, k=PICKS, block=block, keep=keep)
                row[i] += len(flat & set(picks.flatten().tolist())) / len(flat) / DRAWS
    return found


def seconds(run: Callable[[], Tensor]) -> float:
    """The quickest of nine runs."""
    took = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took)


def searches(tokens: int) -> tuple[float, float]:
    """Seconds of one token's search among so many, flat and in two stages of 64 blocks of 128."""
    q, weights = torch.randn(1, 1, HEADS, CHANNELS), torch.randn(1, 1, HEADS)
    keys, last = torch.randn(1, tokens, CHANNELS), clock(tokens - 1, 1)
    means = block_means(keys, clock(0, tokens), block=128)
    return (
        seconds(lambda: index_topk(q, keys, weights, last, k=PICKS)),
        seconds(lambda: two_stage_topk(q, keys, means, weights, last, k=PICKS, block=128, keep=64)),
    )


def main() -> None:
    torch.set_num_threads(1)
    print("| keys | entries of a block | " + " | ".join(f"{2048 << i:,}" for i in range(4)) + " |")
    for make in (independent, correlated, stretches):
        for (block, _), row in zip(BUDGETS, recall(make), strict=True):
            print(f"| {make.__name__} | {block} | " + " | ".join(f"{100 * x:.0f} %" for x in row) + " |")
    print("| context | flat | two stages |")
    for tokens in (1 << 15, 1 << 17):
        print(f"| {tokens:,} | " + " | ".join(f"{1e3 * took:.1f} ms" for took in searches(tokens)) + " |")


if __name__ == "__main__":
    main()
