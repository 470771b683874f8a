"""Stores give back what a plain list of tokens would, for any chunking, ragged rows and rewinding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.graph.torch_package import torch_package

torch_package()
from archc_package.kernels.state import Ring, Table, append, recall  # noqa: E402
from archc_package.runtime.cache import Cache  # noqa: E402
from archc_package.runtime.time import Time  # noqa: E402

CPU = torch.device("cpu")
MAX_TOKENS, MAX_REWIND = 40, 5


def clock(cache: Cache, counts: list[int], new: int) -> Time:
    """The time of counts[b] new tokens in `new` columns after what the cache holds."""
    return Time(
        first=cache.lengths,
        count=torch.tensor(counts),
        positions=cache.lengths[:, None] + torch.arange(new),
        past=max(cache.known),
        new=new,
        cached=True,
        aligned=min(cache.known) == max(cache.known),
        full=min(counts) == new,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[str, list[int]]]]:
    """A batch size, and steps that write counts[b] tokens to each row or take some back."""
    batch = draw(st.integers(1, 3))
    ragged = draw(st.booleans())
    steps: list[tuple[str, list[int]]] = []
    lengths, reach = [0] * batch, [0] * batch
    for _ in range(draw(st.integers(1, 7))):
        if max(lengths) and draw(st.booleans()):
            room = [min(length, MAX_REWIND, length - low) for length, low in zip(lengths, reach, strict=True)]
            one = draw(st.integers(0, min(room)))
            back = [draw(st.integers(0, n)) for n in room] if ragged else [one] * batch
            steps.append(("rewind", back))
            lengths = [length - k for length, k in zip(lengths, back, strict=True)]
            continue
        most = min(12, MAX_TOKENS - max(lengths))
        one = draw(st.integers(0, most))
        counts = [draw(st.integers(0, most)) for _ in range(batch)] if ragged else [one] * batch
        steps.append(("write", counts))
        lengths = [length + n for length, n in zip(lengths, counts, strict=True)]
        reach = [max(low, length - MAX_REWIND) for low, length in zip(reach, lengths, strict=True)]
    return batch, steps


@given(histories(), st.integers(0, 9), st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=300, deadline=None)
def test_stores_remember_what_a_list_would(
    history: tuple[int, list[tuple[str, list[int]]]], keep: int, every: int
) -> None:
    batch, steps = history
    keeps = {
        "tokens": Table(every=1, shape=(2,)),
        "entries": Table(every=every, shape=()),
        "window": Ring(keep=keep, shape=(2,)),
    }
    cache = Cache([keeps], batch, MAX_TOKENS, MAX_REWIND, dtype=torch.float32, device=CPU)
    state = cache.layers[0]
    lists: list[list[float]] = [[] for _ in range(batch)]
    stamp = 0.0
    for action, numbers in steps:
        if action == "rewind":
            cache.rewind(torch.tensor(numbers))
            lists = [row[: len(row) - k] for row, k in zip(lists, numbers, strict=True)]
            continue
        new = max(1, *numbers)
        x = torch.full((batch, new, 2), float("nan"))  # padding must reach nothing that is valid
        for b, n in enumerate(numbers):
            for j in range(n):
                stamp += 1
                x[b, j] = stamp
                lists[b].append(stamp)
        time = clock(cache, numbers, new)
        before = [len(row) - n for row, n in zip(lists, numbers, strict=True)]

        recent = recall(x, state.window, time)
        assert recent.shape == (batch, keep + new, 2)
        for b, row in enumerate(lists):
            for r in range(keep + numbers[b]):
                slot = before[b] - keep + r
                if slot >= 0:
                    assert recent[b, r, 1] == row[slot]

        ends = torch.full((batch, -(-new // every)), -9.0)
        for b, row in enumerate(lists):
            closing = row[before[b] // every * every + every - 1 :: every]
            ends[b, : len(closing)] = torch.tensor(closing)
        entries = append(ends, state.entries, time, every=every)
        tokens = append(x, state.tokens, time)
        for b, row in enumerate(lists):
            assert tokens[b, : len(row), 0].tolist() == row
            assert entries[b, : len(row) // every].tolist() == row[every - 1 :: every]
        cache.advance(time.count, numbers)
    assert cache.lengths.tolist() == [len(row) for row in lists] == cache.known


def test_a_full_row_without_new_tokens_stays_as_it_is() -> None:
    """While another row goes on, a row that has no room left writes nothing, not even padding."""
    cache = Cache([{"all": Table(every=1, shape=())}], 2, 4, 0, dtype=torch.float32, device=CPU)
    for counts, x in (([4, 2], [[1.0, 2, 3, 4], [1, 2, 0, 0]]), ([0, 2], [[9.0, 9], [3, 4]])):
        time = clock(cache, counts, len(x[0]))
        tokens = append(torch.tensor(x), cache.layers[0].all, time)
        cache.advance(time.count, counts)
    assert tokens.tolist() == [[1, 2, 3, 4]] * 2


def test_without_a_cache_nothing_is_kept_or_copied() -> None:
    x = torch.randn(2, 7, 3, requires_grad=True)
    time = Time(
        first=torch.zeros(2, dtype=torch.long),
        count=torch.full((2,), 7),
        positions=torch.arange(7).expand(2, 7),
        past=0,
        new=7,
        cached=False,
        aligned=True,
        full=True,
    )
    assert append(x, None, time) is x
    assert recall(x, None, time) is x


def test_new_tokens_keep_their_gradient_in_a_window_and_caches_keep_none() -> None:
    ring = {"kept": Ring(keep=2, shape=(3,)), "all": Table(every=1, shape=(3,))}
    cache = Cache([ring], 1, 10, 0, dtype=torch.float32, device=CPU)
    for _ in range(2):
        x = torch.randn(1, 4, 3, requires_grad=True)
        time = clock(cache, [4], 4)
        recall(x, cache.layers[0].kept, time).sum().backward()
        assert x.grad is not None and bool((x.grad == 1).all())
        append(x, cache.layers[0].all, time)
        cache.advance(time.count, [4])
    assert not any(store.data.requires_grad for store in vars(cache.layers[0]).values())


def test_a_narrower_cache_reads_the_same_whatever_the_chunking() -> None:
    """What is new must be rounded as what is old, or chunks of a prompt would change its result."""
    x = torch.randn(1, 6, 3)
    keeps = {"kept": Ring(keep=5, shape=(3,)), "all": Table(every=1, shape=(3,))}
    seen = []
    for chunks in ([6], [1] * 6):
        cache = Cache([keeps], 1, 8, 0, dtype=torch.bfloat16, device=CPU)
        at = 0
        for n in chunks:
            time = clock(cache, [n], n)
            window = recall(x[:, at : at + n], cache.layers[0].kept, time)
            table = append(x[:, at : at + n], cache.layers[0].all, time)
            cache.advance(time.count, [n])
            at += n
        assert window.dtype == table.dtype == torch.float32
        seen.append((window[:, -6:], table))
    for whole, chunked in zip(*seen, strict=True):
        assert torch.equal(whole, chunked)
        assert torch.equal(whole, x.to(torch.bfloat16).float())


def cache_of(keeps: dict[str, Ring | Table], batch: int = 2, **kwargs: Any) -> Cache:
    return Cache([keeps], batch, kwargs.pop("max_tokens", 30), dtype=torch.bfloat16, device=CPU, **kwargs)


def grow(cache: Cache, n: int) -> None:
    """Makes `n` tokens part of every row."""
    cache.advance(torch.full((cache.batch,), n), [n] * cache.batch)


def test_bytes_are_those_of_every_tensor() -> None:
    keeps = {
        "a": Ring(keep=6, shape=(3, 4)),
        "b": Table(every=4, shape=(5,)),
        "c": Ring(keep=100, shape=(2,), dtype="fp32"),
    }
    cache = cache_of(keeps, batch=2, max_tokens=30, max_rewind=8)
    per_row = (6 + 8) * 12 * 2 + (30 // 4) * 5 * 2 + 30 * 2 * 4 + 8
    assert cache.bytes() == 2 * per_row


def test_rewinding_refuses_what_it_cannot_do_and_changes_nothing() -> None:
    cache = cache_of({"kept": Ring(keep=4, shape=())}, max_rewind=3)
    grow(cache, 2)
    with pytest.raises(ValueError, match="row 0: it has 2"):
        cache.rewind(3)
    grow(cache, 18)
    for bad in (4, -1, [0, 4], torch.tensor([4, 0])):
        with pytest.raises(ValueError, match="max_rewind=3"):
            cache.rewind(bad)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        cache.rewind([1, 1, 1])
    assert cache.lengths.tolist() == [20, 20]
    cache.rewind([3, 1])
    assert cache.lengths.tolist() == cache.known == [17, 19]
    with pytest.raises(ValueError, match="row 0"):  # the window of row 0 has already been used up
        cache.rewind([1, 2])
    cache.rewind([0, 2])
    assert cache.lengths.tolist() == [17, 17]


def test_a_table_can_be_rewound_as_often_as_one_likes() -> None:
    cache = cache_of({"keys": Table(every=1, shape=())}, max_rewind=3)
    grow(cache, 20)
    for _ in range(6):
        cache.rewind(3)
    assert cache.lengths.tolist() == [2, 2]


def test_crop_keeps_the_first_tokens() -> None:
    cache = cache_of({"kept": Ring(keep=4, shape=())}, max_rewind=3)
    grow(cache, 20)
    cache.rewind([0, 2])
    with pytest.raises(ValueError, match="17 tokens on"):
        cache.crop(16)
    cache.crop(19)
    assert cache.lengths.tolist() == [19, 18]
    cache.crop(0)  # nothing is needed of an empty row
    assert cache.lengths.tolist() == [0, 0]
    grow(cache, 2)
    cache.rewind(1)
    assert cache.lengths.tolist() == [1, 1]


def test_reorder_moves_rows_with_all_they_hold() -> None:
    cache = cache_of({"keys": Table(every=1, shape=())}, batch=3)
    cache.layers[0].keys.data.copy_(torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 30))
    cache.advance(torch.tensor([1, 2, 3]), [1, 2, 3])
    cache.reorder(torch.tensor([2, 0, 0]))
    assert cache.layers[0].keys.data[:, 0].tolist() == [2.0, 0.0, 0.0]
    assert cache.lengths.tolist() == cache.known == [3, 1, 1]
    with pytest.raises(ValueError, match="3 rows"):
        cache.reorder(torch.tensor([0, 1, 3]))


@pytest.mark.parametrize("sizes", [(0, 4, 1), (1, 0, 1), (1, 4, -1)])
def test_a_cache_of_impossible_size_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a cache needs"):
        Cache([], *sizes, dtype=torch.float32, device=CPU)
