"""Laws that every generated language model obeys, as functions of a model and of hypothesis' choices.

However its tokens reach a model, each gets the logits that one pass over its own sequence gives it. Models are float64,
so that what differs is more than rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

COLUMNS = 30
REWIND = 5


def chunking(model: Any, vocab: int, data: st.DataObject) -> None:
    """Any prefill in chunks, down to single tokens, gives the logits of one pass."""
    ids = _ids(vocab, data)
    cache = model.new_cache(*ids.shape)
    sizes = _pieces(data, ids.shape[1])
    got = torch.cat([_logits(model, chunk, cache=cache) for chunk in ids.split(sizes, 1)], 1)
    _same(got, _logits(model, ids), f"chunks of {sizes}")
    assert cache.lengths.tolist() == [ids.shape[1]] * len(ids)


def padding(model: Any, vocab: int, data: st.DataObject) -> None:
    """Padding on the left, on the right or anywhere changes no token's logits."""
    ids = _ids(vocab, data)
    rows, columns = ids.shape
    side = data.draw(st.sampled_from(["left", "right", "anywhere"]))
    counts = torch.tensor([data.draw(st.integers(1, columns)) for _ in range(rows)])[:, None]
    column = torch.arange(columns).expand(rows, -1)
    if side == "anywhere":
        column = torch.stack([_permutation(data, columns) for _ in range(rows)])
    mask = column >= columns - counts if side == "left" else column < counts
    got = _logits(model, ids, attention_mask=mask.long())
    for row in range(rows):
        alone = _logits(model, ids[row, mask[row]][None])[0]
        _same(got[row, mask[row]], alone, f"{side} padding of row {row}")


def packing(model: Any, vocab: int, data: st.DataObject) -> None:
    """Packed sequences do not meet: each is as if it were alone, padding between and around them or not."""
    ids = _ids(vocab, data)
    sequences = torch.zeros_like(ids)
    spans = []
    for row in range(len(ids)):
        at = 0
        for number, size in enumerate(_pieces(data, ids.shape[1]), 1):
            if data.draw(st.integers(0, 4)):
                sequences[row, at : at + size] = number
                spans.append((row, at, at + size))
            at += size
    got = _logits(model, ids, sequence_ids=sequences)
    for row, start, stop in spans:
        _same(got[row, start:stop], _logits(model, ids[row, None, start:stop])[0], f"{start}..{stop} of row {row}")


def rewinding(model: Any, vocab: int, data: st.DataObject) -> None:
    """Tokens that were taken back leave no trace."""
    ids = _ids(vocab, data)
    want = _logits(model, ids)
    rows, columns = ids.shape
    cache = model.new_cache(rows, columns + REWIND, max_rewind=REWIND)
    at = 0
    while at < columns:
        size = data.draw(st.integers(1, columns - at))
        _same(_logits(model, ids[:, at : at + size], cache=cache), want[:, at : at + size], f"{size} tokens at {at}")
        at += size
        wrong = data.draw(st.integers(0, REWIND))
        if wrong:
            _logits(model, _ids(vocab, data, rows, wrong), cache=cache)
            cache.rewind(wrong)


def rows_apart(model: Any, vocab: int, data: st.DataObject) -> None:
    """A permuted batch gives permuted rows: rows do not see each other."""
    ids = _ids(vocab, data)
    order = _permutation(data, len(ids))
    _same(_logits(model, ids[order]), _logits(model, ids)[order], f"rows in the order {order.tolist()}")


def causality(model: Any, vocab: int, data: st.DataObject) -> None:
    """A token changes nothing before it, and something at it."""
    ids = _ids(vocab, data)
    at = data.draw(st.integers(0, ids.shape[1] - 1))
    other = ids.clone()
    other[:, at:] = (ids[:, at:] + 1) % vocab
    before, after = _logits(model, ids), _logits(model, other)
    _same(after[:, :at], before[:, :at], f"tokens before {at}")
    assert not torch.allclose(after[:, at], before[:, at])


def truncation(model: Any, vocab: int, data: st.DataObject) -> None:
    """The beginning of a row is the row of its beginning."""
    ids = _ids(vocab, data)
    length = data.draw(st.integers(1, ids.shape[1]))
    _same(_logits(model, ids[:, :length]), _logits(model, ids)[:, :length], f"the first {length} tokens")


LAWS = (truncation, chunking, padding, packing, rewinding, rows_apart, causality)


@torch.no_grad()
def _logits(model: Any, ids: Tensor, **given: Any) -> Tensor:
    return model(ids, **given).logits


def _same(got: Tensor, want: Tensor, what: str) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10, msg=lambda text: f"{what}: {text}")


def _ids(vocab: int, data: st.DataObject, rows: int | None = None, columns: int | None = None) -> Tensor:
    rows = rows or data.draw(st.integers(1, 3))
    columns = columns or data.draw(st.integers(2, COLUMNS))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    return torch.randint(vocab, (rows, columns), generator=generator)


def _pieces(data: st.DataObject, total: int) -> list[int]:
    """Sizes of at least 1 that add up."""
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(data.draw(st.integers(1, min(9, total - sum(sizes)))))
    return sizes


def _permutation(data: st.DataObject, n: int) -> Tensor:
    return torch.tensor(data.draw(st.permutations(range(n))))
